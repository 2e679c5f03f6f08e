"""Handlers that stream, as clients of both faces see them."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from perdure import App, Object, Settings, query
from perdure.gateway.front import serve_front
from perdure.gateway.http import Gateway
from perdure.gateway.items import ItemsBody
from perdure.node import Node
from tests.gateway.fakes import Client, post, until, vanish


class Feed(Object):
    """Gives out what it is told to."""

    def __init__(self) -> None:
        self.gates = asyncio.Semaphore(0)
        self.given = 0

    async def numbers(self, to: int) -> AsyncIterator[int]:
        """Numbers, as they are let through."""
        for number in range(1, to + 1):
            await self.gates.acquire()
            self.given = number
            yield number

    async def at_once(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    async def large(self, times: int, gap: float = 0.01) -> AsyncIterator[str]:
        for _ in range(times):
            yield "x" * 100_000
            if gap:
                await asyncio.sleep(gap)

    async def stumble(self, after: int) -> AsyncIterator[int]:
        for number in range(1, after + 1):
            yield number
        raise LookupError("no more")

    async def open(self, times: int = 1) -> None:
        for _ in range(times):
            self.gates.release()

    @query
    async def listed(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    @query
    async def count(self) -> int:
        return self.given


Face = Callable[[Path], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def own_front(data: Path, **settings: Any) -> AsyncIterator[str]:
    chosen = Settings(data=str(data), **settings)
    node = Node([Feed], chosen)
    await node.start()
    gateway = Gateway(node.host, chosen, ready=lambda: node.ready)
    front = await serve_front(gateway, host="127.0.0.1", port=0)
    try:
        yield f"http://127.0.0.1:{front.port}"
    finally:
        await front.drain(5)
        await node.drain()


@asynccontextmanager
async def asgi(data: Path) -> AsyncIterator[str]:
    app = App([Feed], data=str(data))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", loop="uvloop"))
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


faces = pytest.mark.parametrize("face", [own_front, asgi], ids=["front", "asgi"])

EVENTS = {"Accept": "text/event-stream"}


class Reader:
    """Reads server-sent events as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def event(self) -> dict[str, str]:
        found: dict[str, str] = {}
        async for line in self._lines:
            name, _, value = line.partition(":")
            if not line:
                if found:
                    return found
            elif name:
                found[name] = value.removeprefix(" ")
        raise EOFError

    async def all(self) -> list[dict[str, str]]:
        found = []
        while True:
            try:
                found.append(await self.event())
            except EOFError:
                return found


def event(number: int) -> dict[str, str]:
    return {"id": str(number), "data": str(number)}


END = {"event": "end", "data": "null"}


@faces
async def test_items_are_events_as_they_come(face: Face, tmp_path: Path) -> None:
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        path = "/Feed/a/numbers"
        async with http.stream("POST", path, json={"to": 2}, headers=EVENTS) as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/event-stream"
            reader = Reader(response)
            for number in (1, 2):
                await http.post("/Feed/a/open")
                assert await reader.event() == event(number)
            assert await reader.all() == [END]
        # The connection is as good as before.
        assert (await http.get("/Feed/a/count")).json() == 2


@faces
async def test_items_are_lines_for_all_others(face: Face, tmp_path: Path) -> None:
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.post("/Feed/a/at_once", json=[3])
        assert reply.headers["content-type"] == "application/x-ndjson"
        assert reply.text == "1\n2\n3\n"
        reply = await http.post("/Feed/a/at_once", json=[0])
        assert (reply.status_code, reply.text) == (200, "")


@faces
async def test_what_goes_wrong_before_the_first_item_is_a_problem(
    face: Face, tmp_path: Path
) -> None:
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.post("/Feed/a/stumble", json=[0], headers=EVENTS)
        assert (reply.status_code, reply.json()["error"]) == (500, "LookupError")
        reply = await http.post("/Feed/a/stumble", json=["x"], headers=EVENTS)
        assert reply.json()["code"] == "invalid-arguments"


@faces
async def test_what_goes_wrong_later_ends_the_stream(face: Face, tmp_path: Path) -> None:
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.post("/Feed/a/stumble", json=[1])
        first, last = reply.text.splitlines()
        assert (first, json.loads(last)["error"]["code"]) == ("1", "handler-error")
        async with http.stream("POST", "/Feed/a/stumble", json=[1], headers=EVENTS) as response:
            item, error = await Reader(response).all()
        assert item == event(1)
        assert error["event"] == "error"
        assert json.loads(error["data"])["error"] == "LookupError"


@faces
async def test_a_query_streams_to_a_get(face: Face, tmp_path: Path) -> None:
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/Feed/a/listed?to=3")).text == "1\n2\n3\n"
        assert (await http.head("/Feed/a/listed?to=3")).text == ""
        assert (await http.get("/Feed/a/numbers?to=3")).status_code == 405


@faces
async def test_a_client_that_left_finds_the_rest_by_its_key(face: Face, tmp_path: Path) -> None:
    headers = {**EVENTS, "Idempotency-Key": "k"}
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        path = "/Feed/a/numbers"
        async with http.stream("POST", path, json={"to": 4}, headers=headers) as response:
            await http.post("/Feed/a/open", json=[2])
            assert await Reader(response).event() == event(1)
        # The handler goes on while nobody listens.
        await http.post("/Feed/a/open")
        assert (await http.get("/Feed/a/count")).json() == 3
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        headers["Last-Event-ID"] = "1"
        async with http.stream("POST", path, json={"to": 4}, headers=headers) as response:
            reader = Reader(response)
            assert await reader.event() == event(2)
            assert await reader.event() == event(3)
            await http.post("/Feed/a/open")
            assert await reader.all() == [event(4), END]


@faces
async def test_a_stream_is_found_at_the_path_of_its_call(face: Face, tmp_path: Path) -> None:
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        path = "/Feed/a/numbers"
        reply = await http.post(path, json={"to": 2}, headers={"Prefer": "respond-async"})
        place = reply.headers["location"]
        await http.post("/Feed/a/open")
        async with http.stream("GET", place, headers=EVENTS) as response:
            assert response.headers["content-location"] == place
            reader = Reader(response)
            assert await reader.event() == event(1)
            await http.post("/Feed/a/open")
            assert await reader.all() == [event(2), END]
        lines = await http.get(place, headers={"Accept": "application/x-ndjson"})
        assert lines.text == "1\n2\n"
        assert (await http.get(place, headers={**EVENTS, "Last-Event-ID": "2"})).text == (
            "event: end\ndata: null\n\n"
        )
        assert (await http.get(place)).json() is None
        unknown = await http.get(f"{place}0", headers=EVENTS)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-call")


@pytest.mark.parametrize("last", ["-1", "x", "1.0", "9" * 30])
async def test_a_last_id_is_the_number_of_an_item(last: str, tmp_path: Path) -> None:
    headers = {**EVENTS, "Last-Event-ID": last, "Idempotency-Key": "k"}
    async with own_front(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.post("/Feed/a/at_once", json=[1], headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (400, "bad-request")


async def test_a_last_id_needs_a_name_for_the_call(tmp_path: Path) -> None:
    async with own_front(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.post(
            "/Feed/a/at_once", json=[1], headers={**EVENTS, "Last-Event-ID": "1"}
        )
        assert reply.status_code == 400
        assert "Idempotency-Key" in reply.json()["detail"]


async def test_answers_leave_in_order_behind_a_stream(tmp_path: Path) -> None:
    async with own_front(tmp_path) as url:
        client = Client(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        client.writer.write(
            post("/Feed/a/numbers", b"[1]") + b"GET /Feed/a/count HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        async with httpx.AsyncClient(base_url=url) as http:
            await http.post("/Feed/a/open")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"2\r\n1\n\r\n0\r\n\r\n"
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await client.reader.readexactly(1) == b"0"
        vanish(client, False)


async def test_http_1_0_gets_a_body_up_to_the_end_of_the_connection(tmp_path: Path) -> None:
    async with own_front(tmp_path) as url:
        client = Client(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        client.writer.write(b"GET /Feed/a/listed?to=2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        whole = await client.reader.read()
        head, _, body = whole.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert b"connection: close" in head
        assert body == b"1\n2\n"


async def test_a_client_that_does_not_read_is_cut_off_and_nothing_stops(tmp_path: Path) -> None:
    async with own_front(tmp_path, socket_queue_bytes=100_000) as url:
        client = Client(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(post("/Feed/a/large", b"[200]"))
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.post("/Feed/a/at_once", json=[1])).text == "1\n"
            # It goes on to its end without a reader.
            whole = await http.post("/Feed/a/large", json=[200], timeout=60)
            assert len(whole.content) == 200 * 100_003
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        got = 0
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            while True:
                got += len(await client.reader.readexactly(1000))
        assert got < 200 * 100_000


@faces
async def test_what_comes_all_at_once_may_be_larger_than_the_bound(
    face: Face, tmp_path: Path
) -> None:
    async with face(tmp_path) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        lines = 1_000_000 // 5
        reply = await http.get(f"/Feed/a/listed?to={lines}")
        assert reply.text.splitlines()[-1] == str(lines)
        headers = {**EVENTS, "Idempotency-Key": "k"}
        reply = await http.post("/Feed/a/large", json=[30, 0], headers=headers)
        assert len(reply.text.split("\n\n")) == 32
        # And so does what a client missed.
        headers["Last-Event-ID"] = "1"
        reply = await http.post("/Feed/a/large", json=[30, 0], headers=headers)
        assert reply.text.startswith("id: 2\n")
        assert len(reply.text.split("\n\n")) == 31


async def test_a_stream_behind_a_slow_answer_waits_within_its_bound(tmp_path: Path) -> None:
    async with own_front(tmp_path, socket_queue_bytes=100_000) as url:
        client = Client(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        client.writer.write(
            post("/Feed/a/numbers", b"[1]")
            + post("/Feed/b/large", b"[100]")
            + post("/Feed/b/count", b"")
        )
        async with httpx.AsyncClient(base_url=url) as http:
            whole = await http.post("/Feed/b/large", json=[100], timeout=60)
            assert len(whole.content) == 100 * 100_003
            await http.post("/Feed/a/open")
        # The answer before it is whole; the stream is not, and can be told from one that is.
        assert (await client.reader.readuntil(b"0\r\n\r\n")).endswith(b"2\r\n1\n\r\n0\r\n\r\n")
        rest = await client.reader.read()
        assert len(rest) < 100 * 100_000
        assert not rest.endswith(b"0\r\n\r\n")


async def test_patience_that_was_not_needed_is_forgotten(tmp_path: Path) -> None:
    async with own_front(tmp_path) as url, httpx.AsyncClient(base_url=url) as http:
        headers = {"Perdure-Timeout": "86400"}
        assert (await http.post("/Feed/a/at_once", json=[1], headers=headers)).text == "1\n"
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is ItemsBody]


async def test_a_drain_ends_streams_that_would_go_on(tmp_path: Path) -> None:
    async with own_front(tmp_path) as url:
        client = Client(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        client.writer.write(post("/Feed/a/numbers", b"[5]"))
        await client.reader.readuntil(b"\r\n\r\n")
    # Without the last chunk: the client can tell that it was not the end.
    assert await client.reader.read() == b""
