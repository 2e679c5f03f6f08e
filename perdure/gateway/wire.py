"""The bytes of an HTTP/1.1 answer."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from perdure.gateway.problem import Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
BODILESS = (204, 304)
"""Answers with these statuses have no body: what came behind the head would be read as the next
answer."""
_LENGTHS_MAX = 1024
_LENGTHS = [b"%d\r\n\r\n" % length for length in range(_LENGTHS_MAX)]


def date_line(seconds: float) -> bytes:
    """The Date field for a time in seconds since 1970."""
    return f"date: {formatdate(seconds, usegmt=True)}\r\n".encode()


def result_head(date: bytes) -> bytes:
    """The head of a 200 with JSON, up to the number of bytes; made once for each Date."""
    return _STATUS_LINES[200] + date + b"content-type: application/json\r\ncontent-length: "


def result(head: bytes, body: bytes) -> bytes:
    """A 200 with JSON, on a head from `result_head`."""
    length = len(body)
    # The text of a small number is looked up: formatting it costs as much as all the rest here.
    end = _LENGTHS[length] if length < _LENGTHS_MAX else b"%d\r\n\r\n" % length
    return b"".join((head, end, body))


def answer(
    status: int, headers: Headers, body: bytes, date: bytes, connection: bytes, *, head_only: bool
) -> bytes:
    """Any answer. `connection` is the Connection field's value, or empty for none."""
    parts = _head(status, headers, date, connection)
    if status != 204:
        parts.append(b"content-length: %d\r\n" % len(body))
    parts.append(b"\r\n")
    if not head_only and status not in BODILESS:
        parts.append(body)
    return b"".join(parts)


def stream_head(
    status: int, headers: Headers, date: bytes, connection: bytes, *, chunked: bool
) -> bytes:
    """The head of an answer whose body comes piece by piece: in chunks, or up to the end of the
    connection."""
    parts = _head(status, headers, date, connection)
    parts.append(b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n")
    return b"".join(parts)


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece of a body in chunks; an empty one would be the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(status: int, headers: Headers, date: bytes, connection: bytes) -> list[bytes]:
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if connection:
        parts += (b"connection: ", connection, b"\r\n")
    return parts
