"""The turn slot: which turn the worker is in, readable from outside, even after its death.

It is memory shared by worker and supervisor. Python that hangs cannot be asked, and a process that
was killed cannot answer; the slot still says which object and which event it was.

    0      u64   turn number: odd inside a turn, even between turns
    8      u64   beats: grows as long as the worker's event loop goes round
    16     u32   length of the address
    20     u32   length of the event, which may be more than is kept of it
    24     2048  the address, UTF-8
    2072   1024  the event's beginning

`begin` writes the number last and `end` writes it alone, so an odd number always stands beside
the address and event that belong to it. The supervisor trusts them only when the worker is dead
or has not moved for a while; nothing is locked, since a lock could be held by a dead process.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
from typing import NamedTuple

ADDRESS_BYTES_MAX = 2048
EVENT_BYTES_MAX = 1024

_BODY = struct.Struct(f"<II{ADDRESS_BYTES_MAX}s{EVENT_BYTES_MAX}s")
_BODY_AT = 16
_SIZE = 4096
_pack_into = _BODY.pack_into


class Look(NamedTuple):
    """What the supervisor saw in the slot."""

    number: int
    address: str
    event: bytes
    """Its first `EVENT_BYTES_MAX` bytes."""
    in_turn: bool
    beats: int


class TurnSlot:
    """One worker's slot. `begin` and `end` cost 0.3 µs together, on each turn of each object."""

    __slots__ = ("_bytes", "_map", "_number", "_words", "fd")

    def __init__(self, fd: int) -> None:
        """Map the slot behind `fd`, made by `TurnSlot.create` here or in the parent process."""
        self.fd = fd
        self._map = mmap.mmap(fd, _SIZE)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")
        self._number = self._words[0]

    @classmethod
    def create(cls) -> TurnSlot:
        """A fresh slot; hand its `fd` to the worker."""
        if sys.platform == "linux":
            fd = os.memfd_create("perdure-turn-slot")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def begin(self, address: str, event: bytes) -> None:
        """A turn begins: call it before any code of the object runs.

        `event` has to be the same bytes when the same thing is delivered again, by a repeated
        request as well as after a restart: what is to be done (handler and body), without call
        ids and times. Deaths are counted by it.
        """
        # One pack_into of fixed size: faster than slicing in three pieces of the right length.
        body = address.encode()
        _pack_into(self._bytes, _BODY_AT, len(body), len(event), body, event)
        number = self._number + 1
        self._number = self._words[0] = number

    def end(self) -> None:
        """The turn is over, however it went."""
        number = self._number + 1
        self._number = self._words[0] = number

    def beat(self) -> None:
        """The event loop goes round; call it about once a second."""
        self._words[1] += 1

    def look(self) -> Look:
        """What the slot says now."""
        number = self._words[0]
        address_size, event_size, address, event = _BODY.unpack_from(self._bytes, _BODY_AT)
        return Look(
            number,
            address[: min(address_size, ADDRESS_BYTES_MAX)].decode(errors="replace"),
            event[: min(event_size, EVENT_BYTES_MAX)],
            number % 2 == 1,
            self._words[1],
        )

    def close(self) -> None:
        """Unmap the slot and close its descriptor."""
        self._words.release()
        self._bytes.release()
        self._map.close()
        os.close(self.fd)
