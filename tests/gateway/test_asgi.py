"""The ASGI face: the same gateway under somebody else's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from perdure.gateway.asgi import serve_http
from perdure.gateway.http import Gateway
from perdure.settings import Settings
from tests.gateway.fakes import FakeHost


class Face:
    """An ASGI application on a gateway, as App makes one."""

    def __init__(self, host: FakeHost | None = None, **settings: Any) -> None:
        self.host = host or FakeHost()
        fake: Any = self.host
        self.gateway = Gateway(fake, Settings(**settings))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await serve_http(self.gateway, scope, receive, send)

    def client(self, root_path: str = "", base_url: str = "http://test") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self, root_path=root_path)
        return httpx.AsyncClient(transport=transport, base_url=base_url)


async def test_a_call_and_a_query_are_answered() -> None:
    face = Face()
    async with face.client() as client:
        reply = await client.post("/Counter/a/increment", json={"by": 2})
        assert (reply.status_code, reply.json()) == (200, ["increment", "a", [2], {}])
        assert reply.headers["content-length"] == str(len(reply.content))
        reply = await client.get("/Counter/a/plus?by=3")
        assert reply.json()[0] == "plus"


async def test_the_application_around_it_decides_on_pages_of_other_sites() -> None:
    async with Face().client() as client:
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert (await client.post("/Counter/a/increment", headers=headers)).status_code == 200


async def test_a_slash_in_a_key_stays_there() -> None:
    face = Face()
    async with face.client() as client:
        await client.post("/Counter/a%2Fb/increment")
    assert face.host.calls[0].key == "a/b"


async def test_head_has_no_body_and_options_no_length() -> None:
    async with Face().client() as client:
        reply = await client.head("/Counter/a/read")
        assert (reply.status_code, reply.content) == (200, b"")
        assert int(reply.headers["content-length"]) > 0
        reply = await client.options("/Counter/a/read")
        assert (reply.status_code, "content-length" in reply.headers) == (204, False)


async def test_a_body_in_pieces_is_put_together() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"b', b'y"', b": 2}", b""):
            yield piece

    async with Face().client() as client:
        reply = await client.post("/Counter/a/increment", content=pieces())
        assert reply.json()[2] == [2]


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_body_over_the_limit_is_not_read_to_its_end(in_pieces: bool) -> None:
    face = Face(max_body_bytes=1000)
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 100

    async with face.client() as client:
        content = pieces() if in_pieces else b"x" * 1001
        reply = await client.post("/Counter/a/increment", content=content)
    assert (reply.status_code, reply.json()["code"]) == (413, "payload-too-large")
    assert read in ((11, 12) if in_pieces else (0,))
    assert face.host.calls == []
    assert face.gateway.stats().requests == {("", "", 413): 1}


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_call() -> None:
    face = Face()
    messages: list[Any] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await face(scope_of(path="/Counter/a/increment"), receive, send)
    assert sent == face.host.calls == []


async def test_a_server_that_ends_the_task_leaves_the_call() -> None:
    face = Face()
    face.host.holding = True
    async with face.client() as client:
        asking = asyncio.ensure_future(client.post("/Counter/a/increment"))
        await face.host.wait_for(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    face.host.answer(face.host.calls[0])


def scope_of(**facts: Any) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "query_string": b"", "headers": [], **facts}


PATHS = {
    "no prefix": {"path": "/Counter/a b/increment", "raw_path": b"/Counter/a%20b/increment"},
    "no raw path": {"path": "/Counter/a b/increment"},
    "prefix": {
        "path": "/x/Counter/a b/increment",
        "raw_path": b"/x/Counter/a%20b/increment",
        "root_path": "/x",
    },
    "prefix with a slash": {
        "path": "/x/Counter/a b/increment",
        "raw_path": b"/x/Counter/a%20b/increment",
        "root_path": "/x/",
    },
    "escaped prefix": {
        "path": "/x y/z/Counter/a b/increment",
        "raw_path": b"/x%20y/z/Counter/a%20b/increment",
        "root_path": "/x y/z",
    },
    "prefix with a slash in a name": {
        "path": "/t/a/b/Counter/a b/increment",
        "raw_path": b"/t/a%2Fb/Counter/a%20b/increment",
        "root_path": "/t/a/b",
    },
    "prefix taken off by the server": {
        "path": "/Counter/a b/increment",
        "raw_path": b"/Counter/a%20b/increment",
        "root_path": "/x",
    },
    "prefix like a class": {
        "path": "/Counter/Counter/a b/increment",
        "raw_path": b"/Counter/Counter/a%20b/increment",
        "root_path": "/Counter",
    },
    "query in the raw path": {
        "path": "/Counter/a b/increment",
        "raw_path": b"/Counter/a%20b/increment?x=1",
        "query_string": b"x=1",
    },
}


@pytest.mark.parametrize("facts", PATHS.values(), ids=PATHS.keys())
async def test_the_prefix_is_taken_off(facts: dict[str, Any]) -> None:
    face = Face()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await face(scope_of(**facts), receive, send)
    assert sent[0]["status"] == 200
    assert face.host.calls[0].key == "a b"


async def test_the_prefix_stands_in_a_location() -> None:
    async with Face().client(root_path="/my objects") as client:
        reply = await client.post(
            "/my%20objects/Counter/a/increment", headers={"Prefer": "respond-async"}
        )
        assert reply.status_code == 202
        assert reply.headers["location"].startswith("/my%20objects/_perdure/calls/")
