"""Numbers and ids that stand for objects and calls, the same in every process and for ever."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from perdure.errors import UnknownCall
from perdure.ref import format_address, parse_address

_OID_BITS = (1 << 63) - 1


_first_names: dict[str, str] = {}


def know_aliases(name: str, former: Sequence[str]) -> None:
    """From now on a class and its former names mean the same objects: those of the oldest name."""
    for one in (name, *former):
        if former:
            _first_names[one] = former[-1]
        else:
            _first_names.pop(one, None)


def first_name(name: str) -> str:
    """The oldest name of a class: rows have it, so that a renaming can be taken back."""
    return _first_names.get(name, name)


def oid_of(kind: str, key: str) -> int:
    """63 bits of BLAKE2b of the address.

    Two addresses may meet in one number (a chance of one in a thousand with 130 million objects);
    the host compares the address that is stored and refuses the second.
    """
    digest = blake2b(format_address(first_name(kind), key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & _OID_BITS


def call_id(oid: int, unique: str) -> str:
    """An id by which the object that has the call is found: 16 hex digits, a dash, the rest."""
    return f"{oid:016x}-{unique}"


def oid_of_call(id_: str) -> int:
    """The object of a call id. Raises UnknownCall for what is no call id."""
    head, dash, rest = id_.partition("-")
    if len(head) != 16 or not dash or not rest:
        raise UnknownCall(f"{id_!r} is no call id")
    try:
        return int(head, 16) & _OID_BITS
    except ValueError:
        raise UnknownCall(f"{id_!r} is no call id") from None


def to_oid(oid: int) -> str:
    """Where a message goes to an object of which only the number is known (`Sent.to`)."""
    return f"#{oid:016x}"


def oid_of_target(to: str) -> int:
    """The object a message goes to: named by its address, or by `to_oid`."""
    if to[0] == "#":
        return int(to[1:], 16)
    return oid_of(*parse_address(to))
