"""A call's arguments put together, with everything that is wrong with them found at once.

It is the careful way of a Signature: it takes positional and named arguments, as raw JSON, as
texts of a query string or as Python values, matches them with the parameters, and collects a
finding for each that is missing, unknown, given twice or of the wrong type.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.errors import BadArguments, BadJson
from perdure.serde.fits import Finding, findings
from perdure.serde.parameters import Parameter

_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
TOO_DEEP = "the body is nested too deeply"

Take = Callable[[Parameter, Any], Any]
"""Makes a value for a parameter of what came in for it."""


class Layout:
    """A function's parameters, sorted once by how they can be given."""

    __slots__ = ("all", "keyword_only", "leading", "others", "rest")

    def __init__(self, parameters: list[Parameter]) -> None:
        self.all = parameters
        self.leading = [parameter for parameter in parameters if parameter.positional]
        self.keyword_only = [
            parameter for parameter in parameters if parameter.kind is parameter.kind.KEYWORD_ONLY
        ]
        self.rest = _first(parameters, inspect.Parameter.VAR_POSITIONAL)
        self.others = _first(parameters, inspect.Parameter.VAR_KEYWORD)


def _first(parameters: list[Parameter], kind: object) -> Parameter | None:
    return next((parameter for parameter in parameters if parameter.kind is kind), None)


class Assembly:
    """Arguments being put together: `args` and `kwargs`, right if `errors` is empty.

    `take` makes a value of what came in. With `wire` it came from outside: then `*args` may be
    given by name, and the places of positional arguments are those in the array that was sent.
    """

    def __init__(
        self,
        layout: Layout,
        positional: Sequence[Any],
        named: Mapping[str, Any],
        take: Take,
        *,
        wire: bool,
    ) -> None:
        self.args: list[Any] = []
        self.kwargs: dict[str, Any] = {}
        self.errors: list[Finding] = []
        self._positional = positional
        self._named = dict(named)
        self._take = take
        self._wire = wire
        for index, parameter in enumerate(layout.leading):
            self._add_positional(index, parameter)
        for parameter in layout.keyword_only:
            self._add_keyword(parameter)
        if layout.rest is not None:
            self._add_rest(layout.rest)
        elif len(positional) > len(layout.leading):
            self._refuse_rest(len(layout.leading))
        if layout.others is not None:
            self._add_others(layout.others)
        elif self._named:
            self._refuse_others([parameter.name for parameter in layout.all])

    def _place(self, index: int, name: str) -> str:
        return f"$[{index}]" if self._wire and self._positional else f"$.{name}"

    def _add_positional(self, index: int, parameter: Parameter) -> None:
        name = parameter.name
        path = self._place(index, name)
        # Python takes these by place alone; JSON has names for everything.
        placed_only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if index < len(self._positional):
            if name in self._named and not placed_only:
                del self._named[name]
                self.errors.append((f"$.{name}", f"Argument `{name}` is given twice"))
            self._add(self.args.append, parameter, self._positional[index], path)
        elif name in self._named and (self._wire or not placed_only):
            self._add(self.args.append, parameter, self._named.pop(name), path)
        else:
            self._add_default(self.args.append, parameter, path)

    def _add_keyword(self, parameter: Parameter) -> None:
        name = parameter.name

        def put(value: Any) -> None:
            self.kwargs[name] = value

        if name in self._named:
            self._add(put, parameter, self._named.pop(name), f"$.{name}")
        else:
            self._add_default(put, parameter, f"$.{name}")

    def _add_rest(self, parameter: Parameter) -> None:
        """`*args`: what positional parameters left over, or an array under its own name."""
        rest = self._positional[len(self.args) :]
        start = len(self.args)
        for index, one in enumerate(rest, start):
            path = self._place(index, f"{parameter.name}[{index - start}]")
            self._add(self.args.append, parameter, one, path)
        if rest or not self._wire or parameter.name not in self._named:
            return
        given = self._named.pop(parameter.name)
        if not isinstance(given, list):
            try:
                given = _RAW_ARRAY.decode(given)
            except ValueError as error:
                self.errors += findings(error, f"$.{parameter.name}")
                return
        else:
            given = [[text] for text in given]
        for index, one in enumerate(given):
            self._add(self.args.append, parameter, one, f"$.{parameter.name}[{index}]")

    def _add_others(self, parameter: Parameter) -> None:
        """`**kwargs`: the names that no parameter has."""
        for name, one in self._named.items():
            try:
                self.kwargs[name] = self._take(parameter, one)
            except Exception as error:
                self.errors += findings(error, f"$.{name}")

    def _refuse_rest(self, limit: int) -> None:
        path = f"$[{limit}]" if self._wire else "$"
        text = f"Expected at most {limit} positional arguments, got {len(self._positional)}"
        self.errors.append((path, text))

    def _refuse_others(self, known: list[str]) -> None:
        names = ", ".join(f"`{name}`" for name in known) or "none"
        for name in self._named:
            self.errors.append((f"$.{name}", f"Unknown argument `{name}`; there are: {names}"))

    def _add(self, put: Callable[[Any], None], parameter: Parameter, raw: Any, path: str) -> None:
        value: Any = None
        try:
            value = self._take(parameter, raw)
        except Exception as error:
            self.errors += findings(error, path)
        put(value)

    def _add_default(self, put: Callable[[Any], None], parameter: Parameter, path: str) -> None:
        if parameter.required:
            self.errors.append((path, f"Missing required argument `{parameter.name}`"))
            put(None)
        else:
            put(parameter.fresh_default())


def taken_apart(body: bytes) -> tuple[list[Any], dict[str, Any], list[str]]:
    """Positional and named arguments as raw JSON, and the names that come twice."""
    text = body.strip(b" \t\r\n") or b"{}"
    try:
        text.decode()
        if text[:1] == b"{":
            return [], _RAW_OBJECT.decode(text), _duplicates(text) if has_duplicates(text) else []
        if text[:1] == b"[":
            return _RAW_ARRAY.decode(text), {}, []
        _RAW.decode(text)
    except RecursionError:
        raise BadJson(TOO_DEEP) from None
    except ValueError as error:
        raise BadJson(str(error)) from None
    message = "Expected an object of named arguments or an array of positional ones"
    raise BadArguments(message, errors=[("$", message)])


def has_duplicates(body: bytes) -> bool:
    """Whether an object has a name twice: then its parts have fewer colons than the whole."""
    parts = _RAW_OBJECT.decode(body)
    colons = sum(bytes(raw).count(b":") for raw in parts.values()) + len(parts)
    return colons != body.count(b":") and bool(_duplicates(body))


def _duplicates(body: bytes) -> list[str]:
    names: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        names[:] = [name for name, _ in pairs]  # the outermost object comes last

    # Numbers stay text: only the names matter, and a long one may have too many digits.
    json.loads(body, object_pairs_hook=note, parse_int=str, parse_float=str)
    return sorted({name for name in names if names.count(name) > 1})
