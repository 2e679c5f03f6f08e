"""perdure.http: shaped as httpx, with a key for each request, recorded once, streams that go on."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

import perdure
from perdure import Object, Retry, http, query, send, step, step_id
from tests.host.stage import Stage, eventually
from tests.http.server import STREAMED, Asked, Server, Write, answer, as_json, chunk

QUICK = Retry(attempts=4, initial=0.01, max_delay=0.05)


class Client(Object):
    got: list[Any] = []

    async def ask(self, method: str, url: str, options: dict[str, Any]) -> Any:
        response = await http.request(method, url, **options)
        self.got.append(response)
        return response

    async def checked(self, url: str) -> Any:
        try:
            return (await http.get(url)).raise_for_status().json()
        except http.HTTPStatusError as error:
            return [str(error), error.response.status_code]

    async def failing(self, url: str, error: str) -> str:
        try:
            await http.get(url, timeout=0.05)
        except getattr(httpx, error) as caught:
            return str(caught)
        return "no error"

    async def all_shapes(self, url: str) -> list[str]:
        shapes: list[Any] = [http.get, http.put, http.post, http.patch, http.delete, http.options]
        answers = [await shape(url) for shape in shapes]
        return [one.json()["method"] for one in answers] + [str((await http.head(url)).text)]

    async def read(self, how: str, url: str, options: dict[str, Any]) -> list[Any]:
        pieces = {"stream": http.stream, "lines": http.lines, "events": http.events}[how]
        async for piece in pieces("GET", url, **options):
            self.got.append(piece)
        return self.got

    async def read_one(self, url: str) -> bytes:
        async for piece in http.stream("GET", url):
            return piece
        return b""

    async def in_a_step(self, url: str) -> list[str]:
        return await two_requests(url)

    async def bad_option(self) -> None:
        await http.get("http://x", chunked=True)

    @query
    async def shown(self) -> list[Any]:
        return self.got


@step
async def two_requests(url: str) -> list[str]:
    answers = [await http.post(url), await http.post(url)]
    keys = [one.json()["headers"]["idempotency-key"] for one in answers]
    return [key.removeprefix(step_id()) for key in keys]


async def echo(asked: Asked, write: Write) -> None:
    await write(as_json(asked))


async def test_a_request_is_told_as_httpx_would() -> None:
    async with Server(echo) as server, Stage(Client):
        options = {
            "json": {"a": [1]},
            "params": {"q": "x y"},
            "headers": {"X-One": "1"},
            "auth": ("ada", "secret"),
        }
        response = await Client.at("1").ask("post", server.url + "/path", options)
        told = response.json()
        assert (told["method"], told["path"], told["query"]) == ("POST", "/path", {"q": ["x y"]})
        assert json.loads(told["body"]) == {"a": [1]}
        assert told["headers"]["x-one"] == "1"
        assert told["headers"]["authorization"].startswith("Basic ")
        assert told["headers"]["idempotency-key"].count("-") == 1


async def test_an_answer_is_a_value_shaped_as_that_of_httpx() -> None:
    async def latin(asked: Asked, write: Write) -> None:
        body = "grün".encode("latin-1")
        await write(answer(201, body, Content_Type="text/plain; charset=latin-1", Set_Cookie="a=1"))

    async with Server(latin) as server, Stage(Client) as stage:
        response = await Client.at("1").ask("GET", server.url, {})
        assert (response.status_code, response.reason_phrase) == (201, "Reason")
        assert response.text == "grün"
        assert response.headers["SET-COOKIE"] == "a=1"
        assert response.is_success
        assert not (response.is_error or response.is_redirect or response.is_server_error)
        assert response.raise_for_status() is response
        assert pickle.loads(pickle.dumps(response)) == response
        await stage.restart()
        assert await Client.at("1").shown() == [response]
        assert len(server.asked) == 1


async def test_each_method_has_its_function() -> None:
    async with Server(echo) as server, Stage(Client):
        expected = ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", ""]
        assert await Client.at("1").all_shapes(server.url) == expected


async def test_a_given_key_stays() -> None:
    async with Server(echo) as server, Stage(Client):
        options = {"headers": {"idempotency-key": "mine"}}
        response = await Client.at("1").ask("POST", server.url, options)
        assert response.json()["headers"]["idempotency-key"] == "mine"


async def test_requests_of_a_step_of_ones_own_have_keys_too() -> None:
    async with Server(echo) as server, Stage(Client):
        assert await Client.at("1").in_a_step(server.url) == ["", ".2"]


async def test_outside_of_objects_it_is_a_plain_request() -> None:
    async with Server(echo) as server:
        response = await perdure.http.get(server.url, params={"a": 1})
        assert response.json()["query"] == {"a": ["1"]}
        assert "idempotency-key" not in response.json()["headers"]
        assert b"".join([piece async for piece in http.stream("GET", server.url)])
        await http.aclose()
        await http.aclose()


async def test_a_status_that_is_no_success_can_be_raised() -> None:
    async def missing(asked: Asked, write: Write) -> None:
        await write(answer(404, b"gone"))

    async with Server(missing) as server, Stage(Client):
        text, status = await Client.at("1").checked(server.url + "/x")
        assert (text, status) == (f"404 Reason from GET {server.url}/x", 404)


@pytest.mark.parametrize("status", [429, 503])
async def test_with_a_retry_it_is_asked_again_under_the_same_key(status: int) -> None:
    async def busy(asked: Asked, write: Write) -> None:
        await write(as_json(asked) if len(server.asked) > 2 else answer(status, retry_after="0"))

    async with Server(busy) as server, Stage(Client):
        response = await Client.at("1").ask("POST", server.url, {"retry": QUICK})
        assert response.status_code == 200
        assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
        assert len(server.asked) == 3


async def test_the_last_answer_is_given_as_it_is() -> None:
    async def busy(asked: Asked, write: Write) -> None:
        await write(answer(503, b"x" * 100_000))

    async with Server(busy) as server, Stage(Client):
        response = await Client.at("1").ask("GET", server.url, {"retry": QUICK})
        assert (response.status_code, len(response.content)) == (503, 100_000)
        assert len(server.asked) == 4
        only = Retry(attempts=3, initial=0.01, on=httpx.ConnectError)
        assert (await Client.at("1").ask("GET", server.url, {"retry": only})).status_code == 503
        assert len(server.asked) == 5


async def test_a_lost_connection_is_tried_again() -> None:
    async def cuts(asked: Asked, write: Write) -> None:
        if len(server.asked) < 3:
            raise ConnectionResetError
        await write(as_json(asked))

    async with Server(cuts) as server, Stage(Client):
        response = await Client.at("1").ask("POST", server.url, {"retry": QUICK})
        assert response.is_success


async def test_failures_are_those_of_httpx_and_travel() -> None:
    async def silent(asked: Asked, write: Write) -> None:
        await asyncio.sleep(30)

    async with Server(silent) as server, Stage(Client):
        told = await Client.at("1").failing(server.url, "ReadTimeout")
        assert told == f"no answer in time (GET {server.url})"
        assert "GET" in await Client.at("1").failing("http://127.0.0.1:1/", "ConnectError")
        assert await Client.at("1").failing("ftp://x", "UnsupportedProtocol")


async def test_an_unknown_option_is_the_handlers_mistake() -> None:
    async with Stage(Client):
        with pytest.raises(TypeError, match="no option 'chunked'"):
            await Client.at("1").bad_option()


async def test_connections_are_used_again_and_closed_at_the_drain() -> None:
    async with Server(echo) as server:
        async with Stage(Client):
            for n in range(5):
                await Client.at(str(n)).ask("GET", server.url, {})
            assert (server.connections, server.closed) == (1, 0)
        await eventually(lambda: server.closed == 1)


async def test_a_crash_in_the_middle_asks_again_under_the_same_key() -> None:
    async def slow(asked: Asked, write: Write) -> None:
        if len(server.asked) > 1:
            await write(as_json(asked))
        else:
            await asyncio.sleep(30)

    async with Server(slow) as server, Stage(Client) as stage:
        await send(Client.at("1").ask, "POST", server.url, {})
        await eventually(lambda: len(server.asked) == 1)
        await stage.restart()
        await eventually(lambda: len(server.asked) == 2)
        first, second = server.asked
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_transports_can_be_put_in() -> None:
    http.configure(transport=httpx.MockTransport(lambda request: httpx.Response(204)))
    try:
        async with Stage(Client):
            assert (await Client.at("1").ask("GET", "http://nowhere/", {})).status_code == 204
    finally:
        http.configure()
    with pytest.raises(TypeError):
        http.configure(no_such=1)


# --- streams


def streaming(*pieces: bytes, cut_at: int | None = None) -> Any:
    """A handler that streams these; the first time, the connection is lost before one of them."""

    async def handler(asked: Asked, write: Write) -> None:
        handler.calls += 1  # type: ignore[attr-defined]
        await write(STREAMED)
        for number, piece in enumerate(pieces):
            if number == cut_at and handler.calls == 1:  # type: ignore[attr-defined]
                raise ConnectionResetError
            await write(chunk(piece))
            await asyncio.sleep(0.01)
        await write(chunk(b""))

    handler.calls = 0  # type: ignore[attr-defined]
    return handler


@pytest.mark.parametrize("cut_at", [None, 0, 1, 2, 3])
async def test_pieces_come_as_they_are_sent_and_once(cut_at: int | None) -> None:
    handler = streaming(b"one", b"two", b"three", cut_at=cut_at)
    async with Server(handler) as server, Stage(Client):
        read = await Client.at("1").read("stream", server.url, {"retry": QUICK})
        assert b"".join(read) == b"onetwothree"
        assert len(server.asked) == (1 if cut_at in (None, 3) else 2)


@pytest.mark.parametrize("cut_at", [None, 1, 2, 4])
async def test_lines_are_cut_at_their_ends_alone(cut_at: int | None) -> None:
    pieces = (b'{"a": "x\xe2', b'\x80\xa8y"}\r', b"\n\nse", b"cond\nla", b"st")
    async with Server(streaming(*pieces, cut_at=cut_at)) as server, Stage(Client):
        read = await Client.at("1").read("lines", server.url, {"retry": QUICK})
        assert read == ['{"a": "x\u2028y"}', "", "second", "last"]


EVENTS = (
    b": a comment\n\ndata: one\nid: 1\n\n",
    b"event: tick\ndata: {\ndata: }\nid: 2\nretry: 10\n\nda",
    b"ta:three\r\rdata",
    b"\n\nid: 4\ndata: four\n\ndata: cut off",
)


async def test_events_are_those_of_the_standard() -> None:
    async with Server(streaming(*EVENTS)) as server, Stage(Client):
        read = await Client.at("1").read("events", server.url, {})
        assert read == [
            http.ServerSentEvent("one", "message", "1"),
            http.ServerSentEvent("{\n}", "tick", "2", 10),
            http.ServerSentEvent("three", "message", "2"),
            http.ServerSentEvent("", "message", "2"),
            http.ServerSentEvent("four", "message", "4"),
        ]
        assert read[1].json() == {}
        assert server.asked[0].headers["accept"] == "text/event-stream"


async def test_a_stream_of_events_goes_on_behind_the_last_id() -> None:
    async def resuming(asked: Asked, write: Write) -> None:
        await write(STREAMED)
        last = int(asked.headers.get("last-event-id", 0))
        for n in range(last + 1, last + 3):
            await write(chunk(f"id: {n}\ndata: {n}\n\n".encode()))
        await asyncio.sleep(0.02)
        if len(server.asked) < 3:
            raise ConnectionResetError
        await write(chunk(b""))

    async with Server(resuming) as server, Stage(Client):
        read = await Client.at("1").read("events", server.url, {"retry": QUICK})
        assert [event.data for event in read] == ["1", "2", "3", "4", "5", "6"]


async def test_a_stream_of_an_error_raises_it() -> None:
    async def busy(asked: Asked, write: Write) -> None:
        await write(answer(418, b"short"))

    async with Server(busy) as server, Stage(Client):
        with pytest.raises(http.HTTPStatusError) as caught:
            await Client.at("1").read("stream", server.url, {})
        assert caught.value.response.text == "short"


async def test_leaving_a_stream_closes_its_connection() -> None:
    async def endless(asked: Asked, write: Write) -> None:
        await write(STREAMED)
        while True:
            await write(chunk(b"x" * 1000))
            await asyncio.sleep(0.001)

    async with Server(endless) as server, Stage(Client):
        assert set(await Client.at("1").read_one(server.url)) == {ord("x")}
        await eventually(lambda: server.closed == 1)


async def test_a_crash_in_a_stream_loses_and_doubles_nothing() -> None:
    numbers = [f"{n}\n".encode() for n in range(30)]

    async with Server(streaming(*numbers)) as server, Stage(Client) as stage:
        await send(Client.at("1").read, "lines", server.url, {})
        for _ in range(3):
            await asyncio.sleep(0.05)
            await stage.restart()

        async def read() -> list[Any]:
            return await Client.at("1").shown()

        while len(await read()) < 30:
            await asyncio.sleep(0.01)
        assert await read() == [str(n) for n in range(30)]
        assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_lines_do_not_depend_on_how_they_were_cut() -> None:
    text = b"a\r\nb\rc\n\n\r\r\nlast"
    whole = [line async for line in http._split(_pieces(text), http._ANY_END)]
    assert whole == ["a", "b", "c", "", "", "", "last"]
    for at in range(len(text) + 1):
        pieces = _pieces(text[:at], text[at:])
        assert [line async for line in http._split(pieces, http._ANY_END)] == whole, at
    bytewise = _pieces(*(text[at : at + 1] for at in range(len(text))))
    assert [line async for line in http._split(bytewise, http._ANY_END)] == whole
