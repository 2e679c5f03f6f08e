"""`on_request`: any HTTP below an object's path, as clients of both faces see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

from perdure import Action, App, Forbidden, Object, Settings, current, sleep
from perdure.gateway.front import serve_front
from perdure.gateway.http import Gateway
from perdure.node import Node
from tests.gateway.fakes import Client, until, vanish


class Site(Object):
    """A small site."""

    pages: dict[str, str] = {}
    hits: int = 0

    async def on_request(self, request: Request) -> Response:
        self.hits += 1
        path = request.path_params["path"]
        match request.method, path:
            case "GET", "":
                return HTMLResponse("<h1>home</h1>")
            case "PUT", name:
                size = 0
                text = b""
                async for piece in request.stream():
                    size = max(size, len(piece))
                    text += piece
                self.pages[name] = text.decode()
                return JSONResponse({"largest": size}, 201)
            case "GET", "echo":
                return JSONResponse(
                    {
                        "url": str(request.url),
                        "query": dict(request.query_params),
                        "header": request.headers.get("x-mine"),
                        "cookies": request.cookies,
                        "principal": current().principal,
                    }
                )
            case "GET", "slow":
                await sleep(0.01)
                return PlainTextResponse("at last")
            case "GET", "stream":
                return StreamingResponse(self._lines(), media_type="text/plain")
            case "GET", "cut":
                return StreamingResponse(self._lines(bad=True))
            case "GET", "away":
                answer = RedirectResponse("/elsewhere")
                answer.set_cookie("a", "1")
                answer.set_cookie("b", "2")
                return answer
            case "GET", "wrong":
                return "text"  # type: ignore[return-value]
            case "GET", "broken":
                raise LookupError("no")
            case "POST", "form":
                form = await request.form()
                return PlainTextResponse(str(form["name"]))
            case "GET", "status":
                return Response(request.query_params.get("body"), int(request.query_params["is"]))
            case "GET", "piecewise":
                status = int(request.query_params["is"])
                return StreamingResponse(self._lines(), status)
            case "GET", "field":
                return Response(headers={"x-a": "b\r\nx-c: d"})
            case "GET", "fails-at-once":
                return StreamingResponse(self._bad())
            case "OPTIONS", _:
                return Response(status_code=204, headers={"allow": "GET, PUT"})
            case "GET", name if name in self.pages:
                return PlainTextResponse(self.pages[name])
        return PlainTextResponse("nothing here", 404)

    async def _lines(self, bad: bool = False) -> AsyncIterator[str]:
        for number in range(3):
            yield f"line {number}\n"
            await sleep(0.001)
        if bad:
            raise LookupError("no more")

    async def _bad(self) -> AsyncIterator[str]:
        yield "one"
        raise LookupError("no more")

    async def count(self) -> int:
        return self.hits


class Guarded(Object):
    async def authorize(self, principal: Any, action: Action) -> None:
        if action.kind == "request":
            raise Forbidden(f"no {action.kind} of {action.handler}")

    def on_request(self, request: Request) -> Response:
        return PlainTextResponse("plain")


class Open(Object):
    def on_request(self, request: Request) -> Response:
        return PlainTextResponse(request.method)


CLASSES = [Site, Guarded, Open]


@asynccontextmanager
async def own_front(data: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(data=str(data))
    node = Node(CLASSES, settings)
    await node.start()
    front = await serve_front(Gateway(node.host, settings), host="127.0.0.1", port=0)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}") as http:
            yield http
    finally:
        await front.drain(5)
        await node.drain()


@asynccontextmanager
async def asgi(data: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = App(CLASSES, data=str(data))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", loop="uvloop"))
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            yield http
    finally:
        server.should_exit = True
        await serving


faces = pytest.mark.parametrize("face", [own_front, asgi], ids=["front", "asgi"])


@faces
async def test_an_object_answers_what_is_no_handler(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as http:
        for path in ("/Site/a", "/Site/a/"):
            home = await http.get(path)
            assert (home.status_code, home.text) == (200, "<h1>home</h1>")
            assert home.headers["content-type"] == "text/html; charset=utf-8"
        text = "x" * 200_000
        put = await http.put("/Site/a/deep/page", content=text)
        assert (put.status_code, put.json()) == (201, {"largest": 65536})
        assert (await http.get("/Site/a/deep/page")).text == text
        assert (await http.get("/Site/b/deep/page")).status_code == 404
        # A handler is still one.
        assert (await http.post("/Site/a/count")).json() == 4
        assert (await http.get("/Site/a/slow")).text == "at last"
        head = await http.head("/Site/a")
        assert (head.status_code, head.text) == (404, "")
        assert (await http.options("/Site/a/x")).headers["allow"] == "GET, PUT"
        form = await http.post("/Site/a/form", data={"name": "ada"})
        assert form.text == "ada"
    async with face(tmp_path) as http:
        assert (await http.get("/Site/a/deep/page")).text == text


@faces
async def test_the_request_is_the_one_that_came(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as http:
        reply = await http.get(
            "/Site/a%2Fb/echo?x=1&y=%C3%A4", headers={"X-Mine": "m", "Cookie": "c=d"}
        )
        said = reply.json()
        assert said["query"] == {"x": "1", "y": "ä"}
        assert (said["header"], said["cookies"]) == ("m", {"c": "d"})
        assert "/Site/a" in said["url"]
        away = await http.get("/Site/a/away")
        assert away.status_code == 307
        assert away.headers["location"] == "/elsewhere"
        assert len(away.headers.get_list("set-cookie")) == 2


@faces
async def test_a_response_may_come_piece_by_piece(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as http:
        async with http.stream("GET", "/Site/a/stream") as response:
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
            assert "content-length" not in response.headers
            assert [line async for line in response.aiter_lines()] == [
                f"line {number}" for number in range(3)
            ]
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/Site/a/cut")


@faces
async def test_what_goes_wrong_is_a_problem(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as http:
        wrong = (await http.get("/Site/a/wrong")).json()
        assert (wrong["code"], wrong["error"]) == ("handler-error", "ResultTypeError")
        assert (await http.get("/Site/a/broken")).json()["error"] == "LookupError"
        guarded = await http.get("/Guarded/a")
        assert (guarded.status_code, guarded.json()["detail"]) == (403, "no request of on_request")
        assert (await http.get("/Open/a/x/y/z")).text == "GET"
        assert (await http.post("/Open/a/on_request")).text == "POST"
        strange = await http.post("/Open/a/x", headers={"Sec-Fetch-Site": "cross-site"})
        assert strange.status_code == (403 if face is own_front else 200)


async def test_the_same_key_brings_the_recorded_response(tmp_path: Path) -> None:
    async with own_front(tmp_path) as http:
        headers = {"Idempotency-Key": "k"}
        first = await http.put("/Site/a/p", content="one", headers=headers)
        again = await http.put("/Site/a/p", content="one", headers=headers)
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        other = await http.put("/Site/a/p", content="two", headers=headers)
        assert other.json()["code"] == "idempotency-mismatch"


@faces
async def test_a_response_without_a_body_is_the_end_of_it(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as http:
        for status in (204, 304):
            for path in (
                f"/Site/a/status?is={status}&body=HTTP/1.1",
                f"/Site/a/piecewise?is={status}",
            ):
                bare = await http.get(path)
                assert (bare.status_code, bare.text) == (status, "")
                # The next answer on the connection is the next answer.
                assert (await http.get("/Site/a/echo")).status_code == 200
        # uvicorn cannot send those that have no name.
        for status in (200, 404, *((299, 599, 799) if face is own_front else ())):
            text = await http.get(f"/Site/a/status?is={status}&body=text")
            assert (text.status_code, text.text) == (status, "text")


@faces
async def test_what_is_no_response_in_http_is_not_sent(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as http:
        for path in ("status?is=100", "status?is=101", "status?is=0", "status?is=1000", "field"):
            answer = await http.get(f"/Site/a/{path}")
            assert (answer.status_code, answer.json()["error"]) == (500, "ResultTypeError"), path
            assert "cannot be sent" in answer.json()["message"]
            assert "x-c" not in answer.headers
        assert (await http.get("/Site/a/piecewise?is=42")).status_code == 500


@faces
async def test_what_failed_at_once_is_not_taken_for_whole(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path) as http:
        got = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async with http.stream("GET", "/Site/a/fails-at-once") as response:
                async for piece in response.aiter_raw():
                    got += piece
        assert (response.status_code, got) == (200, b"one")


async def test_a_request_may_name_the_server_as_to_a_proxy(tmp_path: Path) -> None:
    async with own_front(tmp_path) as http:
        port = http.base_url.port
        assert port is not None
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.send(b"GET http://a/Site/a/echo?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        said = json.loads((await client.reply()).body)
        assert (said["url"], said["query"]) == ("http://a/Site/a/echo?x=1", {"x": "1"})
        vanish(client, False)
