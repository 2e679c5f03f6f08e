"""Framing, as the cases of Autobahn ask for it, on the reader alone and on the own front's wire."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Connection, Object
from perdure.gateway.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Reader,
    agree_on_deflate,
    encode,
    encode_close,
    encode_compressed,
    read_close,
)
from tests.sessions.faces import Served, own_front

FIN = 0x80


def frame(first: int, body: bytes = b"", *, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    """A frame as a client sends it."""
    size = len(body)
    bit = 0x80 if mask is not None else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 1 << 16:
        head = bytes((first, bit | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8)
    if mask is None:
        return head + body
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))


def read(*pieces: bytes, most: int = 1 << 20, deflate: bool = False) -> tuple[list, int | None]:
    """What a reader finds in bytes, and the code it breaks with."""
    reader = Reader(most, deflate)
    found = []
    for piece in pieces:
        if reader.broken is None:
            found += reader.feed(piece)
    return found, reader.broken[0] if reader.broken else None


BODIES = st.binary(max_size=300) | st.sampled_from([b"x" * 125, b"x" * 126, b"x" * 70_000])


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), BODIES), max_size=5),
    st.lists(st.integers(1, 400), max_size=8),
)
def test_frames_are_found_however_the_bytes_are_cut(
    messages: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    sent = []
    for opcode, body in messages:
        if opcode == TEXT:
            body = body.hex().encode()[:300]
        elif opcode != BINARY:
            body = body[:125]
        sent.append((opcode, body))
    data = b"".join(frame(FIN | opcode, body) for opcode, body in sent)
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    found, broken = read(*pieces, data)
    assert broken is None
    assert found == sent


def test_a_message_in_fragments_with_control_frames_between() -> None:
    data = frame(TEXT, b"\xe2\x98") + frame(FIN | PING, b"?") + frame(0, b"\x83") + frame(FIN, b"!")
    assert read(data) == ([(PING, b"?"), (TEXT, "\N{SNOWMAN}!".encode())], None)
    assert read(*(data[at : at + 1] for at in range(len(data)))) == read(data)
    empty = frame(BINARY) + frame(0) + frame(FIN)
    assert read(empty) == ([(BINARY, b"")], None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(FIN | 0x3, b"x"), 1002),
        (frame(FIN | 0xB, b"x"), 1002),
        (frame(FIN | 0x40 | TEXT, b"x"), 1002),
        (frame(FIN | 0x20 | TEXT, b"x"), 1002),
        (frame(FIN | 0x10 | PING, b"x"), 1002),
        (frame(FIN | TEXT, b"x", mask=None), 1002),
        (frame(PING, b"x"), 1002),
        (frame(FIN | PING, b"x" * 126), 1002),
        (frame(FIN, b"x"), 1002),
        (frame(0, b"x"), 1002),
        (frame(TEXT, b"x") + frame(FIN | TEXT, b"y"), 1002),
        (frame(TEXT, b"x") + frame(FIN | BINARY, b"y"), 1002),
        (frame(FIN | TEXT, b"\xff"), 1007),
        (frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
        (frame(FIN | TEXT, b"\xc0\xaf"), 1007),
        (frame(FIN | TEXT, b"\xf4\x90\x80\x80"), 1007),
        (frame(TEXT, b"\xe2") + frame(FIN, b"x"), 1007),
        (frame(FIN | BINARY, b"x" * ((1 << 20) + 1))[:20], 1009),
        (frame(BINARY, b"x" * (1 << 20)) + frame(FIN, b"x"), 1009),
        (b"\x82\xff" + b"\xff" * 8 + b"\x01\x02\x03\x04", 1009),
    ],
)
def test_what_a_client_may_not_send(data: bytes, code: int) -> None:
    before = frame(FIN | TEXT, b"before")
    found, broken = read(before + data)
    assert (found[0], broken) == ((TEXT, b"before"), code)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("body", "read_as"),
    [
        (b"", (1005, "")),
        (b"\x03", (1002, None)),
        (b"\x03\xe8", (1000, "")),
        (b"\x03\xe8bye", (1000, "bye")),
        (b"\x03\xe8\xff", (1007, None)),
        *(
            (code.to_bytes(2), (1002, None))
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
        ),
        *((code.to_bytes(2), (code, "")) for code in (1001, 1003, 1007, 1014, 3000, 4999)),
    ],
)
def test_close_codes(body: bytes, read_as: tuple[int, str | None]) -> None:
    code, reason = read_close(body)
    assert code == read_as[0]
    assert read_as[1] is None or reason == read_as[1]


def test_a_close_frame_is_never_too_long() -> None:
    for reason in ("x" * 500, "\N{SNOWMAN}" * 100):
        made = encode_close(1000, reason)
        assert len(made) <= 127
        made[4:].decode()
    assert encode_close(1005, "ignored") == b"\x88\x00"


@given(st.binary(max_size=3000), st.integers(9, 15))
def test_compressed_messages_come_back(body: bytes, bits: int) -> None:
    made = encode_compressed(BINARY, body * 3, bits)
    head = 2 if made[1] < 126 else 4
    assert read(frame(made[0], made[head:]), deflate=True) == ([(BINARY, body * 3)], None)


def test_what_is_no_compressed_message() -> None:
    assert read(frame(FIN | 0x40 | TEXT, b"\xff\xff\xff"), deflate=True)[1] == 1007
    bomb = encode_compressed(BINARY, bytes(1 << 20), 15)
    assert read(frame(bomb[0], bomb[4:]), deflate=True, most=1000)[1] == 1009
    assert read(frame(FIN | 0x40 | PING, b""), deflate=True)[1] == 1002
    assert read(frame(TEXT, b"x") + frame(FIN | 0x40, b"x"), deflate=True)[1] == 1002


@pytest.mark.parametrize(
    ("offered", "bits"),
    [
        ("permessage-deflate", 15),
        ("permessage-deflate; client_max_window_bits", 15),
        ("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12", 12),
        ('x-unknown, permessage-deflate; server_max_window_bits="9"', 9),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", 15),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; server_max_window_bits=\u00b2", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=16, permessage-deflate", 15),
        ("permessage-deflate; client_max_window_bits=x", None),
        ("permessage-deflate; something", None),
        ("x-webkit-deflate-frame", None),
        ("", None),
    ],
)
def test_what_is_agreed_to(offered: str, bits: int | None) -> None:
    agreed = agree_on_deflate(offered)
    assert (agreed[0] if agreed else None) == bits


# --- on the wire


class Echo(Object):
    def on_message(self, conn: Connection, data: str | bytes) -> None:
        conn.send(data)


class Wire:
    """A socket that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes, *, piecewise: bool = False) -> None:
        if not piecewise:
            self._writer.write(data)
        for at in range(len(data) if piecewise else 0):
            self._writer.write(data[at : at + 1])
            await self._writer.drain()
            await asyncio.sleep(0)

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(20):
            first, size = await self._reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await self._reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await self._reader.readexactly(8))
            return first, await self._reader.readexactly(size)

    async def closed_with(self) -> int:
        """The code of the close frame; then nothing follows."""
        while True:
            first, body = await self.frame()
            if first == FIN | CLOSE:
                break
        await self.send(frame(FIN | CLOSE, body))
        async with asyncio.timeout(20):
            assert await self._reader.read() == b""
        return int.from_bytes(body[:2])

    async def head(self) -> bytes:
        async with asyncio.timeout(20):
            return await self._reader.readuntil(b"\r\n\r\n")


HANDSHAKE = (
    b"GET /Echo/a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@asynccontextmanager
async def wire(served: Served, behind: bytes = b"") -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    one = Wire(reader, writer)
    writer.write(HANDSHAKE + behind)
    head = await one.head()
    assert b"101 Switching Protocols" in head
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    yield one
    writer.transport.abort()


async def test_the_cases_of_framing_on_the_wire(tmp_path: Path) -> None:
    async with own_front(tmp_path, Echo) as served:
        # What is sent along with the head, or byte by byte, is not lost.
        async with wire(served, frame(FIN | TEXT, b"early")) as one:
            assert await one.frame() == (FIN | TEXT, b"early")
            await one.send(frame(FIN | TEXT, b"slow"), piecewise=True)
            assert await one.frame() == (FIN | TEXT, b"slow")
            for size in (0, 1, 125, 126, 127, 128, 65_535, 65_536, 1 << 20):
                body = os.urandom(size)
                await one.send(frame(FIN | BINARY, body))
                assert await one.frame() == (FIN | BINARY, body)
            await one.send(b"".join(frame(FIN | PING, bytes((n,))) for n in range(10)))
            for n in range(10):
                assert await one.frame() == (FIN | PONG, bytes((n,)))
            await one.send(frame(FIN | PONG, b"nobody asked"))
            await one.send(
                frame(TEXT, b"a") + frame(FIN | PING, b"p") + frame(0, b"b") + frame(FIN, b"c")
            )
            assert await one.frame() == (FIN | PONG, b"p")
            assert await one.frame() == (FIN | TEXT, b"abc")
            await one.send(frame(FIN | CLOSE, (1000).to_bytes(2) + b"bye"))
            assert await one.frame() == (FIN | CLOSE, (1000).to_bytes(2))
        for sent, code in (
            (frame(FIN | TEXT, b"\xff"), 1007),
            (frame(FIN | TEXT, b"x", mask=None), 1002),
            (frame(FIN | 0x5, b"x"), 1002),
            (frame(FIN | BINARY, b"x" * ((1 << 20) + 1)), 1009),
            (frame(FIN | CLOSE, b"\x00"), 1002),
            (frame(FIN | CLOSE, (1006).to_bytes(2)), 1002),
            (frame(FIN | CLOSE, (1000).to_bytes(2) + b"\xff"), 1007),
        ):
            async with wire(served) as one:
                await one.send(frame(FIN | TEXT, b"before") + sent)
                assert await one.frame() == (FIN | TEXT, b"before")
                assert await one.closed_with() == code


async def test_a_client_that_broke_the_rules_hears_the_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own close frame is not waited for, which nobody can find in what it sends."""
    monkeypatch.setattr("perdure.gateway.websocket._CLOSE_S", 1e9)
    async with own_front(tmp_path, Echo) as served:
        for sent in (frame(FIN | 0x5, b"x"), frame(FIN | BINARY, b"x" * ((1 << 20) + 1))):
            async with wire(served) as one:
                await one.send(sent)
                assert await one.closed_with() in (1002, 1009)


async def test_a_handshake_that_is_none_is_answered_in_http(tmp_path: Path) -> None:
    async with own_front(tmp_path, Echo) as served:
        for old, new, status in (
            (b"Version: 13", b"Version: 8", b"426"),
            (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", b"400"),
            (b"dGhlIHNhbXBsZSBub25jZQ==", b"****", b"400"),
            (b"GET", b"POST", b"405"),
            (b"/Echo/a ", b"/Echo/a?%ff=1 ", b"400"),
            (b"/Echo/a ", b"/Echo/%ff ", b"400"),
            (b"/Echo/a ", b"/Echo/" + b"x" * 600 + b" ", b"400"),
            (b"/Echo/a ", b"/Echo/a?" + b"a=1&" * 200 + b" ", b"400"),
            (b"\r\nHost", b"\r\nOrigin: http://y\r\nHost", b"403"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(HANDSHAKE.replace(old, new))
            async with asyncio.timeout(20):
                answer = await reader.read()
            assert answer.split(b" ")[1] == status, (new, answer)
            assert b'"code":' in answer
            writer.close()


async def test_a_socket_after_ordinary_requests_on_one_connection(tmp_path: Path) -> None:
    async with own_front(tmp_path, Echo) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /_perdure/health HTTP/1.1\r\nHost: x\r\n\r\n")
        one = Wire(reader, writer)
        head = await one.head()
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(size)
        writer.write(HANDSHAKE)
        assert b"101" in await one.head()
        await one.send(frame(FIN | TEXT, b"x"))
        assert await one.frame() == (FIN | TEXT, b"x")
        writer.transport.abort()


async def test_frames_are_what_a_client_expects() -> None:
    assert encode(TEXT, b"") == b"\x81\x00"
    assert encode(BINARY, b"x" * 126)[:4] == b"\x82\x7e\x00\x7e"
    assert encode(BINARY, b"x" * 65_536)[:10] == b"\x82\x7f" + (65_536).to_bytes(8)
