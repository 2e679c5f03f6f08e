from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.cli.load import NoSuchApp, files_of_user, load
from perdure.errors import BadApp, BadSettings

HEAD = "from perdure import App, Object\n"
COUNTER = "class Counter(Object):\n    async def increment(self) -> int:\n        return 1\n"

Write = Callable[[str | Path, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file of the app; what is imported from there is forgotten with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name: str | Path, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(target: str) -> list[str]:
    return [cls.__name__ for cls in load(target).classes]


def test_a_file_without_an_app_serves_its_own_classes(write: Write) -> None:
    write("shared_lib_1.py", HEAD + "class Base(Object):\n    pass\n")
    write(
        "load_1.py",
        HEAD + "from shared_lib_1 import Base\n" + COUNTER + "class Room(Base): pass\n"
        "class _Hidden(Object): pass\nAlias = Counter\n",
    )
    loaded = load("load_1.py")
    assert [cls.__name__ for cls in loaded.classes] == ["Counter", "Room"]
    assert loaded.app is None
    assert loaded.classes[0].__module__ == "load_1"
    assert sys.modules["load_1"].Counter is loaded.classes[0]


def test_an_app_decides_what_is_served(write: Write) -> None:
    write("load_2.py", HEAD + COUNTER + "class Room(Object): pass\nsite = App([Room])\n")
    loaded = load("load_2.py")
    assert [cls.__name__ for cls in loaded.classes] == ["Room"]
    assert loaded.app is sys.modules["load_2"].site
    assert loaded.name == "load_2:site"


def test_a_module_and_a_name_in_it(write: Write) -> None:
    apps = "class Room(Object): pass\na = App([Room])\nb = App([Counter])\n"
    write("load_3.py", HEAD + COUNTER + apps)
    assert names("load_3:b") == ["Counter"]
    assert names("load_3:Room") == ["Room"]
    with pytest.raises(BadApp, match="several Apps") as caught:
        load("load_3")
    assert "load_3:a, load_3:b" in str(caught.value)


def test_of_several_apps_the_one_named_app_is_meant(write: Write) -> None:
    apps = "class R(Object): pass\nx = App([R])\napp = App([Counter])\n"
    write("load_4.py", HEAD + COUNTER + apps)
    assert names("load_4") == ["Counter"]


def test_a_file_and_a_name(write: Write) -> None:
    path = write("load_5.py", HEAD + COUNTER + "class R(Object): pass\n")
    assert names(f"{path}:R") == ["R"]


def test_a_list_of_classes(write: Write) -> None:
    write("load_6.py", HEAD + COUNTER + "served = [Counter]\n")
    assert names("load_6:served") == ["Counter"]


def test_a_file_in_a_package_has_its_full_name(write: Write) -> None:
    write(Path("shop_7", "__init__.py"), "")
    write(Path("shop_7", "parts.py"), "LIMIT = 3\n")
    path = write(Path("shop_7", "main.py"), HEAD + "from .parts import LIMIT\n" + COUNTER)
    assert load(str(path)).classes[0].__module__ == "shop_7.main"


def test_a_file_elsewhere_finds_its_neighbours(write: Write) -> None:
    write(Path("far", "neighbour_8.py"), "LIMIT = 3\n")
    write(Path("far", "load_8.py"), HEAD + "import neighbour_8\n" + COUNTER)
    assert names(str(Path("far", "load_8.py"))) == ["Counter"]


def test_a_file_that_is_not_there(write: Write) -> None:
    write("other.py", "")
    with pytest.raises(NoSuchApp, match=r"there is no file nosuch\.py") as caught:
        load("nosuch.py")
    assert "other.py" in str(caught.value)


def test_a_module_that_is_not_there(write: Write) -> None:
    write("load_9.py", HEAD + COUNTER)
    with pytest.raises(NoSuchApp, match="no module 'nosuch'"):
        load("nosuch.app")
    with pytest.raises(NoSuchApp, match="there is no file"):
        load("load_9.py.py")


def test_a_name_that_is_not_there_says_what_is(write: Write) -> None:
    write("load_10.py", HEAD + COUNTER + "app = App([Counter])\n")
    with pytest.raises(BadApp, match="has no 'ap'") as caught:
        load("load_10:ap")
    assert "Counter, app" in str(caught.value)


def test_something_else_than_an_app(write: Write) -> None:
    write("load_11.py", HEAD + COUNTER + "app = print\n")
    with pytest.raises(BadApp, match="load_11:app is a builtin_function_or_method"):
        load("load_11:app")


def test_a_module_without_anything_to_serve(write: Write) -> None:
    write("load_12.py", "from perdure import Object\n")
    with pytest.raises(BadApp, match="neither an App nor an Object class"):
        load("load_12.py")


def test_classes_that_are_only_imported_are_named(write: Write) -> None:
    write("load_13.py", HEAD + COUNTER)
    write("load_14.py", "from load_13 import Counter\n")
    with pytest.raises(BadApp) as caught:
        load("load_14.py")
    assert "App([Counter])" in str(caught.value)


def test_a_syntax_error_is_told_with_its_place(write: Write) -> None:
    write("load_15.py", HEAD + "class Counter(Object)\n    pass\n")
    with pytest.raises(BadApp) as caught:
        load("load_15.py")
    assert 'load_15.py", line 2' in str(caught.value)
    assert "SyntaxError: expected ':'" in str(caught.value)


def test_an_error_at_import_is_told_with_the_users_line(write: Write) -> None:
    write("load_16.py", HEAD + "import json\njson.loads('{')\n")
    with pytest.raises(BadApp) as caught:
        load("load_16.py")
    assert "line 3: json.loads('{')" in str(caught.value)
    assert "JSONDecodeError" in str(caught.value)
    assert "load_16" not in sys.modules


def test_an_import_that_is_missing_in_the_app_is_not_a_missing_app(write: Write) -> None:
    write("load_17.py", "import nosuchpackage\n")
    for target in ("load_17.py", "load_17"):
        with pytest.raises(BadApp, match="No module named 'nosuchpackage'") as caught:
            load(target)
        assert not isinstance(caught.value, NoSuchApp)


def test_a_setting_that_is_wrong_in_the_code_stays_that_error(write: Write) -> None:
    write("load_18.py", HEAD + COUNTER + "app = App([Counter], turn_timeuot=3)\n")
    with pytest.raises(BadSettings, match="turn_timeuot"):
        load("load_18.py")


def test_a_file_with_the_name_of_another_module(write: Write) -> None:
    write("json.py", HEAD + COUNTER)
    import json  # noqa: F401 - it has to be loaded

    with pytest.raises(BadApp, match="that name is taken") as caught:
        load("json.py")
    assert "Rename the file" in str(caught.value)


def test_the_files_of_the_user_are_known_even_after_a_failed_import(write: Write) -> None:
    write("part_19.py", "x = 1\n")
    broken = write("broken_19.py", "def f(:\n")
    main = write("load_19.py", "import part_19\nimport broken_19\n")
    with pytest.raises(BadApp) as caught:
        load("load_19.py")
    files = {Path(file).name for file in files_of_user("load_19.py", caught.value)}
    assert {main.name, broken.name, "part_19.py"} <= files
    assert not any(name.startswith("__init__") for name in files)
