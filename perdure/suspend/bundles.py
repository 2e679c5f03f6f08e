"""Bundles: the source of an app at one version, kept in the store beside the data.

A bundle is named by a digest of what is in it, so a deploy of the same source, or of an older
one again, is the same version. In it are the modules of the classes that are served and all that
they import of their own folders, also inside functions; Python's library and installed packages
are not part of it. With them goes under which name each class is served.

    zlib of JSON: {"format": 2, "modules": {name: source}, "packages": [name, …],
                   "classes": {name: "module:qualname"}}

A bundle of the first release is a plain {name: source}.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.errors import SchemaTooNew
from perdure.suspend import codes

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a version of the code consists of."""

    version: str
    modules: dict[str, str]
    """Source by name."""
    packages: frozenset[str] = frozenset()
    classes: dict[str, str] = field(default_factory=dict)
    """`module:qualname` by the name it is served under."""

    def holds(self, name: str) -> bool:
        """Whether a name is one of its modules, or a package that one of them is in."""
        return name in self.modules or name in self.packages


def read(version: str, data: bytes) -> Bundle:
    """The bundle that `bundle_of` made bytes of. Raises SchemaTooNew."""
    found = json.loads(zlib.decompress(data))
    if not isinstance(found.get("modules"), dict):
        return Bundle(version, found, _packages(found), _classes_in(found))
    if found["format"] > _FORMAT:
        raise SchemaTooNew(
            f"the bundle of version {version} has format {found['format']}; "
            f"this perdure reads up to {_FORMAT}",
            hint="A newer perdure wrote it: install that one.",
        )
    modules = found["modules"]
    packages = _packages(modules) | frozenset(found["packages"])
    return Bundle(version, modules, packages, found["classes"])


def write_source(modules: Mapping[str, str], folder: Path) -> None:
    """Put modules into a folder, where an import from there finds them.

    Raises FileExistsError, with nothing written, where one of the files is there already.
    """
    packages = _packages(modules)
    paths = {}
    for name in modules:
        path = folder.joinpath(*name.split("."))
        paths[name] = (
            path / "__init__.py" if name in packages else path.with_name(f"{path.name}.py")
        )
        if paths[name].exists():
            raise FileExistsError(str(paths[name]))
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(modules[name], encoding="utf-8")


def _packages(modules: Iterable[str]) -> frozenset[str]:
    """Everything in front of a dot."""
    return frozenset(
        name[:at] for name in modules for at, letter in enumerate(name) if letter == "."
    )


def _classes_in(modules: dict[str, str]) -> dict[str, str]:
    """Classes that may have been served, for a bundle that does not say: by their names."""
    found: dict[str, str] = {}
    for module, source in modules.items():
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.bases:
                name = next(
                    (
                        word.value.value
                        for word in node.keywords
                        if word.arg == "name" and isinstance(word.value, ast.Constant)
                    ),
                    node.name,
                )
                found.setdefault(str(name), f"{module}:{node.name}")
    return found


def bundle_of(classes: Iterable[type[Any]]) -> tuple[str, bytes]:
    """The app's source as it is loaded now, and its name: a digest of it."""
    classes = list(classes)
    modules: dict[str, str] = {}
    packages: set[str] = set()
    roots: set[Path] = set()
    waiting = [cls.__module__ for cls in classes]
    seen: set[str] = set()
    dynamic = False
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = _file_of(name, roots)
        if found is None:
            continue
        path, is_package = found
        source = path.read_text(encoding="utf-8", errors="replace")
        modules[name] = source
        if is_package:
            packages.add(name)
        roots.add(_root(path, name, is_package))
        # A package runs before what is in it.
        waiting += [name[:at] for at, letter in enumerate(name) if letter == "."]
        imported, by_name = _imports(source, name, is_package)
        waiting += imported
        dynamic = dynamic or by_name
    if dynamic:
        # Modules that are imported by a text are in no import statement.
        for name, module in sorted(sys.modules.items()):
            if name not in modules and (text := _source_within(module, roots)) is not None:
                modules[name] = text
    body: dict[str, Any] = {
        "format": _FORMAT,
        "modules": modules,
        "packages": sorted(packages),
        "classes": {
            cls.__perdure_name__: f"{cls.__module__}:{cls.__qualname__}" for cls in classes
        },
    }
    local = [cls for cls in classes if "<" in cls.__qualname__]
    if local:
        # Two classes made by one function cannot be told apart by their names.
        body["made"] = {cls.__perdure_name__: _looks(cls) for cls in local}
    data = json.dumps(body, sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=6).hexdigest(), zlib.compress(data, 6)


def _looks(cls: type[Any]) -> str:
    marks = [
        name + codes.fingerprint(value.__code__).hex()
        for name, value in sorted(vars(cls).items())
        if isinstance(value, types.FunctionType)
    ]
    values = [
        f"{name}={value!r}"
        for name, value in sorted(vars(cls).items())
        if isinstance(value, (int, float, str, bytes, tuple, list, dict, type(None)))
        and not name.startswith("__")
    ]
    return hashlib.blake2b(repr((marks, values)).encode(), digest_size=8).hexdigest()


def _file_of(name: str, roots: Iterable[Path]) -> tuple[Path, bool] | None:
    """The source file of a module of the app, and whether it is a package; None if it is none."""
    module = sys.modules.get(name)
    if module is not None:
        path = getattr(module, "__file__", None)
        if not path or not path.endswith(".py") or codes.is_library(name):
            return None
        file = Path(path)
        return (file, hasattr(module, "__path__")) if file.is_file() else None
    for root in roots:
        base = root.joinpath(*name.split("."))
        for file, is_package in (
            (base.with_name(base.name + ".py"), False),
            (base / "__init__.py", True),
        ):
            if file.is_file() and not str(file.resolve()).startswith(codes.library_folders):
                return file, is_package
    return None


def _root(path: Path, name: str, is_package: bool) -> Path:
    """The directory from which a module is imported."""
    up = name.count(".") + (1 if is_package else 0)
    return path.resolve().parents[up]


def _source_within(module: Any, roots: Iterable[Path]) -> str | None:
    path = getattr(module, "__file__", None)
    if not path or not path.endswith(".py"):
        return None
    resolved = Path(path).resolve()
    if str(resolved).startswith(codes.library_folders) or not resolved.is_file():
        return None
    if any(resolved.is_relative_to(root) for root in roots):
        return resolved.read_text(encoding="utf-8", errors="replace")
    return None


def _imports(source: str, name: str, is_package: bool) -> tuple[list[str], bool]:
    """The modules that a source may import, and whether it imports by text as well."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return [], False
    found = list(_imported(tree, name, is_package))
    return found, any(one.partition(".")[0] in ("importlib", "pkgutil") for one in found)


def _imported(tree: ast.AST, name: str, is_package: bool) -> Iterator[str]:
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            if base:
                yield base
                for alias in node.names:
                    yield f"{base}.{alias.name}"
