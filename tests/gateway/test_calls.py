"""Calls over HTTP: cancelled by their id, with a deadline, and found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from perdure import Indexed, Object, Settings, current, query, send
from perdure.gateway.front import serve_front
from perdure.gateway.http import Gateway
from perdure.node import Node


class Job(Object):
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.log: list[str] = []

    async def run(self) -> str:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.log.append("undone")
            raise
        return "done"

    async def stubborn(self) -> str:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.log.append("swallowed")
        await self.go.wait()
        return "done"

    async def open(self) -> None:
        self.go.set()

    async def until(self) -> bool:
        return current().deadline is not None

    async def fails(self) -> None:
        raise ValueError("no")

    async def tell(self, to: str) -> str:
        return await send(Job.at(to).fails)

    @query
    async def read(self) -> list[str]:
        return self.log


class Served:
    """A node behind its own front, and a client."""

    def __init__(self, node: Node, port: int) -> None:
        self.node = node
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")

    async def post(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, headers=named)

    async def accepted(self, path: str) -> str:
        reply = await self.post(path, Prefer="respond-async")
        assert reply.status_code == 202
        return str(reply.headers["location"])

    async def get(self, path: str) -> Any:
        reply = await self.http.get(path)
        assert reply.status_code == 200, reply.text
        return reply.json()


@asynccontextmanager
async def served(data: Path, *classes: type[Object], **settings: Any) -> AsyncIterator[Served]:
    chosen = Settings(data=str(data), **settings)
    node = Node(classes or [Job], chosen)
    await node.start()
    gateway = Gateway(node.host, chosen, ready=lambda: node.ready)
    front = await serve_front(gateway, host="127.0.0.1", port=0)
    it = Served(node, front.port)
    try:
        yield it
    finally:
        await it.http.aclose()
        await front.drain(5)
        await node.drain()


def problem(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


async def test_a_cancelled_call_is_told_as_such(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        location = await s.accepted("/Job/a/run")
        gone = await s.http.delete(location)
        assert gone.status_code == 202
        assert gone.json() == {"id": location.rsplit("/", 1)[1], "status": "cancelled"}
        assert problem(await s.http.get(location)) == (409, "cancelled")
        assert (await s.http.delete(location)).status_code == 202
        assert await s.get("/Job/a/read") == ["undone"]
    async with served(tmp_path) as s:
        assert problem(await s.http.get(location)) == (409, "cancelled")
        assert (await s.http.delete(location)).status_code == 202


async def test_whoever_waits_for_it_hears_so(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        waiting = asyncio.ensure_future(s.post("/Job/a/run"))
        while not (machine := s.node.host.machine_at("Job/a")) or not machine.running:
            await asyncio.sleep(0.01)
        [call_id] = machine.running
        assert (await s.http.delete(f"/_perdure/calls/{call_id}")).status_code == 202
        assert problem(await waiting) == (409, "cancelled")
        # It was no call that is kept; now it is.
        assert problem(await s.http.get(f"/_perdure/calls/{call_id}")) == (409, "cancelled")


async def test_one_that_has_ended_and_one_that_never_was(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        location = await s.accepted("/Job/a/until")
        assert problem(await s.http.delete(location)) == (409, "conflict")
        assert await s.get(location) is False
        for unknown in ("nobody", "00000000000000ff-1.1"):
            assert problem(await s.http.delete(f"/_perdure/calls/{unknown}")) == (
                404,
                "unknown-call",
            )
        allow = (await s.http.put(location)).headers["allow"]
        assert allow == "GET, HEAD, DELETE, OPTIONS"


async def test_a_handler_that_swallows_it_has_a_result(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        location = await s.accepted("/Job/a/stubborn")
        assert (await s.http.delete(location)).status_code == 202
        assert (await s.http.get(location)).status_code == 202
        await s.post("/Job/a/open")
        assert await s.get(location) == "done"
        assert problem(await s.http.delete(location)) == (409, "conflict")


async def test_told_again_it_is_raised_again(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        location = await s.accepted("/Job/a/stubborn")
        await s.http.delete(location)
        await s.http.delete(location)
        assert (await s.http.get(location)).status_code == 202
        await s.http.delete(f"{location}?again=1")
        assert problem(await s.http.get(location)) == (409, "cancelled")


async def test_a_deadline_cancels_and_a_timeout_does_not(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        late = await s.post("/Job/a/run", Perdure_Deadline="0.05")
        assert problem(late) == (504, "timeout")
        assert late.json()["error"] == "DeadlineExceeded"
        assert await s.get("/Job/a/read") == ["undone"]
        patience = await s.post("/Job/b/run", Perdure_Timeout="0.05")
        assert problem(patience) == (504, "timeout")
        assert patience.json().get("error") is None
        assert await s.get("/Job/b/read") == []
        assert (await s.post("/Job/c/until", Perdure_Deadline="60")).json() is True
        assert (await s.post("/Job/c/until")).json() is False
        for wrong in ("0", "soon", "-1"):
            assert problem(await s.post("/Job/c/until", Perdure_Deadline=wrong)) == (
                400,
                "bad-request",
            )


async def test_a_call_that_was_asked_with_care_is_told_its_id(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        reply = await s.post("/Job/a/until", Idempotency_Key="k")
        again = await s.post("/Job/a/until", Idempotency_Key="k")
        call_id = reply.headers["perdure-call-id"]
        assert again.headers["perdure-call-id"] == call_id
        assert await s.get(f"/_perdure/calls/{call_id}") is False


async def test_what_a_program_has_sent_is_json_to_whoever_asks(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        call_id = await send(Job.at("a").until)
        assert await s.get(f"/_perdure/calls/{call_id}?wait=5") is False


# ---- Indexed attributes


class Order(Object):
    status: Indexed[str] = "open"
    total: Indexed[int] = 0
    price: Indexed[Decimal] = Decimal(0)
    weight: Indexed[float] = 0.0

    async def put(self, status: str, total: int) -> None:
        self.status, self.total = status, total

    async def name_things(self) -> None:
        asyncio.create_task(asyncio.sleep(500), name="\ud800")  # noqa: RUF006
        self.schedule(timedelta(days=1), self.put, "x", 1, id="\udfff")


async def test_objects_are_found_by_their_indexed_attributes(tmp_path: Path) -> None:
    async with served(tmp_path, Order, Job) as s:
        for n in range(5):
            await s.http.post(f"/Order/o%2F{n}/put", json=["open" if n % 2 else "paid", n])
        for _ in range(2):
            found = await s.get("/_perdure/objects?class=Order&where=status=open")
            assert [row["key"] for row in found] == ["o/1", "o/3"]
            assert {"address", "class", "key", "status", "seq", "updated"} <= found[0].keys()
            assert found[0]["seq"] == 1
            found = await s.get("/_perdure/objects?class=Order&where=status=paid&where=total%3E=2")
            assert [row["key"] for row in found] == ["o/2", "o/4"]
            await s.node.host.checkpointer.run()
        page = await s.http.get("/_perdure/objects?class=Order&where=total%3E=0&limit=3")
        assert len(page.json()) == 3
        following = page.links["next"]["url"]
        assert [row["key"] for row in await s.get(following)] == ["o/3", "o/4"]
        for wrong, code in {
            "class=Order&where=colour=red": (422, "invalid-arguments"),
            "class=Order&where=total=many": (422, "invalid-arguments"),
            "class=Order&where=weight=nan": (422, "invalid-arguments"),
            "class=Order&where=price=sNaN": (422, "invalid-arguments"),
            "class=Order&where=total=1&where=total=2": (422, "invalid-arguments"),
            "class=Nothing&where=x=1": (404, "unknown-class"),
            "where=status=open": (400, "bad-request"),
            "class=Order&where=status=open&prefix=o": (400, "bad-request"),
        }.items():
            assert problem(await s.http.get(f"/_perdure/objects?{wrong}")) == code


async def test_names_without_utf8_are_shown_as_escapes(tmp_path: Path) -> None:
    async with served(tmp_path, Order) as s:
        await s.http.post("/Order/a/name_things")
        shown = await s.get("/_perdure/objects/Order/a")
        assert [wait["task"] for wait in shown["waits"]] == ["\\ud800"]
        assert "\\udfff" in [timer.get("id") for timer in shown["timers"]]
        assert (await s.get("/_perdure/objects/Order/a/why"))[0]["task"] == "\\ud800"


# ---- what there is


async def test_calls_are_listed_and_what_is_stuck(tmp_path: Path) -> None:
    async with served(tmp_path) as s:
        await s.post("/Job/a/fails")
        location = await s.accepted("/Job/b/run")
        await s.http.post("/Job/c/tell", json=["d"])
        assert (await s.http.post("/Job/e/stubborn", headers={"Perdure-Deadline": "0.05"})).is_error
    async with served(tmp_path) as s:
        rows = await s.get("/_perdure/calls")
        assert [(row["object"], row["status"]) for row in rows] == [
            ("Job/e", "running"),
            ("Job/d", "failed"),
            ("Job/b", "running"),
            ("Job/a", "failed"),
        ]
        assert rows[2]["id"] == location.rsplit("/", 1)[1]
        assert {
            *("id", "object", "handler", "status", "since", "waiting_on", "caller"),
        } <= rows[0].keys()
        assert rows[0]["waiting_on"]
        assert [row["object"] for row in await s.get("/_perdure/calls?status=failed")] == [
            "Job/d",
            "Job/a",
        ]
        assert len(await s.get("/_perdure/calls?since=1h&class=Job")) == 4
        assert await s.get("/_perdure/calls?since=2999-01-01T00:00:00Z") == []
        done = await s.get("/_perdure/calls?status=done")
        assert [(row["object"], row["handler"]) for row in done] == [("Job/c", "tell")]
        page = await s.http.get("/_perdure/calls?limit=3")
        assert [row["object"] for row in await s.get(page.links["next"]["url"])] == ["Job/a"]
        for wrong, expected in {
            "status=lost": (422, "invalid-arguments"),
            "class=Nobody": (404, "unknown-class"),
            "object=nonsense": (400, "invalid-key"),
            "since=soon": (422, "invalid-arguments"),
            "after=x": (400, "bad-request"),
            "limit=0": (400, "bad-request"),
        }.items():
            assert problem(await s.http.get(f"/_perdure/calls?{wrong}")) == expected
        found = await s.get("/_perdure/stuck?older_than=0s")
        assert sorted((row["what"], row["object"]) for row in found) == [
            ("failed", "Job/d"),
            ("late", "Job/e"),
            ("waiting", "Job/b"),
        ]
        assert [row["what"] for row in await s.get("/_perdure/stuck")] == ["late", "failed"]
        metrics = (await s.http.get("/_perdure/metrics")).text
        assert "\nperdure_stuck 1.0\n" in metrics
