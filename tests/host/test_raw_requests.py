"""`on_request` in an object that is rebuilt: the past is the same, and a wait goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from perdure import Object, query, sleep
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.raw_requests import RawRequest, pack, unpack_response
from perdure.journal.entry import HTTP
from perdure.testing.virtual import run_virtual
from tests.host.stage import Stage


class Page(Object):
    seen: list[str] = []

    async def on_request(self, request: Request) -> Response:
        text = (await request.body()).decode()
        self.seen.append(f"{request.method} {request.url.path} {text}")
        if text == "wait":
            await sleep(100)
            self.seen.append("waited")
        if text == "stream":
            return StreamingResponse(self._pieces())
        return PlainTextResponse(f"{len(self.seen)}")

    async def _pieces(self) -> AsyncIterator[str]:
        for piece in "abc":
            await sleep(10)
            self.seen.append(piece)
            yield piece

    @query
    def all(self) -> list[str]:
        return self.seen


class Client:
    def __init__(self, stage: Stage, body: bytes) -> None:
        kind = stage.host.kinds["Page"]
        raw = RawRequest(
            "POST", "http", "1.1", "/Page/p/x", b"/Page/p/x", b"", "", "x", [], None, None, body
        )
        self.answer: Answer | None = None
        self.items: list[bytes] = []
        handler = kind.on_request
        stage.host.call(
            IncomingCall(
                kind,
                "p",
                handler,
                ((), {}),
                pack(raw),
                self._answered,
                format=HTTP,
                on_item=lambda _, body: self.items.append(body),
            )
        )

    def _answered(self, answer: Answer) -> None:
        self.answer = answer

    def text(self) -> Any:
        assert self.answer is not None
        return unpack_response(self.answer.body).body


def test_requests_are_replayed_and_their_waits_go_on() -> None:
    async def main() -> None:
        async with Stage(Page) as stage:
            first = Client(stage, b"one")
            await asyncio.sleep(1)
            assert first.text() == b"1"
            Client(stage, b"wait")
            await asyncio.sleep(1)
            await stage.restart()
            before = ["POST /Page/p/x one", "POST /Page/p/x wait"]
            assert await Page.at("p").all() == before
            await stage.hibernate()
            await asyncio.sleep(100)
            assert await Page.at("p").all() == [*before, "waited"]

    run_virtual(main())


def test_pieces_leave_one_by_one_and_nobody_has_to_listen() -> None:
    async def main() -> None:
        async with Stage(Page) as stage:
            client = Client(stage, b"stream")
            await asyncio.sleep(15)
            assert client.items[1:] == [b"a"]
            await stage.restart()
            await asyncio.sleep(60)
            assert await Page.at("p").all() == ["POST /Page/p/x stream", "a", "b", "c"]

    run_virtual(main())
