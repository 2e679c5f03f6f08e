"""One connection, byte by byte: order, limits, and what is no HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from perdure.gateway.front import Limits
from perdure.settings import Settings
from tests.gateway.fakes import get, post, until, wire

INCREMENT = post("/Counter/a/increment", '{"by": 2}')


async def test_a_call_is_answered_and_the_connection_kept() -> None:
    async with wire() as w:
        client = await w.open()
        for _ in range(3):
            reply = await client.ask(INCREMENT)
            assert reply.status == 200
            assert reply.json() == ["increment", "a", [2], {}]
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["date"] == "Thu, 01 Jan 1970 00:16:40 GMT"
            assert "connection" not in reply.headers


async def test_pipelined_answers_leave_in_the_order_of_the_requests() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(b"".join(post(f"/Counter/{n}/increment") for n in range(5)))
        await w.host.wait_for(5)
        for n in (3, 1, 0, 2, 4):
            w.host.answer(w.host.calls[n])
        assert [(await client.reply()).json()[1] for _ in range(5)] == list("01234")


async def test_pipelined_answers_of_one_pass_leave_in_one_write() -> None:
    async with wire() as w:
        client = await w.open()
        written: list[bytes] = []
        await client.ask(INCREMENT)
        (connection,) = w.front.connections
        transport = connection.transport

        class Counting:
            def write(self, data: bytes) -> None:
                written.append(data)
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        connection.transport = Counting()  # type: ignore[assignment]
        client.send(INCREMENT * 4)
        for _ in range(4):
            await client.reply()
        assert len(written) == 1
        w.host.holding = True
        client.send(INCREMENT * 4)
        await w.host.wait_for(9)
        for call in w.host.calls[-4:]:
            w.host.answer(call)
        for _ in range(4):
            await client.reply()
        assert len(written) == 2


async def test_a_request_may_come_byte_by_byte() -> None:
    async with wire() as w:
        client = await w.open()
        for byte in INCREMENT[:-1]:
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        reply = await client.ask(INCREMENT[-1:])
        assert reply.json() == ["increment", "a", [2], {}]
        assert (await client.ask(INCREMENT)).status == 200


async def test_a_chunked_body_is_put_together_and_its_trailers_are_ignored() -> None:
    async with wire() as w:
        client = await w.open()
        reply = await client.ask(
            "POST /Counter/a/increment HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
            '4\r\n{"by\r\n5;ext=1\r\n": 2}\r\n0\r\nIdempotency-Key: trailed\r\nHost: u\r\n\r\n'
        )
        assert reply.json() == ["increment", "a", [2], {}]
        assert w.host.calls[0].idempotency_key is None
        assert (await client.ask(INCREMENT)).status == 200
        assert w.host.calls[1].idempotency_key is None


async def test_a_client_that_expects_100_continue_gets_it() -> None:
    async with wire() as w:
        client = await w.open()
        head, _, body = post("/Counter/a/increment", '{"by": 2}', "Expect: 100-continue").partition(
            b"\r\n\r\n"
        )
        client.send(head + b"\r\n\r\n")
        assert (await client.reply()).status == 100
        assert (await client.ask(body)).status == 200


async def test_100_continue_waits_for_the_answers_before_it() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        head, _, body = post("/Counter/b/increment", '{"by": 2}', "Expect: 100-continue").partition(
            b"\r\n\r\n"
        )
        client.send(INCREMENT + head + b"\r\n\r\n")
        await w.host.wait_for(1)
        w.host.answer(w.host.calls[0])
        assert (await client.reply()).json()[1] == "a"
        assert (await client.reply()).status == 100
        w.host.holding = False
        assert (await client.ask(body)).json()[1] == "b"
        assert (await client.ask(INCREMENT)).json()[1] == "a"


async def test_another_expectation_is_refused() -> None:
    async with wire() as w:
        client = await w.open()
        head = post("/Counter/a/increment", '{"by": 2}', "Expect: miracles")[:-9]
        reply = await client.ask(head)
        assert (reply.status, reply.json()["code"]) == (417, "expectation-failed")
        assert await client.ended()


async def test_http_1_0_closes_unless_it_asks_otherwise() -> None:
    async with wire() as w:
        client = await w.open()
        reply = await client.ask("GET /Counter/a/read HTTP/1.0\r\n\r\n")
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.ended()
        client = await w.open()
        kept = "GET /Counter/a/read HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        for _ in range(2):
            reply = await client.ask(kept)
            assert (reply.status, reply.headers["connection"]) == (200, "keep-alive")


async def test_connection_close_ends_the_connection_behind_the_answer() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT + post("/Counter/b/increment", "", "Connection: close") + INCREMENT)
        await w.host.wait_for(2)
        w.host.answer(w.host.calls[1])
        w.host.answer(w.host.calls[0])
        first, second = await client.reply(), await client.reply()
        assert "connection" not in first.headers
        assert (second.json()[1], second.headers["connection"]) == ("b", "close")
        assert await client.ended()
        assert len(w.host.calls) == 2


async def test_connection_keep_alive_is_nothing_special() -> None:
    async with wire() as w:
        client = await w.open()
        reply = await client.ask(post("/Counter/a/increment", "", "Connection: Keep-Alive"))
        assert (reply.status, "connection" in reply.headers) == (200, False)


async def test_head_gets_the_head_of_get_alone() -> None:
    async with wire() as w:
        client = await w.open()
        whole = await client.ask(get("/Counter/a/read"))
        client.send(get("/Counter/a/read", method="HEAD"))
        head = await client.reply(bodyless=True)
        assert (head.status, head.headers) == (200, whole.headers)
        assert (await client.ask(INCREMENT)).status == 200


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no version": b"GET /Counter/a/read\r\n\r\n",
    "space in a name": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_http_is_refused_and_the_connection_ended(data: bytes) -> None:
    async with wire() as w:
        client = await w.open()
        with capture_logs() as logs:
            reply = await client.ask(data)
            assert (reply.status, reply.headers["connection"]) == (400, "close")
            assert reply.json()["code"] == "bad-request"
            assert await client.ended()
        assert logs == []


async def test_a_refusal_comes_behind_the_answers_before_it() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT + b"nonsense\r\n\r\n")
        await w.host.wait_for(1)
        w.host.answer(w.host.calls[0])
        assert (await client.reply()).status == 200
        assert (await client.reply()).status == 400
        assert await client.ended()


@pytest.mark.parametrize("size", [1001, 20_000, 300_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_without_reading_it(
    size: int, chunked: bool
) -> None:
    async with wire(Settings(max_body_bytes=1000)) as w:
        client = await w.open()
        if chunked:
            data = b"POST /Counter/a/increment HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            data += b"%x\r\n" % size + b"x" * size
        else:
            data = post("/Counter/a/increment", b"x" * size)
        reply = await client.ask(data)
        assert (reply.status, reply.json()["code"]) == (413, "payload-too-large")
        assert await client.ended()
        assert w.host.calls == []


async def test_a_body_over_the_limit_is_refused_on_its_length_alone() -> None:
    async with wire() as w:
        client = await w.open()
        reply = await client.ask(
            "POST /Counter/a/increment HTTP/1.1\r\nContent-Length: 9999999999\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        assert reply.status == 413
        assert await client.ended()


async def test_a_body_at_the_limit_is_read() -> None:
    body = b'{"text": "' + b"x" * 299_988 + b'"}'
    async with wire(Settings(max_body_bytes=300_000)) as w:
        client = await w.open()
        assert (await client.ask(post("/Counter/a/label", body))).status == 200
        assert len(w.host.calls[0].body) == 300_000


LARGE_HEADS = {
    "one long field": (431, [b"X: " + b"x" * 70_000]),
    "much in many fields": (431, [b"X%d: " % n + b"x" * 1000 for n in range(100)]),
    "many fields": (431, [b"X%d: %s" % (n, b"x" * 200) for n in range(200)]),
}


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize("case", LARGE_HEADS.values(), ids=LARGE_HEADS.keys())
async def test_a_head_over_the_limit_is_refused(
    case: tuple[int, list[bytes]], slowly: bool
) -> None:
    status, fields = case
    data = b"\r\n".join([b"GET /Counter/a/read HTTP/1.1", *fields, b"", b""])
    async with wire() as w:
        client = await w.open()
        if slowly:
            client.send(data[:50])
            await asyncio.sleep(0)
            data = data[50:]
        reply = await client.ask(data)
        assert (reply.status, reply.json()["code"]) == (status, "headers-too-large")
        assert await client.ended()


@pytest.mark.parametrize("length", [17_000, 100_000])
async def test_a_path_over_the_limit_is_refused(length: int) -> None:
    async with wire() as w:
        client = await w.open()
        reply = await client.ask(get("/Counter/" + "x" * length))
        assert (reply.status, reply.json()["code"]) == (414, "uri-too-long")


async def test_a_field_that_never_ends_is_refused() -> None:
    async with wire() as w:
        client = await w.open()
        client.send(b"GET /Counter/a/read HTTP/1.1\r\nX: ")
        for _ in range(100):
            client.send(b"x" * 1000)
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.reply()).status == 431


async def test_trailers_that_never_end_are_refused() -> None:
    async with wire() as w:
        client = await w.open()
        client.send(
            b"POST /Counter/a/increment HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        )
        for n in range(5000):
            client.send(b"X%d: xxxxxxxxxxxxxxxxxxxx\r\n" % n)
            if n % 100 == 0:
                await asyncio.sleep(0)
        assert (await client.reply()).status == 431


async def test_tiny_chunks_are_no_offence() -> None:
    async with wire() as w:
        client = await w.open()
        text = b'{"text": "' + b"x" * 40_000 + b'"}'
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in text)
        client.send(b"POST /Counter/a/label HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await client.ask(chunks + b"0\r\n\r\n")).status == 200


async def test_too_many_pipelined_requests_wait_their_turn() -> None:
    async with wire(limits=Limits(in_flight_max=4)) as w:
        w.host.holding = True
        client = await w.open()
        client.send(b"".join(post(f"/Counter/{n}/increment") for n in range(50)))
        await w.host.wait_for(4)
        (connection,) = w.front.connections
        await until(lambda: len(connection.pending) == 50)
        assert not connection.transport.is_reading()
        assert len(w.host.calls) == 4
        for n in range(50):
            w.host.answer(w.host.calls[n])
            assert (await client.reply()).json()[1] == str(n)
        await until(connection.transport.is_reading)
        w.host.holding = False
        assert (await client.ask(INCREMENT)).status == 200


async def test_a_thousand_requests_in_one_piece_need_no_deep_stack() -> None:
    async with wire(limits=Limits(in_flight_max=2)) as w:
        client = await w.open()
        client.send(get("/Counter/a/read") * 3000)
        for _ in range(3000):
            assert (await client.reply()).status == 200


async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    large = b'"' + b"x" * 1_000_000 + b'"'
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT * 20)
        await w.host.wait_for(20)
        for call in w.host.calls:
            w.host.answer(call, large)
        (connection,) = w.front.connections
        await until(lambda: connection.stuck_since)
        assert not connection.transport.is_reading()
        client.send(INCREMENT)
        for _ in range(20):
            assert len((await client.reply()).body) == 1_000_002
        await w.host.wait_for(21)
        w.host.answer(w.host.calls[20])
        assert (await client.reply()).status == 200


async def test_a_client_may_close_its_half_and_still_read() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT)
        client.writer.write_eof()
        await w.host.wait_for(1)
        w.host.answer(w.host.calls[0])
        assert (await client.reply()).status == 200
        assert await client.ended()


async def test_a_refused_client_that_goes_on_sending_still_gets_to_see_why() -> None:
    async with wire(Settings(max_body_bytes=1000)) as w:
        client = await w.open()
        client.send(post("/Counter/a/increment", b"x" * 5_000_000)[:-1])
        await client.writer.drain()
        assert (await client.reply()).status == 413
        assert await client.ended()
        client.send(b"x" * 1000)
        await client.writer.drain()
        client.close()
        await until(lambda: not w.front.connections)


async def test_a_websocket_is_declined() -> None:
    async with wire() as w:
        client = await w.open()
        reply = await client.ask(
            get("/Counter/a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
        )
        assert (reply.status, reply.json()["code"]) == (426, "upgrade-required")
        assert await client.ended()


async def test_an_offer_of_http_2_is_answered_in_http_1() -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA")
    async with wire() as w:
        client = await w.open()
        client.send(post("/Counter/a/increment", '{"by": 2}', *offer) + INCREMENT)
        assert (await client.reply()).json() == ["increment", "a", [2], {}]
        assert (await client.reply()).status == 200
        # The body may come later.
        data = post("/Counter/a/increment", '{"by": 3}', *offer)
        client.send(data[:-4])
        await asyncio.sleep(0)
        assert (await client.ask(data[-4:])).json() == ["increment", "a", [3], {}]
        client.send(get("/Counter/a/read", *offer) * 2)
        assert (await client.reply()).status == 200
        assert (await client.reply()).status == 400


async def test_connect_is_refused() -> None:
    async with wire() as w:
        client = await w.open()
        reply = await client.ask("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert reply.status in (404, 405)
        assert await client.ended()


async def test_the_hook_sees_the_request_whole() -> None:
    seen: dict[str, Any] = {}

    async def authorize(request: Any) -> str:
        seen["path"] = request.scope["raw_path"] + b"?" + request.scope["query_string"]
        seen["body"] = await request.body()
        seen["header"] = request.headers["x-user"]
        seen["client"] = request.client.host
        return "ada"

    async with wire(authorize=authorize) as w:
        client = await w.open()
        await client.ask(post("/Counter/a%2Fb/increment?x=1", '{"by": 2}', "X-User: ada"))
        assert seen == {
            "path": b"/Counter/a%2Fb/increment?x=1",
            "body": b'{"by": 2}',
            "header": "ada",
            "client": "127.0.0.1",
        }
        assert w.host.calls[0].principal == "ada"
        assert w.host.calls[0].key == "a/b"
