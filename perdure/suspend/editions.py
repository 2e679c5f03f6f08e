"""Editions: versions of the app's code that are loaded, side by side in one process.

The newest is the code as Python has imported it. An older one is made from its bundle, when a
turn that it ran is replayed or code that waits in it goes on; its modules import each other, and
everything else as it is now. What they are called: perdure/versioned.py.

An edition may be laid over a later one: then code of the old version goes on among the classes of
the later one. Its functions, its constants and its methods are the old ones; wherever it names a
class, it means the class as it is in the later version, which is also what all data is of.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.machinery
import linecache
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from perdure.errors import OperatorError, PerdureError, UnknownKind, VersionUnusable
from perdure.kind import Kind, Kinds
from perdure.object import Object
from perdure.versioned import mark_of, marked, plain

if TYPE_CHECKING:
    # codes.py stands on this module, and bundles.py on that.
    from perdure.suspend.bundles import Bundle


UNKNOWN = (UnknownKind, VersionUnusable)


class VersionNotLoaded(PerdureError):
    """The bundle of a version has to be read from the store first; then the same works."""

    def __init__(self, version: str) -> None:
        super().__init__(f"the code of version {version} is not in memory")
        self.version = version


class Edition:
    """The app's code at one version, as it is loaded."""

    mark = ""
    """In the names of its modules; empty for the code as Python has imported it."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._laid: dict[str, Edition] = {}

    def served(self) -> dict[str, str]:
        """`module:qualname` of each class by the name that it is served under."""
        raise NotImplementedError

    def kind(self, name: str) -> Kind:
        """A class that it serves. Raises UnknownKind or VersionUnusable."""
        raise NotImplementedError

    def module(self, name: str) -> types.ModuleType:
        """A module by its plain name. Raises VersionUnusable, or ImportError for a library's."""
        raise NotImplementedError

    def find(self, module: str, path: str) -> Any:
        """What stands at a dotted path in a module; a class may have moved since (aliases)."""
        try:
            return at_path(self.module(module), path)
        except (AttributeError, ImportError):
            moved = self.aliases().get(f"{module}:{path}")
            if moved is None:
                raise
            return moved

    def aliases(self) -> dict[str, type]:
        """Classes by the `module:qualname` that they had before."""
        return {}

    def under(self, version: str) -> Edition:
        """Code of an older version, laid over this one.

        Raises VersionUnusable or VersionNotLoaded.
        """
        laid = self._laid.get(version)
        if laid is None:
            older = edition(version)
            laid = Laid(older.bundle, self) if isinstance(older, Past) else older
            self._laid[version] = laid
        return laid


def at_path(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = getattr(found, name)
    return found


class Live(Edition):
    """The code as Python has imported it: that of the newest deploy.

    In a test there may be several in one process, each with classes of its own.
    """

    def __init__(self, version: str, kinds: Kinds) -> None:
        super().__init__(version)
        self.kinds = kinds
        self._aliases: dict[str, type] | None = None

    def served(self) -> dict[str, str]:
        return {
            name: f"{kind.cls.__module__}:{kind.cls.__qualname__}"
            for name, kind in self.kinds.items()
        }

    def kind(self, name: str) -> Kind:
        kind = self.kinds.find(name)
        if kind is None:
            raise UnknownKind(f"no class {name!r} is served here")
        return kind

    def module(self, name: str) -> types.ModuleType:
        return sys.modules.get(name) or importlib.import_module(name)

    def aliases(self) -> dict[str, type]:
        if self._aliases is None:
            self._aliases = {}
            for name, module in list(sys.modules.items()):
                if "@" in name or not _may_have_aliases(module):
                    continue
                for value in list(vars(module).values()):
                    if isinstance(value, type) and value.__module__ == name:
                        for alias in vars(value).get("__perdure_aliases__", ()):
                            old = alias if ":" in alias else f"{name}:{alias}"
                            self._aliases.setdefault(old, value)
        return self._aliases


def _may_have_aliases(module: Any) -> bool:
    from perdure.suspend import codes

    name = getattr(module, "__name__", "")
    return isinstance(module, types.ModuleType) and not codes.is_library(name)


class Past(Edition):
    """The code of an older version, from its bundle. Modules are imported when they are needed."""

    def __init__(self, bundle: Bundle, mark: str = "") -> None:
        super().__init__(bundle.version)
        self.bundle = bundle
        self.mark = mark or bundle.version
        self._kinds: dict[str, Kind] = {}
        _past[self.mark] = self
        _install_finder()

    def served(self) -> dict[str, str]:
        return self.bundle.classes

    def kind(self, name: str) -> Kind:
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = self._make_kind(name)
        return kind

    def _make_kind(self, name: str) -> Kind:
        place = self.bundle.classes.get(name)
        if place is None:
            raise UnknownKind(f"version {self.version} of the code has no class {name!r}")
        module, _, path = place.partition(":")
        try:
            cls = at_path(self.module(module), path)
        except AttributeError as error:
            raise unusable(self.version, module, error) from error
        if not (isinstance(cls, type) and issubclass(cls, Object)):
            raise UnknownKind(f"in version {self.version} of the code {name!r} is no Object class")
        kind = Kind(cls)
        kind.edition, kind.version, kind.past = self, self.version, self
        return kind

    def module(self, name: str) -> types.ModuleType:
        if not self.bundle.holds(name):
            return sys.modules.get(name) or importlib.import_module(name)
        known = sys.modules.get(marked(name, self.mark))
        if known is not None:
            return known
        # Not as part of a turn: what a module does when it is imported is not the object's doing.
        with outside_of_turns():
            try:
                return importlib.import_module(marked(name, self.mark))
            except Exception as error:
                raise unusable(self.version, name, error) from error


class Laid(Past):
    """Code of an older version among the classes of a later one."""

    def __init__(self, bundle: Bundle, over: Edition) -> None:
        super().__init__(bundle, f"{bundle.version}+{over.version}")
        self.over = over
        self.originals: dict[str, type] = {}
        """Classes as the old code defines them, by `module:qualname`."""

    def settle(self, module: types.ModuleType) -> None:
        """A module has been imported: its classes give way to those of the later version."""
        name = plain(module.__name__)
        mine = [
            (key, value)
            for key, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        for key, cls in mine:
            self.originals.setdefault(f"{name}:{cls.__qualname__}", cls)
            later = self._later(name, cls)
            if later is not None:
                _rebind(cls, later)
                setattr(module, key, later)

    def _later(self, module: str, cls: type) -> type | None:
        kind = getattr(cls, "__perdure_name__", None)
        try:
            if kind is not None and issubclass(cls, Object):
                return self.over.kind(kind).cls
            found = self.over.find(module, cls.__qualname__)
        except (AttributeError, ImportError, OperatorError, UnknownKind):
            return None
        return found if isinstance(found, type) else None

    def original(self, kind: str) -> type | None:
        """The class that was served under a name, as the old code defines it."""
        place = self.bundle.classes.get(kind)
        if place is None:
            return None
        self.module(place.partition(":")[0])
        return self.originals.get(place)


def _rebind(cls: type, later: type) -> None:
    """Make `super()` and `__class__` in the methods of a class mean the later one."""
    for value in vars(cls).values():
        function = getattr(value, "__func__", value)
        if isinstance(value, property):
            function = value.fget
        if isinstance(function, types.FunctionType) and function.__closure__:
            for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True):
                if name == "__class__" and cell.cell_contents is cls:
                    cell.cell_contents = later


def unusable(version: str, module: str, error: BaseException) -> VersionUnusable:
    name = plain(getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
    missing = f" (it needs {name})" if name and name != module else ""
    return VersionUnusable(
        f"version {version} of the code cannot be imported any more: in its module {module}, "
        f"{type(error).__name__}: {error}{missing}",
        hint="Install what it needs beside the app of now; its source is in the store "
        f"(perdure versions {version}).",
    )


outside_of_turns: Callable[[], Any]
"""A context in which no turn runs, whatever runs around it."""


class _Outside:
    def __enter__(self) -> None:
        import asyncio

        self.running = asyncio._get_running_loop()
        if getattr(self.running, "is_object_loop", False):
            surroundings = self.running.surroundings  # type: ignore[union-attr]
            asyncio._set_running_loop(surroundings.outer)

    def __exit__(self, *exc: object) -> None:
        import asyncio

        asyncio._set_running_loop(self.running)


outside_of_turns = _Outside


# --- importing from bundles


_past: dict[str, Past] = {}
"""Editions from bundles, by mark."""


def _install_finder() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if "@" not in fullname:
            return None
        edition = _past.get(mark_of(fullname))
        name = plain(fullname)
        if edition is None or not edition.bundle.holds(name):
            return None
        is_package = name in edition.bundle.packages
        return importlib.machinery.ModuleSpec(
            fullname, _Loader(edition, name), is_package=is_package
        )


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, edition: Past, name: str) -> None:
        self._edition = edition
        self._name = name
        self._file = f"{name.replace('.', '/')}.py (version {edition.version})"

    def get_source(self, fullname: str) -> str | None:
        return self._edition.bundle.modules.get(self._name)

    def is_package(self, fullname: str) -> bool:
        return self._name in self._edition.bundle.packages

    def get_code(self, fullname: str) -> types.CodeType | None:
        return self.source_to_code(self.get_source(fullname) or "", self._file)

    def exec_module(self, module: types.ModuleType) -> None:
        source = self.get_source("") or ""
        # For tracebacks, which look for a file of that name and do not find one.
        linecache.cache[self._file] = (len(source), None, source.splitlines(True), self._file)
        live = sys.modules.get(self._name)
        # Data beside the module is found where the module of now is.
        module.__file__ = getattr(live, "__file__", None) or self._file
        variables = vars(module)
        variables["__builtins__"] = _builtins_of(self._edition)
        variables["__perdure_mark__"] = self._edition.mark
        code = self.get_code("")
        assert code is not None
        exec(code, variables)
        if isinstance(self._edition, Laid):
            self._edition.settle(module)


def _builtins_of(edition: Past) -> dict[str, Any]:
    """Builtins whose `__import__` finds the edition's own modules first."""
    made = dict(vars(builtins))
    holds, mark = edition.bundle.holds, edition.mark

    def __import__(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if level == 0 and holds(name):
            name = marked(name, mark)
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    made["__import__"] = __import__
    return made


# --- the editions of this process


_known: dict[str, Edition] = {}
"""By version. What one consists of follows from its version, whatever store it is kept in."""
_missing: set[str] = set()


def edition(version: str) -> Edition:
    """The edition of a version. Raises VersionNotLoaded, or VersionUnusable if no store has it."""
    found = _known.get(version)
    if found is not None:
        return found
    if version in _missing:
        raise VersionUnusable(
            f"version {version} of the code is not in this store",
            hint="Deploy it once more, or restore the store from a backup.",
        )
    raise VersionNotLoaded(version)


def learn(version: str, found: Edition | None) -> None:
    """From now on this is the edition of a version; None: no store has it."""
    if found is None:
        _missing.add(version)
    else:
        _missing.discard(version)
        _known[version] = found


def forget() -> None:
    """Know of no version, as in a process that has just begun."""
    global newest
    newest = None
    for past in _past.values():
        for name in [name for name in sys.modules if mark_of(name) == past.mark]:
            del sys.modules[name]
    for known in (_known, _missing, _past):
        known.clear()


# --- which edition a value is written or read in


newest: Live | None = None
"""The code of the newest deploy, once a node serves it."""
active: Edition | None = None
"""That of the object whose turn runs, if it is an older one; None: the newest."""


def serve(live: Live) -> None:
    """From now on this is the newest code."""
    global newest
    if newest is not None:
        for kind in newest.kinds.values():
            kind.past = newest
    newest = live
    for kind in live.kinds.values():
        kind.edition, kind.version, kind.past = live, live.version, None
    learn(live.version, live)


def written(module: str, home: Edition | None) -> str:
    """A module's name as it is written: plain for one of the edition it is written in, else with
    its version, so that the same is found again."""
    mark = mark_of(module)
    if not mark:
        return module
    version = mark.partition("+")[0]
    if home is not None and version == home.version:
        return plain(module)
    return marked(plain(module), version)


def module_of(name: str, home: Edition | None) -> types.ModuleType:
    """The module that `written` has named. Raises ImportError or VersionUnusable."""
    mark = mark_of(name)
    if mark:
        version = mark.partition("+")[0]
        if home is None or version != home.version:
            if home is None:
                return importlib.import_module(name)
            return home.under(version).module(plain(name))
        name = plain(name)
    if home is None:
        return sys.modules.get(name) or importlib.import_module(name)
    return home.module(name)


def find(name: str, path: str, home: Edition | None) -> Any:
    """What stands at a dotted path in the module that `written` has named."""
    if home is None or ("@" in name and mark_of(name).partition("+")[0] != home.version):
        return at_path(module_of(name, home), path)
    return home.find(plain(name), path)
