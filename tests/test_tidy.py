"""What no linter can say about this project: layers, sizes, words that must not be there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "perdure"

# The path of a request, top to bottom. A layer imports itself and what stands below it.
LAYERS = ["gateway", "past", "sight", "host", "suspend", "journal", "store"]
# Below the path: values and JSON, which authors' modules and every layer need; it imports no layer.
SERDE = "serde"
# Beside the path: the process that watches, and the folders that may know every layer.
SUPERVISOR = "supervisor"
# What other programs import: it speaks to a server and stands on no layer.
CLIENT = "client"
COMPOSERS = {"cli", "operations", "testing"}
COMPOSING_FILES = {"__init__.py", "node.py", "app.py"}

LONGEST_FILE = 600
TEXT = {".py", ".md", ".toml", ".sql", ".yml", ".yaml", ".json", ".sh", ""}
FOLDERS = ["perdure", "tests", "examples", "docs", "benchmarks", "tools", ".ci"]


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[Path]:
    yield from (path for path in sorted(ROOT.glob("*")) if path.is_file() and path.suffix in TEXT)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts:
                yield path


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Each module of perdure that a file imports, also inside functions, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def folder_of(module: str) -> str | None:
    """`host` for `perdure.host.machine`; None for what is no folder of perdure."""
    parts = module.split(".")
    if parts[0] != "perdure" or len(parts) < 2 or not (PACKAGE / parts[1]).is_dir():
        return None
    return parts[1]


def allowed_folders(path: Path) -> set[str]:
    """The folders a file of perdure may import from."""
    relative = path.relative_to(PACKAGE)
    everything = {*LAYERS, *COMPOSERS, SUPERVISOR, SERDE, CLIENT}
    if len(relative.parts) == 1:
        return everything if relative.name in COMPOSING_FILES else {SERDE}
    folder = relative.parts[0]
    if folder in COMPOSERS:
        return everything
    if folder == SUPERVISOR:
        return {SUPERVISOR, "store"}
    if folder in (SERDE, CLIENT):
        return {SERDE, folder}
    return {*LAYERS[LAYERS.index(folder) :], SERDE}


@pytest.mark.parametrize(
    "path", list(python_files("perdure")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_layers_import_downwards_only(path: Path) -> None:
    allowed = allowed_folders(path)
    wrong = {
        f"line {line}: {module}"
        for line, module in imported_modules(path)
        if (folder := folder_of(module)) is not None and folder not in allowed
    }
    assert not wrong, f"{path.relative_to(ROOT)} may import from {sorted(allowed)} alone: {wrong}"


def test_every_folder_of_perdure_has_its_place_in_the_layers() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert folders <= {*LAYERS, *COMPOSERS, SUPERVISOR, SERDE, CLIENT}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files("perdure", "tests", "examples", "benchmarks")
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_nothing_is_called_utils() -> None:
    wrong = {"utils", "util", "helpers", "misc", "common"}
    assert [path for path in python_files("perdure", "tests") if path.stem in wrong] == []


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of somebody's machine", r"(?<![\w.])/(?:work|root|home|Users)/\w"),
        ("something left to do", "TO" + "DO|FIX" + r"ME|\bXX" + r"X\b"),
    ],
)
def test_no_text_holds(what: str, pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in text_files()
        if path.name not in ("LICENSE", "test_tidy.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{what}: {found}"


def test_comments_point_to_documents_and_modules_that_exist() -> None:
    """`docs/data.md`, `host/machine.py`: what a comment sends the reader to is there."""
    wrong = []
    for path in python_files("perdure", "tests", "examples", "benchmarks"):
        for word in re.findall(r"[\w/.-]*\w\.(?:md|py)\b", path.read_text(encoding="utf-8")):
            if path.parts[-2] == "tests" or ("/" not in word and word.endswith(".py")):
                continue
            places = [ROOT, ROOT / "docs", PACKAGE, path.parent]
            if not any((place / word).exists() for place in places):
                wrong.append(f"{path.relative_to(ROOT)}: {word}")
    assert wrong == []


def test_the_map_of_the_host_has_each_of_its_files_once() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = text.partition("| topic |")[2].partition("\n\n")[0]
    files = sorted(path.stem for path in (PACKAGE / "host").glob("[!_]*.py"))
    assert sorted(re.findall(r"`(\w+)`", rows)) == files


def test_every_module_says_what_it_guarantees() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files("perdure")
        if (text := path.read_text(encoding="utf-8")).strip()
        and ast.get_docstring(ast.parse(text)) is None
    ]
    assert silent == []


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    import perdure

    silent = []
    for name in perdure.__all__:
        value = getattr(perdure, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if not (value.__doc__ or "").strip():
            silent.append(name)
        if inspect.isclass(value) and value.__module__.startswith("perdure"):
            silent += [
                f"{name}.{member}"
                for member, method in vars(value).items()
                if not member.startswith("_")
                and inspect.isfunction(method)
                and not (method.__doc__ or "").strip()
            ]
    assert silent == []


def test_every_public_name_exists() -> None:
    import perdure

    assert [name for name in perdure.__all__ if not hasattr(perdure, name)] == []


def test_the_typed_marker_and_the_schema_travel_with_the_package() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert list((PACKAGE / "store" / "schema").rglob("*.sql"))
