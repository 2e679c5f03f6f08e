"""An object goes over to other code: what of its suspended code goes with it, and what stays.

Data is of the classes of now, found by their names. Code that waits goes over where it is
unchanged, together with all that wait for it; a chain of awaits in which anything has changed
goes on, to its end, in the code that it began in, which is loaded from its bundle.

Inside such old code `self` has the class of now as well, but a method, property or constant of the
class that the old code asks for is the old one: it was written with those.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from perdure import steps
from perdure.errors import VersionUnusable
from perdure.object import Object
from perdure.suspend import codes, editions, layout, loading
from perdure.suspend.codes import CodeChanged, Place
from perdure.suspend.editions import Edition, Laid
from perdure.versioned import mark_of, marked, plain


class Stayed(NamedTuple):
    """Suspended code that goes on in the version it began in."""

    version: str
    module: str
    qualname: str


class Move:
    """Of one load under other code than the bytes were made under."""

    def __init__(self, before: str, home: Edition) -> None:
        self.before = before
        self.home = home
        self.chains: Sequence[Sequence[Place]] = ()
        self.stayed: list[Stayed] = []
        self.latest = ""
        """The version in which the frame goes on that was loaded last; empty: in that of now. What
        a frame holds is loaded right behind it."""

    def goes(self, place: Place) -> bool:
        """Whether code is the same in the version that is gone over to."""
        return codes.is_there(*self.translate(place[0], place[1]), place[2])

    def chain_goes(self, chain: int) -> bool:
        """Whether all code of a chain of awaits is."""
        return all(self.goes(place) for place in self.chains[chain])

    def translate(self, module: str, qualname: str) -> tuple[str, str]:
        """Where code of before would stand now: the class it is in may have been renamed."""
        name = plain(module)
        try:
            served = editions.edition(self._version(module)).served()
        except VersionUnusable:
            return name, qualname
        now = self.home.served()
        for kind, place in served.items():
            there, _, path = place.partition(":")
            if there == name and (qualname + ".").startswith(path + "."):
                try:
                    cls = self.home.kind(kind).cls
                except editions.UNKNOWN:
                    break
                here = now.get(cls.__perdure_name__, "")
                if here:
                    module_now, _, path_now = here.partition(":")
                    return _where(cls, qualname[len(path) :], module_now, path_now)
        return name, qualname

    def _version(self, module: str) -> str:
        return mark_of(module).partition("+")[0] or self.before

    def stays(self, module: str, qualname: str) -> tuple[str, str]:
        """Where code that has changed is found: in the version it began in."""
        version = self._version(module)
        if not version:
            raise CodeChanged(
                f"{qualname} in {plain(module)} has changed, and nothing says since when",
                hint="The object is rebuilt from its journal instead.",
            )
        self.stayed.append(Stayed(version, plain(module), qualname))
        return marked(plain(module), version), qualname

    def older(self, module: str, path: str) -> Any:
        """What stood at a path before, and is not there any more."""
        return self.home.under(self._version(module)).find(plain(module), path)

    def method(self, owner: Any, name: str) -> Any:
        """A method that the class of an object had before."""
        cls = type(owner)
        found = older_class(self.home.under(self.before), cls)
        return getattr(found, name)


def older_class(older: Edition, cls: type) -> type:
    """The class of an older version that a class of now stands for. Raises AttributeError."""
    kind = getattr(cls, "__perdure_name__", None) if issubclass(cls, Object) else None
    if kind is not None:
        for name in (kind, *cls.__perdure_former__):  # type: ignore[attr-defined]
            place = older.served().get(name)
            if place is None:
                continue
            if not isinstance(older, Laid):
                return older.kind(name).cls
            original = older.original(name)
            if original is not None:
                return original
        raise AttributeError(f"there was no class {kind}")
    if isinstance(older, Laid):
        older.module(plain(cls.__module__))
        original = older.originals.get(f"{plain(cls.__module__)}:{cls.__qualname__}")
        if original is not None:
            return original
    found: type = older.find(plain(cls.__module__), cls.__qualname__)
    return found


def _step_at_load(name: str) -> str:
    """A step that waiting code holds: one of its own version, if that is what it goes on in."""
    move, home = loading.session().move, loading.home()
    if "@" in name or home is None:
        return name
    if move is not None:
        version = move.latest or ("" if steps.find_step(name) is not None else move.before)
        if not version:
            return name
        move.home.under(version).module(name.partition(":")[0])
        return f"{name}@{version}" if steps.find_step(f"{name}@{version}") is not None else name
    if home.mark:
        home.module(name.partition(":")[0])
        return f"{name}@{home.mark}@"
    return name


steps.name_at_load = _step_at_load


def _where(cls: type, rest: str, module: str, path: str) -> tuple[str, str]:
    """Where the method `.name`, and what is made in it, stands: perhaps in a base of the class."""
    name, _, inner = rest.removeprefix(".").partition(".")
    found = inspect.getattr_static(cls, name, None) if name else None
    function = getattr(found, "__func__", found)
    if isinstance(function, types.FunctionType):
        own = plain(function.__module__), function.__qualname__
        return own[0], f"{own[1]}.{inner}" if inner else own[1]
    return module, path + rest


# --- chains of awaits


def chains_of(machine: Any) -> tuple[list[list[Place]], dict[int, int]]:
    """Chains with more than one frame of the app: their places; and the chain of each frame, by
    its id."""
    chains: list[list[Place]] = []
    of_frame: dict[int, int] = {}
    for task in (machine.tasks or {}).values():
        places: list[Place] = []
        ids: list[int] = []
        for frame in _frames(task.coroutine):
            place = _place(frame)
            if place is not None:
                places.append(place)
                ids.append(id(frame))
        if len(places) > 1:
            of_frame.update(dict.fromkeys(ids, len(chains)))
            chains.append(places)
    return chains, of_frame


def _place(frame: Any) -> Place | None:
    if layout.ended(frame):
        return None
    code, variables = layout.code_of(frame), layout.globals_of(frame)
    module = variables.get("__name__", "")
    if codes.is_library(module):
        return None
    name = editions.written(module, loading.home())
    return name, code.co_qualname, codes.fingerprint(code)


def _frames(coroutine: Any) -> Iterator[Any]:
    waiting = coroutine
    while waiting is not None:
        if isinstance(waiting, layout.TYPES):
            yield waiting
            waiting = _awaited(waiting)
        elif type(waiting).__module__ == "builtins":
            held = gc.get_referents(waiting)
            waiting = next((part for part in held if isinstance(part, layout.TYPES)), None)
        else:
            return


def _awaited(frame: Any) -> Any:
    if isinstance(frame, types.CoroutineType):
        return frame.cr_await
    return frame.gi_yieldfrom if isinstance(frame, types.GeneratorType) else frame.ag_await


class Chains:
    """The chains as they are written: at a load they are there before the first frame is."""

    def __init__(self, chains: list[list[Place]]) -> None:
        self.chains = chains

    def __reduce__(self) -> Any:
        return note_chains, (self.chains,)


def note_chains(chains: list[list[Place]]) -> None:
    move = loading.session().move
    if move is not None:
        move.chains = chains


# --- values of classes that have got new fields


def complete_values(machine: Any, state: Any) -> None:
    """Give each dataclass in an object's memory the defaults of fields that it has no value for."""
    fields: dict[type, list[dataclasses.Field[Any]]] = {}
    # Its loop, which every future of it leads to, leads on to everything there is.
    seen = {id(machine)}
    waiting = [state]
    while waiting:
        value = waiting.pop()
        cls = type(value)
        if id(value) in seen or cls in _WITHOUT_PARTS or isinstance(value, _OF_CODE):
            continue
        seen.add(id(value))
        found = fields.get(cls)
        if found is None:
            known = dataclasses.is_dataclass(cls) and not codes.is_library(cls.__module__)
            found = fields[cls] = list(dataclasses.fields(cls)) if known else []
        for field in found:
            if _lacks(value, field.name):
                if field.default_factory is not dataclasses.MISSING:
                    object.__setattr__(value, field.name, field.default_factory())
                elif field.default is not dataclasses.MISSING:
                    object.__setattr__(value, field.name, field.default)
        waiting.extend(gc.get_referents(value))


def _lacks(value: Any, name: str) -> bool:
    """Whether a value has no field of its own; the class may hold a default for all."""
    own = getattr(value, "__dict__", {})
    if name in own:
        return False
    standing = inspect.getattr_static(type(value), name, None)
    return not isinstance(standing, types.MemberDescriptorType) or not hasattr(value, name)


_WITHOUT_PARTS = frozenset({int, float, str, bytes, bool, type(None), complex, bytearray})
_OF_CODE = (type, types.ModuleType, types.FunctionType, types.CodeType, types.BuiltinFunctionType)


# --- what old code sees of `self`


_twins: dict[tuple[type, tuple[str, ...]], type] = {}
_MISSING = object()


def wear_twin(machine: Any, versions: frozenset[str]) -> None:
    """Let old code that goes on in an object find the methods that it was written with."""
    cls = machine.kind.cls
    key = cls, tuple(sorted(versions))
    twin = _twins.get(key)
    if twin is None:
        older: dict[str, type] = {}
        for version in versions:
            laid = machine.kind.edition.under(version)
            try:
                older[laid.mark or version] = older_class(laid, cls)
            except (AttributeError, ImportError):
                continue
        twin = _twins[key] = _make_twin(cls, older)
    object.__setattr__(machine.instance, "__class__", twin)


def _make_twin(cls: type, older: dict[str, type]) -> type:
    # A version that is live in this process has no marks in its modules: known by its code.
    by_code = {
        id(value.__code__): old
        for old in older.values()
        for value in vars(old).values()
        if isinstance(value, types.FunctionType)
    }
    getframe = sys._getframe
    plainly: Any = cls.__getattribute__

    def __getattribute__(self: Any, name: str) -> Any:
        if name[:2] != "__":
            asking = getframe(1)
            old = older.get(asking.f_globals.get("__perdure_mark__", "")) or by_code.get(
                id(asking.f_code)
            )
            if old is not None:
                found = _static(old, name)
                if found is not _MISSING and (
                    hasattr(type(found), "__set__") or name not in self.__dict__
                ):
                    get = getattr(type(found), "__get__", None)
                    return found if get is None else get(found, self, type(self))
        return plainly(self, name)

    twin = type.__new__(
        type(cls),
        cls.__name__,
        (cls,),
        {
            "__slots__": (),
            "__getattribute__": __getattribute__,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
        },
    )
    twin.__perdure_name__ = cls.__perdure_name__  # type: ignore[attr-defined]
    twin.__perdure_former__ = cls.__perdure_former__  # type: ignore[attr-defined]
    return twin


def _static(cls: type, name: str) -> Any:
    """What a class of the app says about a name; not what Object itself does."""
    for base in cls.__mro__:
        if base is Object:
            return _MISSING
        if name in vars(base):
            return vars(base)[name]
    return _MISSING
