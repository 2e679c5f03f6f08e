"""APP of `perdure dev` and `perdure serve`: from what was typed to the classes that are served.

APP is `module:name`, `module`, or a file (which may be followed by `:name` as well). A file is
imported under its stem as module name, with its directory on `sys.path`; inside a package, under
its full name, so that relative imports work. What cannot be served raises BadApp with what was
looked for, and where.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.errors import BadApp, PerdureError

if TYPE_CHECKING:
    from perdure.app import App
    from perdure.object import Object


class Loaded(NamedTuple):
    """What is to be served."""

    classes: list[type[Object]]
    app: App | None
    """None: the module has no App, and its classes are served with the settings of the flags."""
    name: str
    """For people: `counter` or `shop.main:app`."""


class NoSuchApp(BadApp):
    """There is no such file or module: what was typed is wrong, not what is in it."""


def load(target: str) -> Loaded:
    """Import APP and find what it serves. Raises BadApp."""
    place, name = _split(target)
    module = _import_file(Path(place)) if _is_file(place) else _import_module(place)
    shown = f"{module.__name__}:{name}" if name else module.__name__
    if name:
        return _named(module, name, shown)
    return _found(module, shown)


def _split(target: str) -> tuple[str, str]:
    place, colon, name = target.rpartition(":")
    if not colon:
        return target, ""
    # A drive letter or a path with a colon in it is not a name.
    if not all(part.isidentifier() for part in name.split(".")):
        return target, ""
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


# --- importing


def _import_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise NoSuchApp(
            f"{path} is a directory", hint=f"Name the file in it, such as {path / 'app.py'}."
        )
    if not path.is_file():
        near = sorted(Path().glob("*.py"))
        there = f" Here there are: {', '.join(p.name for p in near[:8])}." if near else ""
        raise NoSuchApp(
            f"there is no file {path} (looked in {Path.cwd()})",
            hint=f"APP is a file, a module, or module:name.{there}",
        )
    path = path.resolve()
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    _put_on_path(root)
    name = ".".join(parts)
    if len(parts) > 1:
        return _run(lambda: importlib.import_module(name), str(path))
    taken = sys.modules.get(name)
    if taken is not None:
        raise BadApp(
            f"{path} would be the module {name!r}, but that name is taken by "
            f"{getattr(taken, '__file__', None) or 'Python itself'}",
            hint="Rename the file.",
        )
    return _run(lambda: _import_at(name, path), str(path))


def _import_at(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # In sys.modules before it runs, as the import system does it: dataclasses and pickle ask.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _import_module(name: str) -> ModuleType:
    _put_on_path(Path.cwd())
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        # The parent package is missing, or something that the parent imports.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise _no_module(name, error.name) from None
        raise _broken(error, name) from error
    except (ImportError, ValueError, AttributeError):
        spec = None
    except Exception as error:
        raise _broken(error, name) from error
    if spec is None:
        raise _no_module(name, name)
    return _run(lambda: importlib.import_module(name), name)


def _no_module(name: str, missing: str) -> NoSuchApp:
    file = Path(name.replace(".", os.sep) + ".py")
    return NoSuchApp(
        f"there is no module {missing!r} (looked in {Path.cwd()} and the installed packages)",
        hint=f"Is it a file? Then write {file}."
        if file.is_file()
        else "APP is a file, a module, or module:name.",
    )


def _put_on_path(directory: Path) -> None:
    text = str(directory)
    if text not in sys.path:
        sys.path.insert(0, text)


def _run(importing: Any, place: str) -> ModuleType:
    try:
        module = importing()
    except PerdureError:
        # A class or a setting that perdure itself refuses; it says so better than we could.
        raise
    except (Exception, SystemExit) as error:
        raise _broken(error, place) from error
    assert isinstance(module, ModuleType)
    return module


def _broken(error: BaseException, place: str) -> BadApp:
    last = "".join(traceback.format_exception_only(error)).strip()
    where = ""
    for frame in _frames_of_user(error.__traceback__):
        where = f"\n  {frame.filename}, line {frame.lineno}: {frame.line}"
    return BadApp(f"{place} cannot be imported{where}\n  {last}")


def _frames_of_user(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(trace) if is_of_user(frame.filename)]


# --- finding what to serve


def _named(module: ModuleType, name: str, shown: str) -> Loaded:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            there = ", ".join(_offers(module))
            raise BadApp(
                f"the module {module.__name__!r} ({module.__file__}) has no {name!r}",
                hint=f"It has: {there}." if there else None,
            ) from None
    app_class, object_class = _types()
    if isinstance(found, app_class):
        return Loaded(list(found.classes), found, shown)
    if isinstance(found, type) and issubclass(found, object_class):
        return Loaded([found], None, shown)
    if isinstance(found, Sequence) and found and all(_is_object_class(item) for item in found):
        return Loaded(list(found), None, shown)
    raise BadApp(
        f"{shown} is a {type(found).__name__}; what can be served is an App, an Object class, or a "
        "list of them",
        hint="An application of another framework runs in its own server, with the App mounted.",
    )


def _found(module: ModuleType, shown: str) -> Loaded:
    app_class, _ = _types()
    apps = {name: value for name, value in vars(module).items() if isinstance(value, app_class)}
    if len(set(map(id, apps.values()))) > 1:
        if "app" not in apps:
            names = ", ".join(f"{module.__name__}:{name}" for name in apps)
            raise BadApp(f"{module.__file__} has several Apps", hint=f"Name one: {names}.")
        apps = {"app": apps["app"]}
    for name, app in apps.items():
        return Loaded(list(app.classes), app, f"{shown}:{name}")
    classes = [
        value
        for name, value in vars(module).items()
        if _is_object_class(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]
    if classes:
        return Loaded(list(dict.fromkeys(classes)), None, shown)
    imported = [name for name, value in vars(module).items() if _is_object_class(value)]
    imported = [name for name in imported if name != "Object"]
    hint = (
        f"{', '.join(imported)} is imported there; put it into an App: app = App([{imported[0]}])."
        if imported
        else "Write one: class Counter(Object): …"
    )
    raise BadApp(f"{module.__file__} has neither an App nor an Object class of its own", hint=hint)


def _types() -> tuple[type[App], type[Object]]:
    from perdure.app import App
    from perdure.object import Object

    return App, Object


def _is_object_class(value: Any) -> bool:
    from perdure.object import Object

    return isinstance(value, type) and issubclass(value, Object) and value is not Object


def _offers(module: ModuleType) -> list[str]:
    app_class, _ = _types()
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, app_class) or (_is_object_class(value) and name[0] != "_")
    ]


# --- what `dev` watches


def _not_of_user() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    own = str(Path(__file__).resolve().parents[1])
    roots = {own, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))}
    return tuple(os.path.join(os.path.realpath(root), "") for root in roots)


_NOT_OF_USER = _not_of_user()


def is_of_user(file: str) -> bool:
    """Whether a source file is the user's own, and not Python's, perdure's or a package's."""
    if not os.path.isfile(file):
        return False  # `<frozen importlib>`, `<string>`
    return not os.path.realpath(file).startswith(_NOT_OF_USER)


def files_of_user(target: str, error: BaseException | None = None) -> list[str]:
    """The user's source files that are loaded, or took part in an import that failed."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    place = _split(target)[0]
    files.add(place if _is_file(place) else place.replace(".", os.sep) + ".py")
    while error is not None:
        files.update(frame.filename for frame in traceback.extract_tb(error.__traceback__))
        if isinstance(error, SyntaxError):
            files.add(error.filename)
        error = error.__cause__ or error.__context__
    return sorted({os.path.realpath(file) for file in files if file and is_of_user(file)})
