"""What an annotation means, after everything that only stands for something else is taken away.

Annotations may be text (PEP 563), name classes that are defined later, use type variables that a
subclass has bound, aliases and new types. They are resolved once and lazily, when all classes of
the app exist; one that cannot be resolved is InvalidClass, naming the class, the handler and the
parameter, and never a failure of a call.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from perdure.errors import InvalidClass

Scope = tuple[dict[str, Any], dict[str, Any]]
"""Globals and locals in which the text of an annotation is evaluated."""

_HINT = "Import the name when the module runs (not under TYPE_CHECKING alone), or define it there."
_WRAPPERS = frozenset(
    getattr(module, name)
    for module in (typing, sys.modules.get("typing_extensions", typing))
    for name in ("ClassVar", "Final", "NotRequired", "ReadOnly", "Required")
    if hasattr(module, name)
)
_ANYTHING = (inspect.Parameter.empty, object, typing.NoReturn, typing.Never)


class _Holder:
    """What `typing.get_type_hints` accepts as the owner of one annotation."""

    def __init__(self, annotation: object) -> None:
        self.__annotations__ = {"it": annotation}


def resolve(annotation: object, scope: Scope, where: str) -> Any:
    """The annotation as types. Raises InvalidClass, with `where`, for an unknown name."""
    try:
        return typing.get_type_hints(_Holder(annotation), *scope, include_extras=True)["it"]
    except Exception as error:
        raise InvalidClass(
            f"{where}: the annotation `{_text(annotation)}` cannot be resolved: {error}", hint=_HINT
        ) from None


def _text(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else name_of(annotation)


def function_scope(function: Callable[..., object], owner: type | None) -> Scope:
    """Where a function's annotations are evaluated: as Python would have, and then some.

    The class's own names come last, after the builtins: a handler called `list` must not change
    what `list[int]` means in the annotation of the next one.
    """
    function = inspect.unwrap(function)
    module = getattr(function, "__globals__", {})
    names: dict[str, Any] = {}
    if owner is not None:
        for base in reversed(owner.__mro__[:-1]):
            names |= {**vars(base), base.__name__: base}
        names = {n: v for n, v in names.items() if n not in module and not hasattr(builtins, n)}
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code else (), cells, strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return module, names


def type_variables(owner: Any, bound: Mapping[Any, Any] | None = None) -> dict[Any, dict[Any, Any]]:
    """What each class of an owner's bases has its type variables bound to.

    For each class apart, since `class B(A[list[T]], Generic[T])` may use one T in two meanings.
    """
    origin = get_origin(owner) or owner
    own = dict(bound or {})
    if get_origin(owner) is not None:
        own |= zip(getattr(origin, "__parameters__", ()), get_args(owner), strict=False)
    found: dict[Any, dict[Any, Any]] = {origin: own}
    for base in getattr(origin, "__orig_bases__", ()):
        if get_origin(base) not in (None, typing.Generic, typing.Protocol):
            found |= type_variables(substitute(base, own))
    return found


def substitute(annotation: Any, variables: Mapping[Any, Any]) -> Any:
    """The annotation with type variables replaced by what they are bound to."""
    if isinstance(annotation, TypeVar) or annotation is typing.Self:
        return variables.get(annotation, annotation)
    if isinstance(annotation, list):
        return [substitute(part, variables) for part in annotation]
    args = get_args(annotation)
    if not args or not variables:
        return annotation
    if get_origin(annotation) is Literal:
        return annotation
    if get_origin(annotation) is Annotated:
        return annotated(substitute(args[0], variables), args[1:])
    changed = tuple(substitute(arg, variables) for arg in args)
    return annotation if changed == args else rebuild(annotation, changed)


def rebuild(annotation: Any, args: tuple[Any, ...]) -> Any:
    """The same generic with other arguments."""
    origin: Any = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return union_of(args)
    if origin in _WRAPPERS:
        return origin[args[0]]
    return origin[args]


def union_of(members: Iterable[Any]) -> Any:
    """The union of types known at run time only."""
    made: Any = Union
    return made[tuple(members)]


def annotated(annotation: Any, extras: Iterable[Any]) -> Any:
    """`Annotated` of a type known at run time only."""
    made: Any = Annotated
    return made[(annotation, *extras)]


def unwrap(annotation: Any) -> Any:
    """The annotation without aliases, new types, wrappers and unbound type variables."""
    while True:
        if any(annotation is anything for anything in _ANYTHING):
            return Any
        if annotation is None:
            return type(None)
        if annotation is typing.LiteralString:
            return str
        if isinstance(annotation, str | typing.ForwardRef):
            return Any  # of an alias that contains itself, Python resolves the outside alone
        if isinstance(annotation, TypeVar):
            constraints = annotation.__constraints__
            annotation = union_of(constraints) if constraints else annotation.__bound__ or Any
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, dataclasses.InitVar):
            annotation = annotation.type
        elif is_alias(annotation):
            annotation = annotation.__value__
        elif is_alias(get_origin(annotation)):
            alias: Any = get_origin(annotation)
            bound = zip(alias.__type_params__, get_args(annotation), strict=False)
            annotation = substitute(alias.__value__, dict(bound))
        elif get_origin(annotation) in _WRAPPERS:
            annotation = get_args(annotation)[0]
        elif is_object(get_origin(annotation)):
            annotation = get_origin(annotation)  # a ref knows nothing of type variables
        else:
            return annotation


def is_alias(annotation: object) -> bool:
    """Whether it was made by a `type` statement; such an alias may contain itself."""
    return type(annotation).__name__ == "TypeAliasType"


def is_union(annotation: object) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def is_object(annotation: object) -> bool:
    """Whether it is an Object class: as a parameter it means a ref to such an object."""
    return isinstance(annotation, type) and getattr(annotation, "__perdure_object__", False) is True


def is_pydantic(annotation: object) -> bool:
    """Whether it is a pydantic model or dataclass; found out without importing pydantic."""
    return isinstance(annotation, type) and hasattr(annotation, "__pydantic_validator__")


def is_typed_dict(annotation: object) -> bool:
    return typing.is_typeddict(get_origin(annotation) or annotation)


def is_named_tuple(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")


def is_record(annotation: object) -> bool:
    """Whether it is a class with typed fields: dataclass, Struct, TypedDict or NamedTuple."""
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return False
    return (
        dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or is_typed_dict(cls)
        or is_named_tuple(cls)
    )


class Field(NamedTuple):
    """One field of a record: its name in Python, its name in JSON, its type."""

    name: str
    key: str
    annotation: Any
    required: bool


def fields_of(annotation: Any) -> list[Field]:
    """The fields of a record that can be given, in order, with type variables bound."""
    cls: Any = get_origin(annotation) or annotation
    hints = class_hints(annotation)
    if issubclass(cls, msgspec.Struct):
        return [
            Field(field.name, field.encode_name, hints.get(field.name, Any), field.required)
            for field in msgspec.structs.fields(cls)
        ]
    if is_typed_dict(cls):
        return [
            Field(name, name, hint, _is_required(hint, name in cls.__required_keys__))
            for name, hint in hints.items()
        ]
    if is_named_tuple(cls):
        return [
            Field(name, name, hints.get(name, Any), name not in cls._field_defaults)
            for name in cls._fields
        ]
    return list(_dataclass_fields(cls, hints))


def _is_required(hint: Any, otherwise: bool) -> bool:
    """Whether a TypedDict needs the key; Python does not look into annotations that are text."""
    while (wrapper := get_origin(hint)) in _WRAPPERS or wrapper is Annotated:
        name = getattr(wrapper, "_name", "")
        if name in ("Required", "NotRequired"):
            return bool(name == "Required")
        hint = get_args(hint)[0]
    return otherwise


def _dataclass_fields(cls: Any, hints: dict[str, Any]) -> Iterator[Field]:
    # InitVar pseudo-fields are arguments too; dataclasses.fields() leaves them out.
    for field in cls.__dataclass_fields__.values():
        hint = hints.get(field.name, Any)
        if not field.init or get_origin(hint) is typing.ClassVar or hint is typing.ClassVar:
            continue
        missing = field.default is field.default_factory is dataclasses.MISSING
        yield Field(field.name, field.name, hint, missing)


def class_hints(annotation: Any) -> dict[str, Any]:
    """The annotations of a class and its bases, resolved."""
    cls: Any = get_origin(annotation) or annotation
    variables = type_variables(annotation)
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        module = vars(sys.modules.get(base.__module__, builtins))
        names = {cls.__name__: cls, base.__name__: base}
        scope = (module, {name: value for name, value in names.items() if name not in module})
        bound = {**variables.get(base, {}), typing.Self: cls}
        for name, hint in inspect.get_annotations(base).items():
            resolved = resolve(hint, scope, f"{base.__qualname__}.{name}")
            hints[name] = substitute(resolved, bound)
    return hints


def name_of(annotation: Any) -> str:
    """The annotation as one would write it, without module names."""
    if annotation is type(None) or annotation is None:
        return "None"
    if annotation is Any:
        return "Any"
    origin, args = get_origin(annotation), get_args(annotation)
    if is_union(annotation):
        return " | ".join(name_of(arg) for arg in args)
    if origin is Annotated:
        return name_of(args[0])
    if origin is Literal:
        return f"Literal[{', '.join(repr(arg) for arg in args)}]"
    if isinstance(annotation, type) and origin is None:
        return annotation.__name__
    if origin is not None:
        inner = ", ".join("..." if arg is Ellipsis else name_of(arg) for arg in args) or "()"
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return str(getattr(annotation, "__name__", annotation)).removeprefix("typing.")
