"""Values and JSON, checked against annotations: the one door for everything that needs it.

What a handler, a step or a promise is given and gives goes through here, at the wire as between
objects. How each annotation is read stands in readers.py, how values are written in writers.py,
what fits between objects in fits.py, and how a function's arguments are put together in
signature.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.errors import BadArguments, BadJson
from perdure.serde.fits import Check, Misfit, check_for, findings
from perdure.serde.readers import decoder_for, json_type
from perdure.serde.signature import Arguments, Signature
from perdure.serde.writers import to_json

__all__ = ["Arguments", "Signature", "check", "from_json", "to_json"]

_KEPT = 256
_decoders: dict[int, tuple[Any, msgspec.json.Decoder[Any]]] = {}
_checks: dict[int, tuple[Any, Check]] = {}


def from_json(body: bytes, annotation: Any) -> Any:
    """The JSON text as a value of the annotated type. Raises BadJson or BadArguments."""
    # By identity: `str | date` equals `date | str`, yet they are read differently. The annotation
    # is kept with its decoder, so that its id stays its own.
    known = _decoders.get(id(annotation))
    if known is None:
        if len(_decoders) >= _KEPT:
            _decoders.clear()
        known = _decoders[id(annotation)] = annotation, decoder_for(json_type(annotation))
    try:
        return known[1].decode(body)
    except RecursionError:
        raise BadJson("the text is nested too deeply") from None
    except (msgspec.ValidationError, Misfit) as error:
        found = findings(error, "$")
    except ValueError as error:
        raise BadJson(str(error)) from None
    except Exception as error:  # raised by a class of the app while it was made
        found = findings(error, "$")
    raise BadArguments(f"{found[0][1]} at `{found[0][0]}`", errors=found)


def check(value: object, annotation: Any) -> None:
    """Raise BadArguments, with paths, if a Python value does not fit the annotation."""
    known = _checks.get(id(annotation))
    if known is None:
        if len(_checks) >= _KEPT:
            _checks.clear()
        known = _checks[id(annotation)] = annotation, check_for(annotation)
    try:
        known[1](value)
    except Misfit as error:
        found = findings(error, "$")
        raise BadArguments(f"{found[0][1]} at `{found[0][0]}`", errors=found) from None
