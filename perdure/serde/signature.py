"""A function's parameters and result, checked alike at the wire and between objects.

For the common call a `Signature` decodes the body straight into a Struct that msgspec fills at C
speed, and hands on its values. Whatever goes wrong there is looked at again slowly, parameter by
parameter: that way alone knows every missing, unknown and ill-typed argument, so the fast way
needs no words for its failures, and what it accepts is what the slow way would accept.

Nothing a client sends escapes as another exception than BadJson and BadArguments.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec

from perdure.errors import BadArguments, BadJson, InvalidClass, NotSerializable, ResultTypeError
from perdure.serde.annotations import function_scope, resolve, substitute, type_variables
from perdure.serde.assembly import TOO_DEEP, Assembly, Layout, has_duplicates, taken_apart
from perdure.serde.fits import Check, Finding, Misfit, Never, check_for, exact_class
from perdure.serde.parameters import Parameter
from perdure.serde.readers import decoder_for, json_type
from perdure.serde.writers import encode, to_json

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""

_BRACKET = ord("[")


class Signature:
    """What a handler or step takes and gives. Made once for each; built at its first use.

    By then all classes of the app exist, so annotations may name classes that are defined later.
    `prepare()` builds it at once. Raises InvalidClass for an annotation that means nothing.
    """

    def __init__(self, function: Callable[..., object], *, owner: type | None = None) -> None:
        self.function = function
        self.owner = owner
        self.name = getattr(function, "__name__", repr(function))
        self.where = f"{owner.__name__}.{self.name}" if owner else self.name
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if owner is not None:
            if not parameters or not parameters[0].kind < inspect.Parameter.KEYWORD_ONLY:
                raise InvalidClass(f"{self.where} takes no `self`")
            if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                del parameters[0]
        self.parameters: dict[str, inspect.Parameter] = {p.name: p for p in parameters}
        self._return_annotation = signature.return_annotation
        self._layout: Layout | None = None
        # Each is replaced by what it stands for when it is first called: the calls after that
        # need no look at whether it was built.
        self._read_object: Callable[[bytes], Any] = self._first_object
        self._read_array: Callable[[bytes], Arguments] = self._first_array
        self._result_class: type = Never
        self._result_check: Check = self._first_result
        self._colons = 0
        self._quoted = tuple(f'"{name}"'.encode() for name in self.parameters)
        self._nothing: tuple[Any, ...] | None = None
        self._split: int | None = None
        self._positional: tuple[tuple[type, Check], ...] | None = None

    def __repr__(self) -> str:
        return f"<signature of {self.where}>"

    # -- what it is made of --------------------------------------------------------------------

    def prepare(self) -> None:
        """Resolve and build everything now, so that a mistake in the class shows at the start."""
        self.resolved()
        self._build_result()
        if not self._variadic():
            self._build_object()
            self._build_array()

    def resolved(self) -> list[Parameter]:
        """The parameters with their annotations resolved."""
        return self._laid_out().all

    def _laid_out(self) -> Layout:
        if self._layout is None:
            layout = Layout([self._parameter(one) for one in self.parameters.values()])
            self._prepare_bind(layout)
            self._layout = layout
        return self._layout

    def _parameter(self, parameter: inspect.Parameter) -> Parameter:
        where = f"parameter `{parameter.name}`"
        annotation = self._resolve(parameter.annotation, where)
        try:
            return Parameter(parameter, annotation)
        except InvalidClass as error:  # a field of a class that the annotation names
            raise InvalidClass(f"{self.where}, {where}: {error.message}", hint=error.hint) from None

    @property
    def returns(self) -> Any:
        """The return annotation, resolved; Any if there is none. Of an async generator it is that
        of its items: what `check_result` and `encode_result` take is an item then."""
        returns = self._resolve(self._return_annotation, "the result")
        if not inspect.isasyncgenfunction(self.function):
            return returns
        return typing.get_args(returns)[0] if typing.get_args(returns) else Any

    @property
    def result_type(self) -> Any:
        """The type that msgspec reads a result's JSON into, for schemas and clients."""
        return json_type(self.returns)

    def _resolve(self, annotation: Any, what: str) -> Any:
        if annotation is inspect.Parameter.empty:
            return Any
        scope = function_scope(self.function, self.owner)
        resolved = resolve(annotation, scope, f"{self.where}, {what}")
        if self.owner is None:
            return resolved
        bound = type_variables(self.owner).get(self._definer(), {})
        return substitute(resolved, {**bound, typing.Self: self.owner})

    def _definer(self) -> type | None:
        """The class whose body the function stands in: its type variables are the ones meant."""
        for base in self.owner.__mro__ if self.owner else ():
            if base.__dict__.get(self.name) is self.function:
                return base
        return self.owner

    def _variadic(self) -> bool:
        return any(parameter.variadic for parameter in self.resolved())

    # -- JSON ----------------------------------------------------------------------------------

    def decode_json(self, body: bytes) -> Arguments:
        """The arguments in the body of a call: an object of named ones, an array of positional
        ones, or nothing.

        `*args` can be given by name as an array, positional-only parameters by their name.
        Raises BadJson, or BadArguments with a finding for each argument that does not fit;
        their paths are `$.name`, in an array `$[index]`.
        """
        if not body:
            nothing = self._nothing
            return self._decode_nothing() if nothing is None else (nothing, {})
        try:
            if body[0] == _BRACKET:
                return self._read_array(body)
            values = self._read_object(body)
            # msgspec would silently take the last of two arguments of one name. Such a body has
            # more colons than one that has just what is needed.
            if body.count(b":") > self._colons and self._has_duplicates(body):
                return self._decode_slowly(body)
            args = msgspec.structs.astuple(values)
            return (args, {}) if self._split is None else self._parted(args)
        except Exception:
            return self._decode_slowly(body)

    def _has_duplicates(self, body: bytes) -> bool:
        # A name that stands there once at most, with no way to write it otherwise, is no
        # duplicate: a few scans at memory speed spare taking the body apart.
        if b"\\" not in body:
            for quoted in self._quoted:
                if body.count(quoted) > 1:
                    break
            else:
                return False
        return has_duplicates(body)

    def _parted(self, args: tuple[Any, ...]) -> Arguments:
        """Cut where the keyword-only parameters begin."""
        at = self._split
        names = [parameter.name for parameter in self.resolved()[at:]]
        return args[:at], dict(zip(names, args[at:], strict=True))

    def _first_object(self, body: bytes) -> Any:
        self._build_object()
        return self._read_object(body)

    def _first_array(self, body: bytes) -> Arguments:
        self._build_array()
        return self._read_array(body)

    def _build_object(self) -> None:
        parameters = self.resolved()
        if self._variadic():
            self._read_object = _refuse
            return
        positional = sum(parameter.positional for parameter in parameters)
        if positional < len(parameters):
            self._split = positional
        self._colons = max(1, sum(parameter.required for parameter in parameters))
        if self._split is None and all(not p.required and p.shared_default for p in parameters):
            self._nothing = tuple(parameter.default for parameter in parameters)
        shape = _struct(self.name, parameters, array_like=False)
        self._read_object = decoder_for(shape).decode

    def _build_array(self) -> None:
        parameters = self.resolved()
        if any(not parameter.positional for parameter in parameters):
            self._read_array = _refuse
            return
        read = decoder_for(_struct(self.name, parameters, array_like=True)).decode
        astuple = msgspec.structs.astuple
        self._read_array = lambda body: (astuple(read(body)), {})

    def _decode_nothing(self) -> Arguments:
        if not self._colons:
            self._build_object()
            if self._nothing is not None:
                return self._nothing, {}
        return self._decode_slowly(b"{}")

    def _decode_slowly(self, body: bytes) -> Arguments:
        layout = self._laid_out()
        try:
            positional, named, twice = taken_apart(body)
            assembly = Assembly(layout, positional, named, Parameter.from_json, wire=True)
        except RecursionError:
            raise BadJson(TOO_DEEP) from None
        for name in twice:
            assembly.errors.append((f"$.{name}", f"Argument `{name}` is given twice"))
        return self._finished(assembly)

    # -- query strings -------------------------------------------------------------------------

    def decode_query(self, query: str) -> Arguments:
        """The arguments in a query string: `by=2&tag=a&tag=b`.

        Texts are read as the annotation says: `2` as an int, `true` or `1` as a bool, `null` as
        None. A list is given by repeating its name; a dataclass, dict and the like as JSON.
        Raises BadArguments.
        """
        if not query:
            return self.decode_json(b"")
        layout = self._laid_out()
        named: dict[str, Any] = {}
        try:
            for name, text in _pairs(query):
                named.setdefault(name, []).append(text)
        except ValueError as error:
            raise self._bad([("$", f"The query string cannot be read: {error}")]) from None
        assembly = Assembly(layout, [], named, Parameter.from_query, wire=True)
        return self._finished(assembly)

    # -- Python values -------------------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of a call from Python, checked against the annotations.

        A value passes, as the same object, where a type checker would let it pass: an instance
        of the annotated class or of a subclass, an int for a float, a ref (or an object itself)
        for an Object class. Nothing is converted: a dict is no dataclass, a str no datetime.
        Containers are looked at item by item, dataclasses and models are trusted.

        Defaults that could be changed are filled in as fresh copies; others are left to Python.
        Raises BadArguments, for too many and missing arguments as well.
        """
        checks = self._positional
        given = len(args)
        if checks is None or given > len(checks):
            return self._bind_slowly(args, kwargs)
        try:
            for value, (exact, check) in zip(args, checks):  # noqa: B905 - `strict` costs a tenth
                if type(value) is not exact:
                    check(value)
            for name, value in kwargs.items():
                index, exact, check = self._by_name[name]
                if index < given:
                    return self._bind_slowly(args, kwargs)
                if type(value) is not exact:
                    check(value)
        except Exception:
            return self._bind_slowly(args, kwargs)
        if given < self._needed:
            for name in self._required[given:]:
                if name not in kwargs:
                    return self._bind_slowly(args, kwargs)
        for name in self._required_keywords:
            if name not in kwargs:
                return self._bind_slowly(args, kwargs)
        return args, kwargs

    def _prepare_bind(self, layout: Layout) -> None:
        parameters = layout.all
        self._by_name = {
            parameter.name: (index, parameter.exact, parameter.check)
            for index, parameter in enumerate(parameters)
            if not parameter.variadic and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
        }
        self._required = [p.name for p in layout.leading if p.required]
        self._required_keywords = [p.name for p in layout.keyword_only if p.required]
        self._needed = len(self._required)
        if all(parameter.shared_default and not parameter.variadic for parameter in parameters):
            self._positional = tuple((p.exact, p.check) for p in parameters if p.positional)

    def _bind_slowly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        if self._layout is None:
            self._laid_out()
            return self.bind(args, kwargs)
        assembly = Assembly(self._layout, args, kwargs, Parameter.from_python, wire=False)
        return self._finished(assembly)

    def _finished(self, assembly: Assembly) -> Arguments:
        if assembly.errors:
            raise self._bad(assembly.errors)
        return tuple(assembly.args), assembly.kwargs

    def _bad(self, errors: list[Finding]) -> BadArguments:
        path, text = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return BadArguments(f"{self.where}: {text} at `{path}`{more}", errors=errors)

    # -- the result ----------------------------------------------------------------------------

    def check_result(self, value: Any) -> Any:
        """The value, if it fits the return annotation; else ResultTypeError. The rules are those
        of `bind`; without an annotation anything fits."""
        if type(value) is self._result_class:
            return value
        try:
            self._result_check(value)
        except Misfit as error:
            path, text = error.findings[0]
            at = f" at `${path}`" if path else ""
            raise ResultTypeError(f"the result of {self.where} does not fit: {text}{at}") from None
        return value

    def encode_result(self, value: Any) -> bytes:
        """The checked result as JSON. Raises ResultTypeError, also for what has no JSON form."""
        if type(value) is not self._result_class:
            self.check_result(value)
        try:
            return encode(value)
        except Exception:
            pass
        try:
            return to_json(value)
        except NotSerializable as error:
            raise ResultTypeError(f"the result of {self.where}: {error.message}") from None

    def _first_result(self, value: Any) -> None:
        self._build_result()
        self._result_check(value)

    def _build_result(self) -> None:
        returns = self.returns
        self._result_check = check_for(returns)
        self._result_class = exact_class(returns)


def _pairs(query: str) -> list[tuple[str, str]]:
    """Names and texts of a query string."""
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    parts = [part.partition("=") for part in query.split("&") if part]
    return [(name, text) for name, _, text in parts]


def _struct(name: str, parameters: Sequence[Parameter], *, array_like: bool) -> type:
    """A Struct with the parameters as fields.

    Its fields have names of their own, so that no parameter clashes with what a Struct has.
    """
    names = {f"f{index}": parameter.name for index, parameter in enumerate(parameters)}
    fields: list[Any] = []
    for short, parameter in zip(names, parameters, strict=True):
        if parameter.required:
            fields.append((short, parameter.type))
        elif parameter.shared_default:
            fields.append((short, parameter.type, parameter.default))
        else:
            factory = msgspec.field(default_factory=parameter.fresh_default)
            fields.append((short, parameter.type, factory))
    return msgspec.defstruct(
        name,
        fields,
        rename=names,
        array_like=array_like,
        forbid_unknown_fields=True,
        kw_only=not array_like,
        gc=False,
    )


def _refuse(body: bytes) -> NoReturn:
    raise ValueError("parameters that only the slow way can fill")
