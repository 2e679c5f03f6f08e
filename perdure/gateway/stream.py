"""The body of an answer that comes piece by piece, on its way to one client.

The gateway writes to it what became durable; the face that the request came by attaches itself
and brings the pieces to its socket. A client that reads too slowly is cut off at a bound of bytes
instead of being waited for: what streams goes on without it, and it may come back for the rest.

What comes all at once (the items of one turn, those that a client missed) is no sign of that,
however much it is: nobody can have read it yet. So a client is cut off when there is more for it
while it has had its time, and is over the bound all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

# For so long more than the bound may wait for a client.
_PATIENCE_S = 0.25


class Sink(Protocol):
    """A face's end of a stream."""

    def chunk(self, data: bytes) -> None:
        """Send some bytes."""
        ...

    def finish(self) -> None:
        """The body is complete."""
        ...

    def cut(self) -> None:
        """The body ends here and is not complete; the client must be able to tell. What it has
        not taken of it need not reach it."""
        ...

    def queued(self) -> int:
        """Bytes that the client has not taken yet."""
        ...


class Stream:
    """A body that is being written. `on_left` is called once if the client goes before its end."""

    __slots__ = (
        "_ended",
        "_first",
        "_first_bytes",
        "_limit",
        "_over_since",
        "_sink",
        "_whole",
        "on_left",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sink: Sink | None = None
        self._first: list[bytes] = []
        """What was written before a face was attached."""
        self._first_bytes = 0
        self._over_since = 0.0
        """Since when more than the bound waits; 0 where it does not."""
        self._ended = False
        self._whole = True
        """It has not been cut."""
        self.on_left: Callable[[], None] | None = None

    @property
    def open(self) -> bool:
        """Whether it may still be written to."""
        return not self._ended

    def write(self, data: bytes) -> None:
        """Send some bytes; nothing happens once it has ended or its client has left."""
        if self._ended:
            return
        if self._is_too_slow():
            self._first.clear()
            self.cut()
            self._leave()
        elif self._sink is None:
            self._first.append(data)
            self._first_bytes += len(data)
        else:
            self._sink.chunk(data)

    def _is_too_slow(self) -> bool:
        waiting = self._first_bytes if self._sink is None else self._sink.queued()
        if waiting <= self._limit:
            self._over_since = 0.0
            return False
        now = asyncio.get_running_loop().time()
        self._over_since = self._over_since or now
        return now - self._over_since > _PATIENCE_S

    def end(self) -> None:
        """The body is complete."""
        if not self._ended:
            self._ended = True
            if self._sink is not None:
                self._sink.finish()

    def cut(self) -> None:
        """End it where it is."""
        if not self._ended:
            self._ended = True
            self._whole = False
            if self._sink is not None:
                self._sink.cut()

    def attach(self, sink: Sink) -> None:
        """The head has been sent; from here on the pieces go to `sink`."""
        first, self._first = self._first, []
        self._first_bytes = 0
        if first:
            sink.chunk(b"".join(first))
        if not self._whole:
            sink.cut()
        elif self._ended:
            sink.finish()
        else:
            self._sink = sink

    def left(self) -> None:
        """The client has gone."""
        if not self._ended:
            self._ended = True
            self._leave()

    def _leave(self) -> None:
        on_left, self.on_left, self._sink = self.on_left, None, None
        if on_left is not None:
            on_left()
