"""A session of the resume protocol `perdure.v1`, without any I/O: what a client must remember.

A session outlives the lines it runs on. It knows the token to come back with, the position of the
last message that was received, and each message that the server has not acknowledged; from these
follow what is dropped as a repetition, what is sent again, and what a close code means. The wire:
docs/sessions.md.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

SUBPROTOCOL = "perdure.v1"

Data = str | bytes
Next = Literal["resume", "anew", "ended"]

GONE = 4404
# Any other code but these is an end that both sides know of.
_LINE_IS_LOST = frozenset({1001, 1005, 1006, 1012, 1013, 1014, 1015})

# The server needs acknowledgements only to forget sooner.
_ACK_EVERY = 64


class Opened(NamedTuple):
    """A line is up."""

    id: str
    resumed: bool


class Message(NamedTuple):
    """A message, once and in order."""

    data: Data


class Ephemeral(NamedTuple):
    """A message that is not repeated."""

    data: Data


Event = Opened | Message | Ephemeral


class ProtocolError(Exception):
    """What came is not perdure.v1."""


class Session:
    """One connection's memory, across its lines."""

    def __init__(self) -> None:
        self.id = ""
        """`conn.id` on the server; empty before the first line is up."""
        self.token = ""
        self.position = (0, 0)
        self.outgoing: list[Data] = []
        """Frames to send on the line that is up; the caller sends and clears them."""
        self.up = False
        self._number = 0
        self.unacknowledged: deque[tuple[int, Data]] = deque()
        """(number, message) of which it is not known that the server has them."""
        self._since_ack = 0

    def query(self) -> dict[str, str]:
        """What to add to the URL of the next line."""
        if not self.token:
            return {}
        return {"resume": self.token, "at": "{}.{}".format(*self.position)}

    def send(self, data: Data) -> None:
        """Send a message; it is repeated on each line until it is acknowledged."""
        self._number += 1
        self.unacknowledged.append((self._number, data))
        if self.up:
            self.outgoing.append(_frame(f"m {self._number}", data))

    def send_ephemeral(self, data: Data) -> None:
        """Send what may be lost; it is, while no line is up."""
        if self.up:
            self.outgoing.append(_frame("e", data))

    def receive(self, frame: Data) -> Event | None:
        """What a frame from the server means; None if there is nothing to tell.

        Raises ProtocolError.
        """
        words, data = _parsed(frame)
        try:
            match words[0]:
                case "hello":
                    return self._hello(words)
                case "m":
                    seq, _, index = words[1].partition(".")
                    return self._message((int(seq), int(index)), data)
                case "e":
                    return Ephemeral(data)
                case "ack":
                    self._acknowledged(int(words[1]))
                case _:
                    pass
        except (IndexError, ValueError):
            raise ProtocolError(f"the header {' '.join(words)[:100]!r} makes no sense") from None
        return None

    def _hello(self, words: list[str]) -> Opened:
        self.token, self.id = words[1], words[3]
        self.up = True
        self._acknowledged(int(words[5]))
        self.outgoing += [_frame(f"m {number}", data) for number, data in self.unacknowledged]
        return Opened(self.id, words[4] == "1")

    def _message(self, position: tuple[int, int], data: Data) -> Message | None:
        if position <= self.position:
            return None
        self.position = position
        self._since_ack += 1
        if self._since_ack >= _ACK_EVERY:
            self._since_ack = 0
            self.outgoing.append("ack {}.{}\n".format(*position))
        return Message(data)

    def _acknowledged(self, number: int) -> None:
        while self.unacknowledged and self.unacknowledged[0][0] <= number:
            self.unacknowledged.popleft()

    def lost(self, code: int) -> Next:
        """The line has ended with a close code: how does it go on?

        After `anew` the session is a fresh one, and what was unacknowledged is forgotten: nobody
        knows whether the server had it.
        """
        self.up = False
        self.outgoing.clear()
        if code == GONE:
            Session.__init__(self)
            return "anew"
        return "resume" if code in _LINE_IS_LOST else "ended"


class PlainSession:
    """The same face for a connection without the protocol: its end is the end of its line."""

    id = ""

    def __init__(self) -> None:
        self.outgoing: list[Data] = []
        self.up = False
        self.unacknowledged: deque[tuple[int, Data]] = deque()

    def query(self) -> dict[str, str]:
        return {}

    def send(self, data: Data) -> None:
        self.outgoing.append(data)

    send_ephemeral = send

    def receive(self, frame: Data) -> Event | None:
        return Message(frame)

    def lost(self, code: int) -> Next:
        self.up = False
        return "ended"


def message_of(data: object) -> Data:
    """A message as it is kept and repeated until the server has it; refused, what could not be
    sent on any line. Raises TypeError, or ValueError."""
    if isinstance(data, str):
        try:
            data.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"a message is text that can be UTF-8; there is a lone surrogate at {error.start}"
            ) from None
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        # A copy: what its owner does with it later is not what was sent.
        return bytes(data)
    raise TypeError(
        f"a message is str or bytes, not {type(data).__name__}; for a value there is send_json"
    )


def _frame(header: str, data: Data) -> Data:
    if isinstance(data, str):
        return f"{header}\n{data}"
    return header.encode() + b"\n" + data


def _parsed(frame: Data) -> tuple[list[str], Data]:
    if isinstance(frame, str):
        header, newline, text = frame.partition("\n")
        data: Data = text
    else:
        head, end, data = frame.partition(b"\n")
        header, newline = head.decode("latin-1"), end.decode()
    if not newline:
        raise ProtocolError(f"a message without a header line: {header[:100]!r}")
    return header.split(" "), data
