"""Bodies that an `on_request` reads while they come, over real sockets and at both faces."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import BadSettings
from perdure.gateway.front import Limits
from perdure.host.raw_requests import PIECE_BYTES_MAX
from perdure.host.uploads import UNREAD_BYTES_MAX
from perdure.settings import load_settings
from tests.gateway.fakes import Client, until, vanish
from tests.gateway.uploading import LAST, Place, asgi, chunk, head, in_chunks, of_length, own_front

MB = 1024 * 1024
BYTES = random.Random(5).randbytes(5 * MB)
SHA256 = hashlib.sha256(BYTES).hexdigest()

faces = pytest.mark.parametrize("face", [own_front, asgi], ids=["front", "asgi"])


async def send_all(client: Client, data: bytes, size: int = 100_000) -> None:
    """As a client does that is held back: no more than the socket takes."""
    for at in range(0, len(data), size):
        client.writer.write(data[at : at + size])
        await client.writer.drain()


async def logged(place: Place, last: str) -> list[str]:
    """What the object has logged, when that is the last line."""
    async with asyncio.timeout(10):
        while (log := await place.ask("seen"))[-1:] != [last]:
            await asyncio.sleep(0.01)
    return log  # type: ignore[no-any-return]


@faces
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_long_body_is_read_piece_by_piece(face: Any, chunked: bool, tmp_path: Path) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        if chunked:
            client.send(in_chunks("hash"))
            for at in range(0, len(BYTES), 50_000):
                await send_all(client, chunk(BYTES[at : at + 50_000]))
            client.send(LAST)
        else:
            client.send(of_length("hash", len(BYTES)))
            await send_all(client, BYTES)
        reply = await client.reply()
        said = reply.json()
        assert (said["sha256"], said["size"]) == (SHA256, len(BYTES))
        assert said["largest"] <= PIECE_BYTES_MAX
        assert reply.headers.get("connection", "") != "close"
        # The next request of the connection is read as ever.
        assert (await client.ask(of_length("hash", 3) + "abc")).json()["size"] == 3
        assert place.machine().uploads is None
        assert place.node.host.uploads.open == {}


@faces
async def test_the_call_begins_before_the_body_has_come(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        client.send(of_length("hash", 100_000) + "x" * 1000)
        await logged(place, "begun hash")
        client.send("x" * 99_000)
        assert (await client.reply()).json()["size"] == 100_000


@faces
async def test_a_short_body_is_one_entry(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        client.send(of_length("hash", PIECE_BYTES_MAX) + "x" * 1000)
        for _ in range(10):
            await asyncio.sleep(0)
        assert place.machine() is None
        client.send("x" * (PIECE_BYTES_MAX - 1000))
        assert (await client.reply()).json()["size"] == PIECE_BYTES_MAX
        whole = await client.ask(in_chunks("hash").encode() + chunk(b"abc") + LAST)
        assert whole.json()["size"] == 3
        assert place.machine().seq == 2


@faces
async def test_body_json_and_form_wait_for_all_of_it(face: Any, tmp_path: Path) -> None:
    text = "y" * 200_000
    async with face(tmp_path) as place:
        client = await place.open()
        assert (await client.ask(of_length("body", len(text)) + text)).body == b"200000"
        document = json.dumps({"text": text})
        assert (await client.ask(of_length("json", len(document)) + document)).body == b"200000"
        form = f"name=ada&text={text}"
        kind = "Content-Type: application/x-www-form-urlencoded"
        assert (await client.ask(of_length("form", len(form), kind) + form)).body == b"ada 200000"


@faces
async def test_a_slow_handler_holds_the_client_back(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        sending = asyncio.create_task(
            send_all(client, of_length("gate", len(BYTES)).encode() + BYTES)
        )
        await until(lambda: place.node.host.uploads.open and place.upload().paused)
        upload = place.upload()
        # Whatever still comes by itself has come when the object has answered a few times.
        for _ in range(20):
            await place.ask("seen")
        assert 0 < place.unread() <= UNREAD_BYTES_MAX
        # What was read from the socket, and is on its way: a few reads of a socket, no more. The
        # rest is with the kernel and the client.
        assert upload.size <= UNREAD_BYTES_MAX + 2 * PIECE_BYTES_MAX + 2 * 256 * 1024
        assert (await place.ask("let_in")) <= PIECE_BYTES_MAX
        assert (await client.reply()).body == str(len(BYTES)).encode()
        await sending


@faces
async def test_no_more_is_ever_unread_than_the_bound(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        sending = asyncio.create_task(
            send_all(client, of_length("one", 2 * MB).encode() + BYTES[: 2 * MB])
        )
        await until(lambda: place.machine() is not None and place.machine().uploads)
        most = 0
        while not sending.done() or place.machine().uploads:
            await place.ask("allow", "[1]")
            most = max(most, place.unread())
        assert UNREAD_BYTES_MAX // 2 < most <= UNREAD_BYTES_MAX
        assert (await client.reply()).body == str(2 * MB).encode()


@faces
@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
async def test_a_client_that_leaves_is_told_to_the_handler(
    face: Any, rudely: bool, tmp_path: Path
) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        client.send(of_length("hash", 5 * MB) + "x" * 300_000)
        await logged(place, "begun hash")
        vanish(client, rudely)
        assert await logged(place, "disconnect") == ["begun hash", "disconnect"]
        await until(lambda: place.node.host.uploads.open == {})
        assert place.machine().uploads is None
    async with face(tmp_path) as place:
        assert await place.ask("seen") == ["begun hash", "disconnect"]


@faces
async def test_an_answer_before_the_body_ends_the_reading(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as place:
        for path, status, body in (("early", 409, b"enough"), ("refuse", 403, b"no")):
            client = await place.open()
            client.send(of_length(path, 5 * MB) + "x" * 100_000)
            reply = await client.reply()
            assert (reply.status, reply.body) == (status, body)
            seq = place.machine().seq
            client.send("x" * 100_000)
            if face is own_front:
                assert reply.headers["connection"] == "close"
                assert await client.ended()
            client.close()
            await place.ask("seen")
            assert place.machine().seq == seq + 1
        assert place.node.host.uploads.open == {}


@faces
async def test_a_response_may_stream_while_the_body_comes(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        client.send(in_chunks("echo"))
        for text in (b"one", b"two", b"three"):
            client.send(chunk(text))
            if text == b"one":
                got = await client.reader.readuntil(b"\r\n\r\n")
                assert b"200 OK" in got
            assert (await client.reader.readuntil(b"\r\n")) == b"%x\r\n" % len(text)
            assert (await client.reader.readuntil(b"\r\n")) == text.upper() + b"\r\n"
        client.send(LAST)
        assert await client.reader.readuntil(b"\r\n\r\n") == b"0\r\n\r\n"


@faces
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_over_the_bound_it_is_413(face: Any, chunked: bool, tmp_path: Path) -> None:
    async with face(tmp_path, max_body_bytes=10 * MB, max_upload_bytes=200_000) as place:
        client = await place.open()
        if chunked:
            client.send(in_chunks("hash"))
            for _ in range(3):
                client.send(chunk(b"x" * 100_000))
        else:
            client.send(of_length("hash", 200_001))
        reply = await client.reply()
        assert (reply.status, reply.json()["code"]) == (413, "payload-too-large")
        assert "200000 bytes" in reply.json()["detail"]
        if chunked:
            assert await logged(place, "disconnect") == ["begun hash", "disconnect"]
        else:
            assert await place.ask("seen") == []
        client = await place.open()
        fits = await client.ask(of_length("hash", 200_000) + "x" * 200_000)
        assert fits.json()["size"] == 200_000


@faces
async def test_the_bound_of_uploads_may_be_the_larger_one(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, max_body_bytes=100_000, max_upload_bytes=5 * MB) as place:
        client = await place.open()
        client.send(of_length("hash", 5 * MB))
        await send_all(client, BYTES)
        assert (await client.reply()).json()["sha256"] == SHA256
        key = "Idempotency-Key: k"
        whole = await (await place.open()).ask(of_length("hash", 200_000, key) + "x" * 200_000)
        assert whole.status == 413


@faces
async def test_with_an_idempotency_key_it_is_read_whole(face: Any, tmp_path: Path) -> None:
    text, key = "x" * 200_000, "Idempotency-Key: k"
    async with face(tmp_path) as place:
        client = await place.open()
        client.send(of_length("body", len(text), key) + text[:-1])
        for _ in range(10):
            await asyncio.sleep(0)
        assert place.machine() is None
        client.send("x")
        first = await client.reply()
        again = await client.ask(of_length("body", len(text), key) + text)
        assert (first.body, again.body) == (b"200000", b"200000")
        assert again.headers["idempotent-replayed"] == "true"
        other = await client.ask(of_length("body", len(text), key) + "y" * 200_000)
        assert other.json()["code"] == "idempotency-mismatch"
        assert await place.ask("seen") == ["begun body"]


@faces
async def test_a_client_that_waits_to_be_told_is_told_when_the_call_has_begun(
    face: Any, tmp_path: Path
) -> None:
    async with face(tmp_path) as place:
        client = await place.open()
        client.send(of_length("hash", 5, "Expect: 100-continue"))
        told = await client.reader.readuntil(b"\r\n\r\n")
        assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await place.ask("seen") == ["begun hash"]
        client.send("hello")
        assert (await client.reply()).json()["size"] == 5
        # One that is refused sends nothing at all.
        client.send(of_length("refuse", 5 * MB, "Expect: 100-continue"))
        reply = await client.reader.readuntil(b"\r\n\r\n")
        if face is own_front:
            assert reply.startswith(b"HTTP/1.1 403")


@faces
async def test_authorize_may_read_the_body_and_the_handler_reads_it_again(
    face: Any, tmp_path: Path
) -> None:
    async def authorize(request: Any) -> str | None:
        if request.method == "PUT" and "x-whole" in request.headers:
            return str(len(await request.body()))
        return None

    async with face(tmp_path, authorize=authorize) as place:
        client = await place.open()
        client.send(of_length("hash", len(BYTES), "X-Whole: 1"))
        await send_all(client, BYTES)
        assert (await client.reply()).json()["sha256"] == SHA256
        client.send(of_length("hash", len(BYTES)))
        await send_all(client, BYTES)
        assert (await client.reply()).json()["sha256"] == SHA256


# --- the own front alone


async def test_answers_of_requests_before_leave_first(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        client.send(of_length("gate", 0) + of_length("early", 5 * MB) + "x" * 100_000)
        await logged(place, "begun early")
        await place.ask("let_in")
        assert [(await client.reply()).status for _ in range(2)] == [200, 409]
        assert await client.ended()


async def test_continue_waits_for_the_answers_before_it(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        client.send(of_length("one", 0) + of_length("hash", 5, "Expect: 100-continue"))
        await logged(place, "begun hash")
        await place.ask("allow", "[1]")
        assert (await client.reply()).body == b"0"
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send("hello")
        assert (await client.reply()).json()["size"] == 5


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_connection_that_is_to_close_is_read_to_the_end_of_the_body(
    version: str, tmp_path: Path
) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        asked = of_length("hash", 5 * MB, "Connection: close").replace(
            "HTTP/1.1", f"HTTP/{version}"
        )
        client.send(asked)
        await send_all(client, BYTES)
        reply = await client.reply()
        assert (reply.json()["sha256"], reply.headers["connection"]) == (SHA256, "close")
        assert await client.ended()


async def test_what_is_no_http_in_the_middle_is_answered(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        client.send(in_chunks("hash").encode() + chunk(b"x" * 1000))
        await logged(place, "begun hash")
        client.send("this is no chunk\r\n")
        assert (await client.reply()).json()["code"] == "bad-request"
        assert await client.ended()
        assert await logged(place, "disconnect") == ["begun hash", "disconnect"]


async def test_half_a_connection_is_no_body(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        client.send(of_length("hash", 5 * MB) + "x" * 1000)
        await logged(place, "begun hash")
        client.writer.write_eof()
        # It may still read, and is told what became of it.
        assert (await client.reply()).json()["error"] == "ClientDisconnect"


async def test_a_client_that_stalls_is_given_up_but_not_while_it_is_held_back(
    tmp_path: Path,
) -> None:
    limits = Limits(head_s=0.5, stall_s=0.5, body_bytes_per_s=1e12)
    async with own_front(tmp_path, limits=limits) as place:
        front = place.front
        assert front is not None

        def let_time_pass() -> None:
            """A minute, as the connections see it."""
            for connection in front.connections:
                connection.begun = connection.begun and connection.begun - 60
                connection.heard -= 60
                connection.sweep()

        client = await place.open()
        sending = asyncio.create_task(
            send_all(client, of_length("gate", len(BYTES)).encode() + BYTES)
        )
        await until(lambda: place.node.host.uploads.open and place.upload().paused)
        for _ in range(5):
            let_time_pass()
            await place.ask("seen")
        assert await place.ask("seen") == ["begun gate"]
        await place.ask("let_in")
        await sending
        assert (await client.reply()).body == str(len(BYTES)).encode()

        client = await place.open()
        client.send(of_length("hash", 5 * MB) + "x" * 1000)
        await logged(place, "begun hash")
        let_time_pass()
        assert (await client.reply()).status == 408
        assert (await logged(place, "disconnect"))[-2:] == ["begun hash", "disconnect"]


async def test_a_drain_lets_it_come_to_its_end(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        assert place.front is not None
        client = await place.open()
        client.send(of_length("hash", len(BYTES)))
        await send_all(client, BYTES[:MB])
        draining = asyncio.create_task(place.front.drain(30))
        await until(lambda: place.front is not None and place.front.draining)
        await send_all(client, BYTES[MB:])
        assert (await client.reply()).json()["sha256"] == SHA256
        assert await draining


async def test_a_drain_that_ends_cuts_it_off(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        assert place.front is not None
        client = await place.open()
        client.send(of_length("hash", len(BYTES)) + "x" * 1000)
        await logged(place, "begun hash")
        assert not await place.front.drain(0.01)
        assert (await client.reply()).status == 504
    async with own_front(tmp_path) as place:
        assert await place.ask("seen") == ["begun hash", "disconnect"]


async def test_a_response_may_stream_to_a_client_of_http_1_0_as_well(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        client.send(of_length("echo", 100_000).replace("HTTP/1.1", "HTTP/1.0") + "x" * 50_000)
        told = await client.reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" in told
        client.send("x" * 50_000)
        assert await client.reader.read() == b"X" * 100_000


async def test_a_head_request_is_answered_without_its_body(tmp_path: Path) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        client.send(head("echo", "Content-Length: 5000000", method="HEAD") + "x" * 300_000)
        assert (await client.reply(bodyless=True)).headers["connection"] == "close"
        assert await client.ended()
        await until(lambda: not place.node.host.uploads.open)
        assert place.machine().uploads is None


async def test_however_it_is_cut_it_is_the_same_body(tmp_path: Path) -> None:
    rng = random.Random(11)
    async with own_front(tmp_path) as place:
        for _ in range(20):
            body = BYTES[: rng.randrange(1, 400_000)]
            data, at = in_chunks("hash").encode(), 0
            while at < len(body):
                size = rng.randrange(1, 100_000)
                data += chunk(body[at : at + size])
                at += size
            # The request behind it comes in the same bytes.
            data += LAST + of_length("hash", 2).encode() + b"ab"
            client = await place.open()
            at = 0
            while at < len(data):
                size = rng.choice([1, 50, 5_000, 200_000])
                client.writer.write(data[at : at + size])
                await client.writer.drain()
                await asyncio.sleep(0)
                at += size
            digests = [(await client.reply()).json()["sha256"] for _ in range(2)]
            assert digests == [hashlib.sha256(one).hexdigest() for one in (body, b"ab")]
            client.close()


async def test_a_client_that_has_waited_long_enough_leaves_the_handler_alone(
    tmp_path: Path,
) -> None:
    async with own_front(tmp_path) as place:
        client = await place.open()
        client.send(of_length("hash", 5 * MB, "Perdure-Timeout: 0.05") + "x" * 1000)
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (504, "close")
        assert await client.ended()
        assert await logged(place, "disconnect") == ["begun hash", "disconnect"]


def test_the_bound_is_a_setting() -> None:
    assert load_settings({}, {"PERDURE_MAX_UPLOAD_BYTES": "5000"}).upload_bytes_max == 5000
    assert load_settings({"max_body_bytes": 70}, {}).upload_bytes_max == 70
    with pytest.raises(BadSettings, match="max_upload_bytes must be at least 1"):
        load_settings({"max_upload_bytes": 0}, {})
