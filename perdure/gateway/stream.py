"""The body of an answer that comes piece by piece, on its way to one client.

The gateway writes to it what became durable; the face that the request came by attaches itself
and brings the pieces to its socket. A client that reads too slowly is cut off at a bound of bytes
instead of being waited for: what streams goes on without it, and it may come back for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Sink(Protocol):
    """A face's end of a stream."""

    def chunk(self, data: bytes) -> None:
        """Send some bytes."""
        ...

    def finish(self) -> None:
        """The body is complete."""
        ...

    def cut(self) -> None:
        """The body ends here and is not complete; the client must be able to tell."""
        ...

    def queued(self) -> int:
        """Bytes that the client has not taken yet."""
        ...


class Stream:
    """A body that is being written. `on_left` is called once if the client goes before its end."""

    __slots__ = ("_ended", "_first", "_limit", "_sink", "on_left")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sink: Sink | None = None
        self._first: list[bytes] = []
        """What was written before a face was attached."""
        self._ended = False
        self.on_left: Callable[[], None] | None = None

    @property
    def open(self) -> bool:
        """Whether it may still be written to."""
        return not self._ended

    def write(self, data: bytes) -> None:
        """Send some bytes; nothing happens once it has ended or its client has left."""
        if self._ended:
            return
        if self._sink is None:
            self._first.append(data)
            return
        self._sink.chunk(data)
        if self._sink.queued() > self._limit:
            self.cut()
            self._leave()

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
            if self._sink is not None:
                self._sink.cut()

    def attach(self, sink: Sink) -> None:
        """The head has been sent; from here on the pieces go to `sink`."""
        first, self._first = self._first, []
        if first:
            sink.chunk(b"".join(first))
        if self._ended:
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
