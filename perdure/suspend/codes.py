"""Code by name: where it stands, and a fingerprint of what it does.

Suspended code can go on only in the very code it stopped in: a place in it is a number of bytes.
So code is known by module and qualified name, and by a fingerprint of everything the interpreter
looks at when it runs it; lines and file names, which an edit above moves, do not count. Code of
the app that is not there any more raises CodeChanged. Code of libraries travels along, so that a
patch release of Python or of a library, which may change it, does not matter.
"""

from __future__ import annotations

import functools
import importlib
import marshal
import pickle
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from perdure.errors import AuthorError
from perdure.suspend import editions, loading
from perdure.versioned import mark_of, plain

Code = types.CodeType


class CodeChanged(AuthorError):
    """A snapshot needs code or a class that is no longer there, or is another now."""

    code = "code-changed"


# --- fingerprints


class _Marks(NamedTuple):
    code: Code
    fingerprint: bytes


_fingerprints: dict[int, _Marks] = {}


def fingerprint(code: Code) -> bytes:
    """Twelve bytes that are the same for code that does the same."""
    found = _fingerprints.get(id(code))
    if found is None or found.code is not code:
        if len(_fingerprints) > 10_000:
            _fingerprints.clear()
        found = _fingerprints[id(code)] = _Marks(code, _fingerprint(code))
    return found.fingerprint


def _fingerprint(code: Code) -> bytes:
    shape = (
        (code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        (code.co_stacksize, code.co_code, code.co_exceptiontable),
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
    )
    text = repr(shape) + "".join(map(_canonical, code.co_consts))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _canonical(constant: Any) -> str:
    if isinstance(constant, Code):
        return f"code {constant.co_name} {fingerprint(constant).hex()};"
    if isinstance(constant, tuple):
        return f"({''.join(map(_canonical, constant))});"
    if isinstance(constant, frozenset):
        return f"{{{''.join(sorted(map(_canonical, constant)))}}};"
    return f"{type(constant).__name__} {constant!r};"


# --- where code stands


Key = tuple[str, bytes]
"""Qualified name and fingerprint."""


class _Module:
    """The code objects of one module by name and fingerprint."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module
        self.codes: dict[Key, list[Code]] = {}
        self.names: set[str] = set()
        self._loaded = False
        self._look(vars(module).values())

    def find(self, key: Key, line: int) -> Code | None:
        found = self.codes.get(key)
        if found is None:
            # Something may have come since, or stand where no name leads to.
            self._look(vars(self.module).values())
            if key not in self.codes and not self._loaded:
                self._loaded = True
                self._look_at_file()
            found = self.codes.get(key)
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        # Two lambdas of one function that do the same: either will do, the nearer one is nicer.
        return min(found, key=lambda code: abs(code.co_firstlineno - line))

    def _look(self, values: Any) -> None:
        # By id, since not all values can be hashed; kept, so that no id comes twice.
        seen: dict[int, Any] = {}
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, types.FunctionType):
                if value.__globals__ is vars(self.module):
                    self._add(value.__code__)
                waiting.extend(_inside_function(value))
            else:
                waiting.extend(_inside(value, self.module.__name__))

    def _look_at_file(self) -> None:
        loader = getattr(getattr(self.module, "__spec__", None), "loader", None)
        try:
            code = loader.get_code(self.module.__name__)  # type: ignore[union-attr]
        except Exception:
            # No loader, no file, or one that was edited and does not compile: then only what was
            # found in memory counts.
            return
        if isinstance(code, Code):
            for constant in code.co_consts:
                if isinstance(constant, Code):
                    self._add(constant)

    def _add(self, code: Code) -> None:
        known = self.codes.setdefault((code.co_qualname, fingerprint(code)), [])
        self.names.add(code.co_qualname)
        if any(code is other for other in known):
            return
        known.append(code)
        for constant in code.co_consts:
            if isinstance(constant, Code):
                self._add(constant)


def _inside_function(function: types.FunctionType) -> Iterator[Any]:
    """Functions that a decorator has wrapped, and those kept as defaults."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue
    yield getattr(function, "__wrapped__", None)
    yield from function.__defaults__ or ()


def _inside(value: Any, module: str) -> Iterator[Any]:
    if isinstance(value, type):
        if value.__module__ == module:
            yield from vars(value).values()
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset, value.fdel)
    elif isinstance(value, (functools.partial, functools.partialmethod, functools.cached_property)):
        yield value.func
    elif isinstance(value, types.MethodType):
        yield value.__func__
    elif type(value) in (list, tuple, dict):
        # A table of handlers at the top of a module.
        yield from value.values() if type(value) is dict else value
    elif isinstance(value, _Cached):
        yield value.__wrapped__


_Cached: Any = type(functools.lru_cache(len))

_modules: dict[str, _Module] = {}


def _module(name: str) -> _Module | None:
    module = sys.modules.get(name)
    if module is None:
        return None
    found = _modules.get(name)
    if found is None or found.module is not module:
        found = _modules[name] = _Module(module)
    return found


# --- what belongs to the app, and what to Python and its libraries


def _library_folders() -> tuple[str, ...]:
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    if hasattr(site, "getsitepackages"):
        paths += site.getsitepackages()
    paths += [site.getusersitepackages(), str(Path(__file__).resolve().parent.parent)]
    return tuple({str(Path(path).resolve()) + "/" for path in paths if path})


library_folders = _library_folders()
"""Where Python, perdure and installed packages are."""


@functools.lru_cache(maxsize=4096)
def is_library(module: str) -> bool:
    """Whether a module belongs to Python, to perdure or to an installed package."""
    if "@" in module:
        return False
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and str(Path(file).resolve()).startswith(library_folders)


# --- code objects as bytes


_carried: dict[int, tuple[Code, bytes]] = {}


def _carry(code: Code) -> bytes:
    """The code itself; without its lines, which would be those of a file that is gone."""
    found = _carried.get(id(code))
    if found is None or found[0] is not code:
        if len(_carried) > 1000:
            _carried.clear()
        found = _carried[id(code)] = (code, marshal.dumps(_without_lines(code)))
    return found[1]


def _without_lines(code: Code) -> Code:
    constants = tuple(
        _without_lines(constant) if isinstance(constant, Code) else constant
        for constant in code.co_consts
    )
    return code.replace(co_linetable=b"", co_consts=constants)


Place = tuple[Any, ...]
"""Where code stands: module, qualified name, fingerprint, line, and the code of a library."""


def place_of(code: Code, variables: dict[str, Any]) -> Place:
    """What `find_place` takes to find this code again, which sees these global variables.

    Raises PicklingError if it could not be found.
    """
    module = variables.get("__name__", "")
    if getattr(sys.modules.get(module), "__dict__", None) is not variables:
        raise pickle.PicklingError(f"the module {module!r} of its code is no longer loaded")
    mark, line = fingerprint(code), code.co_firstlineno
    if is_library(module) and not _of_app(module):
        return module, code.co_qualname, mark, line, _carry(code)
    place = _module(module)
    if place is None or place.find((code.co_qualname, mark), line) is None:
        raise pickle.PicklingError(
            f"its code, {code.co_qualname}, cannot be found by name in the module {module!r}"
        )
    name = editions.written(module, loading.home())
    if "@" in name:
        loading.session().stayed.add(mark_of(name))
    return name, code.co_qualname, mark, line


def _of_app(module: str) -> bool:
    """Whether it is of the package that the object's own class is of, installed or not."""
    own = loading.machine().kind.cls.__module__
    return bool(plain(own).partition(".")[0] == module.partition(".")[0])


def find_place(place: Place, chain: int | None = None) -> tuple[Code, dict[str, Any]]:
    """The code that `place_of` has named, and the global variables it sees. Raises CodeChanged.

    In a load that brings an object over to other code, what is unchanged there goes over, and the
    rest goes on in the code it was in. `chain` is that of the awaits it stands in: either all of
    it goes over, or nothing.
    """
    module, qualname, print_, line, *carried = place
    if carried and carried[0]:
        return _find_carried(module, qualname, print_, line, carried[0])
    move = loading.session().move
    if move is not None:
        goes = move.goes(place) if chain is None else move.chain_goes(chain)
        to = move.translate if goes else move.stays
        module, qualname = to(module, qualname)
        move.latest = mark_of(module)
    found = editions.module_of(module, loading.home())
    known = _module(found.__name__)
    code = known.find((qualname, print_), line) if known is not None else None
    if code is None:
        raise _changed(module, qualname, known)
    mark = mark_of(module)
    if mark:
        loading.session().stayed.add(mark.partition("+")[0])
    return code, vars(found)


def is_there(module: str, qualname: str, mark: bytes) -> bool:
    """Whether code that does the same stands there now."""
    try:
        found = editions.module_of(module, loading.home())
    except ImportError:
        return False
    known = _module(found.__name__)
    return known is not None and known.find((qualname, mark), 0) is not None


def _find_carried(
    module: str, qualname: str, mark: bytes, line: int, carried: bytes
) -> tuple[Code, dict[str, Any]]:
    variables = vars(sys.modules.get(module) or importlib.import_module(module))
    known = _module(module)
    code = known.find((qualname, mark), line) if known is not None else None
    if code is None:
        code = marshal.loads(carried)
        if fingerprint(code) != mark:
            raise _changed(module, qualname, known)
    return code, variables


def _changed(module: str, qualname: str, known: _Module | None) -> CodeChanged:
    if known is not None and qualname in known.names:
        what = f"{qualname} in {plain(module)} has changed"
    else:
        what = f"{qualname} is no longer in {plain(module)}"
    return CodeChanged(
        f"{what}, and code of a snapshot is suspended in it",
        hint="The object is rebuilt from its journal instead.",
    )
