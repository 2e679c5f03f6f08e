"""The own front: time, drain, and clients that go away."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.gateway.fakes import joined, post, until, vanish, wire

INCREMENT = post("/Counter/a/increment", '{"by": 2}')


async def test_the_date_is_renewed_each_second() -> None:
    async with wire() as w:
        client = await w.open()
        await client.ask(INCREMENT)
        w.clock.seconds += 60
        w.front.tick()
        reply = await client.ask(INCREMENT)
        assert reply.headers["date"] == "Thu, 01 Jan 1970 00:17:40 GMT"


async def test_a_head_that_does_not_end_in_time_is_refused() -> None:
    async with wire() as w:
        client = await w.open()
        client.send(b"GET /Counter/a/read HTTP/1.1\r\nHo")
        (connection,) = await joined(w.front)
        await until(lambda: connection.begun)
        w.sweep(15)
        client.send(b"st: ")
        await until(lambda: connection.heard > connection.begun)
        w.sweep(10)
        reply = await client.reply()
        assert (reply.status, reply.json()["code"]) == (408, "request-timeout")
        assert await client.ended()


@pytest.mark.parametrize(("every_s", "times"), [(31, 1), (5, 10)])
async def test_a_body_that_stalls_or_crawls_is_refused(every_s: int, times: int) -> None:
    async with wire() as w:
        client = await w.open()
        client.send(post("/Counter/a/increment", b"x" * 1000)[:-900])
        (connection,) = await joined(w.front)
        await until(lambda: connection.begun)
        for _ in range(times):
            before = len(connection.body)
            w.sweep(every_s)
            client.send(b"x")
            if connection.ending:
                break
            await until(lambda before=before: len(connection.body) > before)
        assert (await client.reply()).status == 408


async def test_an_idle_connection_is_closed_and_a_waiting_one_is_not() -> None:
    async with wire() as w:
        w.host.holding = True
        idle, fresh, waiting = await w.open(), await w.open(), await w.open()
        waiting.send(INCREMENT)
        await w.host.wait_for(1)
        w.host.holding = False
        await idle.ask(INCREMENT)
        await fresh.ask(INCREMENT)
        w.sweep(5)
        w.sweep(70)
        await fresh.ask(INCREMENT)
        w.sweep(10)
        assert await idle.ended()
        assert (await fresh.ask(INCREMENT)).status == 200
        w.host.answer(w.host.calls[0])
        assert (await waiting.reply()).status == 200


async def test_a_client_that_never_reads_is_cut_off() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT * 20)
        await w.host.wait_for(20)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for call in w.host.calls:
            w.host.answer(call, b'"' + b"x" * 1_000_000 + b'"')
        (connection,) = w.front.connections
        await until(lambda: connection.stuck_since)
        w.sweep(70)
        await until(lambda: not w.front.connections)


async def test_a_client_that_reads_slowly_gets_all_of_a_large_answer() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT)
        await w.host.wait_for(1)
        body = b'"' + b"x" * 40_000_000 + b'"'
        w.host.answer(w.host.calls[0], body)
        (connection,) = w.front.connections
        await until(lambda: connection.stuck_since)
        unread = connection.transport.get_write_buffer_size
        got = b""
        sweeps = 0
        while before := unread():
            while unread() == before:
                got += await client.reader.read(1 << 20)
            w.sweep(40)
            sweeps += 1
        assert sweeps > 3
        while len(got) < len(body):
            got += await client.reader.read(1 << 20)
        assert got.endswith(body)


@pytest.mark.parametrize("rudely", [False, True])
async def test_a_client_that_vanishes_leaves_its_call_and_no_trace(rudely: bool) -> None:
    async with wire() as w:
        w.host.holding = True
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: problems.append(what))
        with capture_logs() as logs:
            client = await w.open()
            client.send(INCREMENT * 2)
            await w.host.wait_for(2)
            vanish(client, rudely)
            if rudely:
                await until(lambda: not w.front.connections)
            for call in w.host.calls:
                w.host.answer(call)
            await until(lambda: not w.front.connections)
        assert logs == problems == []
        assert w.front.gateway.connections == 0


async def test_a_client_that_has_closed_its_half_is_not_waited_for_for_ever() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT)
        await w.host.wait_for(1)
        (connection,) = w.front.connections
        client.writer.write_eof()
        await until(lambda: connection.deaf_since)
        w.sweep(30)
        assert w.front.connections
        w.sweep(40)
        await until(lambda: not w.front.connections)
        w.host.answer(w.host.calls[0])


@pytest.mark.parametrize("rudely", [False, True])
async def test_a_client_that_vanishes_in_the_middle_of_a_request_leaves_no_trace(
    rudely: bool,
) -> None:
    async with wire() as w:
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: problems.append(what))
        for data in (b"", b"PO", INCREMENT[:20], INCREMENT[:-3], INCREMENT + INCREMENT[:-3]):
            with capture_logs() as logs:
                client = await w.open()
                client.send(data)
                await joined(w.front)
                vanish(client, rudely)
                await until(lambda: not w.front.connections)
            assert logs == problems == []


async def test_a_refused_client_is_cut_off_in_the_end() -> None:
    async with wire() as w:
        client = await w.open()
        assert (await client.ask(b"nonsense\r\n\r\n")).status == 400
        w.sweep(10)
        await until(lambda: not w.front.connections)


async def test_a_drain_lets_what_has_begun_be_answered() -> None:
    async with wire() as w:
        w.host.holding = True
        idle, busy, partial, piped = [await w.open() for _ in range(4)]
        busy.send(INCREMENT)
        partial.send(INCREMENT[:-3])
        piped.send(INCREMENT * 3)
        await w.host.wait_for(4)
        await until(lambda: sum(bool(c.target) for c in w.front.connections) == 1)
        drain = asyncio.ensure_future(w.front.drain(30))
        assert await idle.ended()
        with pytest.raises(OSError, match=re.escape("[Errno 111]")):
            await w.open()
        partial.send(INCREMENT[-3:])
        await w.host.wait_for(5)
        for call in w.host.calls:
            w.host.answer(call)
        for client in (busy, partial):
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await client.ended()
        replies = [await piped.reply() for _ in range(3)]
        assert [reply.headers.get("connection") for reply in replies] == [None, None, "close"]
        assert await drain


async def test_a_drain_ends_in_time() -> None:
    async with wire() as w:
        w.host.holding = True
        client = await w.open()
        client.send(INCREMENT)
        await w.host.wait_for(1)
        client.send(INCREMENT[:-3])
        assert not await w.front.drain(0.01)
        reply = await client.reply()
        assert (reply.status, reply.json()["code"]) == (504, "timeout")
        assert reply.headers["connection"] == "close"
        assert await client.ended()
        w.host.answer(w.host.calls[0])


async def test_a_drain_does_not_wait_for_clients_that_have_gone() -> None:
    async with wire() as w:
        w.host.holding = True
        before, during = await w.open(), await w.open()
        before.send(INCREMENT)
        during.send(INCREMENT)
        await w.host.wait_for(2)
        before.close()
        await until(lambda: any(c.deaf_since for c in w.front.connections))
        drain = asyncio.ensure_future(w.front.drain(30))
        await until(lambda: len(w.front.connections) == 1)
        during.close()
        assert await drain
