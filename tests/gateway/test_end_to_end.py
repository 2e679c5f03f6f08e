"""Real objects behind the own front: what a client sees, from the socket to the disk and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from perdure import Action, Forbidden, Object, Settings, Unauthorized, current, query, sleep
from perdure.gateway.front import Front, serve_front
from perdure.gateway.http import Authorize, Gateway
from perdure.node import Node
from tests.gateway.fakes import Client, post, until, vanish


class Till(Object):
    """Takes money."""

    def __init__(self) -> None:
        self.taken = 0
        self.open = asyncio.Event()

    async def take(self, amount: int = 1) -> int:
        self.taken += amount
        return self.taken

    async def take_when_open(self, amount: int) -> int:
        await self.open.wait()
        return await self.take(amount)

    async def unlock(self) -> None:
        self.open.set()

    async def nap(self, seconds: float) -> str:
        await sleep(seconds)
        return "rested"

    async def break_down(self) -> None:
        raise LookupError("no paper")

    async def lie(self) -> int:
        return "three"  # type: ignore[return-value]

    async def who(self) -> Any:
        return current().principal

    @query
    async def count(self) -> int:
        return self.taken

    @query
    async def meddle(self) -> None:
        self.taken = 0


class Guarded(Object):
    """Lets its owner in."""

    async def authorize(self, principal: Any, action: Action) -> None:
        if principal != self.key:
            raise Forbidden(f"{principal} may not {action.kind} {action.handler}")

    async def enter(self) -> str:
        return "welcome"

    @query
    async def peep(self) -> str:
        return "dark"


class Served:
    """A node and its front."""

    def __init__(self, node: Node, front: Front) -> None:
        self.node = node
        self.front = front
        self.url = f"http://127.0.0.1:{front.port}"
        self.http = httpx.AsyncClient(base_url=self.url)

    async def call(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, json={} if body is None else body, headers=named)

    async def raw(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.front.port))


@asynccontextmanager
async def served(
    data: Path, authorize: Authorize | None = None, **settings: Any
) -> AsyncIterator[Served]:
    chosen = Settings(data=str(data), **settings)
    node = Node([Till, Guarded], chosen)
    await node.start()
    gateway = Gateway(node.host, chosen, authorize, ready=lambda: node.ready)
    front = await serve_front(gateway, host="127.0.0.1", port=0)
    it = Served(node, front)
    try:
        yield it
    finally:
        await it.http.aclose()
        await front.drain(5)
        await node.drain()


async def test_what_was_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        assert (await s.call("/Till/a%2Fb/take", {"amount": 5})).json() == 5
    async with served(tmp_path) as s:
        assert (await s.http.get("/Till/a%2Fb/count")).json() == 5


async def test_each_kind_of_failure_has_its_problem(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        wanted = {
            "/Till/a/break_down": (500, "handler-error", "LookupError"),
            "/Till/a/lie": (500, "handler-error", "ResultTypeError"),
            "/Till/a/meddle": (500, "handler-error", "ReadOnlyError"),
        }
        for path, expected in wanted.items():
            reply = await s.call(path)
            problem = reply.json()
            assert (reply.status_code, problem["code"], problem["error"]) == expected
            assert "traceback" not in problem
        reply = await s.call("/Till/a/take", {"amount": "x"})
        assert reply.status_code == 422
        assert [error["path"] for error in reply.json()["errors"]] == ["$.amount"]
        assert (await s.http.get("/Till/a/count")).json() == 0


async def test_a_traceback_is_told_in_debug(tmp_path: Path) -> None:
    async with served(tmp_path, debug=True) as s:
        assert "in meddle" in (await s.call("/Till/a/meddle")).json()["traceback"]


async def test_an_idempotency_key_makes_a_call_happen_once(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        replies = await asyncio.gather(
            *(s.call("/Till/a/take", {"amount": 5}, Idempotency_Key="k") for _ in range(10))
        )
        assert {reply.json() for reply in replies} == {5}
        assert (await s.call("/Till/a/take", {"amount": 6}, Idempotency_Key="k")).status_code == 422
        assert (await s.call("/Till/b/take", {"amount": 6}, Idempotency_Key="k")).json() == 6
    async with served(tmp_path) as s:
        again = await s.call("/Till/a/take", {"amount": 5}, Idempotency_Key="k")
        assert (again.json(), again.headers["idempotent-replayed"]) == (5, "true")
        assert (await s.http.get("/Till/a/count")).json() == 5


async def test_an_accepted_call_is_found_again_after_a_restart(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        reply = await s.call("/Till/a/take_when_open", {"amount": 5}, Prefer="respond-async")
        assert reply.status_code == 202
        location = reply.headers["location"]
        assert (await s.http.get(location)).status_code == 202
    async with served(tmp_path) as s:
        waiting = asyncio.ensure_future(s.http.get(f"{location}?wait=30"))
        await s.call("/Till/a/unlock")
        assert (await waiting).json() == 5
        assert (await s.http.get(location)).json() == 5
        assert (await s.http.get("/_perdure/calls/nobody")).status_code == 404


async def test_a_timeout_leaves_the_call_going(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        reply = await s.call("/Till/a/take_when_open", {"amount": 5}, Perdure_Timeout="0.01")
        assert (reply.status_code, reply.json()["code"]) == (504, "timeout")
        await s.call("/Till/a/unlock")
        assert (await s.http.get("/Till/a/count")).json() == 5


async def test_answers_keep_their_order_while_calls_do_not(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        client = await s.raw()
        client.send(
            post("/Till/a/nap", '{"seconds": 0.05}')
            + post("/Till/a/take_when_open", "[5]")
            + post("/Till/b/take", "[7]")
            + post("/Till/a/unlock")
            + post("/Till/a/take", "[1]")
        )
        assert [(await client.reply()).json() for _ in range(5)] == ["rested", 5, 7, None, 6]
        client.close()


async def test_a_client_that_vanishes_leaves_its_call_going(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        client = await s.raw()
        client.send(post("/Till/a/take_when_open", "[5]"))
        await until(lambda: s.node.host.stats().waiting)
        vanish(client, rudely=True)
        await until(lambda: not s.front.connections)
        await s.call("/Till/a/unlock")
        assert (await s.http.get("/Till/a/count")).json() == 5


async def test_a_full_mailbox_is_overloaded(tmp_path: Path) -> None:
    async with served(tmp_path, mailbox_limit=2) as s:
        waiting = [
            asyncio.ensure_future(s.call("/Till/a/take_when_open", {"amount": 1})) for _ in range(2)
        ]
        await until(lambda: s.node.host.stats().waiting == 2)
        reply = await s.call("/Till/a/take")
        assert (reply.status_code, reply.json()["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) > 0
        assert (await s.call("/Till/b/unlock")).status_code == 200
        for one in waiting:
            one.cancel()


async def test_the_principal_reaches_the_object(tmp_path: Path) -> None:
    async def authorize(request: Any) -> str:
        user = request.headers.get("x-user")
        if user is None:
            raise Unauthorized("who are you?")
        return str(user)

    async with served(tmp_path, authorize) as s:
        assert (await s.call("/Till/a/who", X_User="ada")).json() == "ada"
        assert (await s.call("/Till/a/who")).status_code == 401
        assert (await s.call("/Guarded/ada/enter", X_User="ada")).json() == "welcome"
        reply = await s.call("/Guarded/ada/enter", X_User="bob")
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
        assert reply.json()["detail"] == "bob may not call enter"
        reply = await s.http.get("/Guarded/ada/peep", headers={"X-User": "bob"})
        assert (reply.status_code, reply.json()["detail"]) == (403, "bob may not query peep")


async def test_administration_shows_and_ends_objects(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        for amount in (1, 2):
            await s.call("/Till/a%2Fb/take", {"amount": amount})
        base = "/_perdure/objects"
        (row,) = (await s.http.get(base)).json()
        assert (row["address"], row["class"], row["key"], row["seq"]) == (
            "Till/a%2Fb",
            "Till",
            "a/b",
            2,
        )
        assert (await s.http.get(f"{base}/Till/a%2Fb")).json()["state"]["taken"] == 3
        history = (await s.http.get(f"{base}/Till/a%2Fb/history?after=1")).json()
        assert [entry["seq"] for entry in history] == [2]
        assert (await s.http.delete(f"{base}/Till/a%2Fb")).status_code == 204
        assert (await s.http.get("/Till/a%2Fb/count")).json() == 0
        assert (await s.http.get(f"{base}/Nothing/a")).status_code == 404
        assert (await s.http.get("/_perdure/quarantine")).json() == []
        metrics = (await s.http.get("/_perdure/metrics")).text
        labels = 'class="Till",handler="take",status="200"'
        assert f"perdure_http_requests_total{{{labels}}} 2.0" in metrics


async def test_a_drain_answers_what_is_under_way(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        nap = asyncio.ensure_future(s.call("/Till/a/nap", {"seconds": 0.05}))
        await until(lambda: s.node.host.stats().waiting)
        assert await s.front.drain(10)
        reply = await nap
        assert (reply.json(), reply.headers["connection"]) == ("rested", "close")
