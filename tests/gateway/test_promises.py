"""Promises over HTTP: the token is the permission, and a resolution counts once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from perdure import Object, Promise, Settings, Unauthorized, query
from perdure.gateway.front import serve_front
from perdure.gateway.http import Authorize, Gateway
from perdure.node import Node


@dataclasses.dataclass
class Approval:
    approved: bool
    by: str = ""


class Trip(Object):
    """Has to be approved."""

    token = ""
    result: Any = None

    async def plan(self) -> Any:
        promise = Promise[Approval](timeout=86_400)
        self.token = promise.token
        self.result = await promise
        return self.result

    async def survey(self) -> str:
        return Promise[dict[str, int]]().token

    @query
    async def which(self) -> str:
        return self.token

    @query
    async def outcome(self) -> Any:
        return self.result


@asynccontextmanager
async def served(
    data: Path, authorize: Authorize | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    chosen = Settings(data=str(data), **settings)
    node = Node([Trip], chosen)
    await node.start()
    gateway = Gateway(node.host, chosen, authorize, ready=lambda: node.ready)
    front = await serve_front(gateway, host="127.0.0.1", port=0)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}") as client:
            yield client
    finally:
        await front.drain(5)
        await node.drain()


async def planned(client: httpx.AsyncClient, key: str) -> str:
    """The token of a trip that waits for its approval."""
    answer = await client.post(f"/Trip/{key}/plan", headers={"prefer": "respond-async"})
    assert answer.status_code == 202
    return str((await client.get(f"/Trip/{key}/which")).json())


async def test_a_promise_is_resolved_once(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        token = await planned(client, "a")
        path = f"/_perdure/promises/{token}"
        for body, status, code in (
            (b'{"approved": "perhaps"}', 422, "invalid-arguments"),
            (b'{"approved": ', 400, "bad-json"),
            (b"", 400, "bad-json"),
        ):
            refused = await client.post(path, content=body)
            assert (refused.status_code, refused.json()["code"]) == (status, code)
        answer = await client.post(path, json={"approved": True, "by": "ada"})
        assert (answer.status_code, answer.content) == (204, b"")
        again = await client.post(path, json={"approved": False})
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert (await client.get("/Trip/a/outcome")).json() == {"approved": True, "by": "ada"}
    async with served(tmp_path) as client:
        assert (await client.post(path, json={"approved": False})).status_code == 409
        assert (await client.get("/Trip/a/outcome")).json() == {"approved": True, "by": "ada"}
        assert (await client.delete("/_perdure/objects/Trip/a")).status_code == 204
        gone = await client.post(path, json={"approved": True})
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown-promise")


async def test_of_many_who_resolve_at_once_one_counts(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        token = await planned(client, "a")
        answers = await asyncio.gather(
            *(
                client.post(
                    f"/_perdure/promises/{token}", json={"approved": True, "by": f"{number}"}
                )
                for number in range(20)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [204] + [409] * 19
        winner = next(n for n, answer in enumerate(answers) if answer.status_code == 204)
        assert (await client.get("/Trip/a/outcome")).json()["by"] == f"{winner}"


async def test_a_promise_is_rejected(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        answer = await client.post("/Trip/a/plan", headers={"prefer": "respond-async"})
        token = (await client.get("/Trip/a/which")).json()
        path = f"/_perdure/promises/{token}/reject"
        assert (await client.post(path, json=[1])).status_code == 400
        assert (await client.post(path, json={"message": "too dear"})).status_code == 204
        assert (await client.post(path, json="again")).status_code == 409
        failed = (await client.get(answer.headers["location"], params={"wait": "5"})).json()
        assert (failed["error"], failed["message"]) == ("PromiseRejected", "too dear")


async def test_what_is_no_token_is_unknown(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        token = await planned(client, "a")
        for wrong in ("x", token + "0", token[:-1], "%00", "ä", "0-p1.0"):
            answer = await client.post(f"/_perdure/promises/{wrong}", json=1)
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown-promise")
        assert (await client.get(f"/_perdure/promises/{token}")).status_code == 405


async def test_the_token_is_enough_and_the_list_is_for_administrators(tmp_path: Path) -> None:
    def authorize(request: Any) -> str:
        if request.headers.get("x-user"):
            return str(request.headers["x-user"])
        raise Unauthorized("who are you")

    async with served(tmp_path, authorize, admin_token="secret") as client:
        client.headers["x-user"] = "ada"
        token = await planned(client, "a")
        del client.headers["x-user"]
        assert (await client.get("/Trip/a/which")).status_code == 401
        stranger = {"x-forwarded-for": "10.0.0.9"}
        refused = await client.get("/_perdure/promises", headers=stranger)
        assert refused.status_code == 401
        admin = {**stranger, "authorization": "Bearer secret"}
        listed = (await client.get("/_perdure/promises", headers=admin)).json()
        assert [(row["object"], row["token"]) for row in listed] == [("Trip/a", token)]
        resolved = await client.post(
            f"/_perdure/promises/{token}", json={"approved": True}, headers=stranger
        )
        assert resolved.status_code == 204
        assert (await client.get("/_perdure/promises", headers=admin)).json() == []


async def test_open_promises_are_listed_by_the_page(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        for number in range(5):
            await planned(client, f"{number}")
        await client.post("/Trip/0/survey")
    async with served(tmp_path) as client:
        await planned(client, "5")
        listed = (await client.get("/_perdure/promises")).json()
        assert [row["object"] for row in listed] == [
            *(f"Trip/{number}" for number in range(5)),
            "Trip/0",
            "Trip/5",
        ]
        assert list(listed[0]) == ["token", "object", "type", "since", "until"]
        assert listed[5]["type"] == "dict[str, int]"
        assert listed[5]["until"] is None
        assert listed[0]["until"] > listed[0]["since"]
        found = []
        path = "/_perdure/promises?limit=2&type=Approval"
        while path:
            answer = await client.get(path)
            found += [row["object"] for row in answer.json()]
            path = answer.links.get("next", {}).get("url", "")
        assert found == [f"Trip/{number}" for number in range(6)]
        one = (await client.get("/_perdure/promises?object=Trip/0")).json()
        assert [row["type"] for row in one] == ["Approval", "dict[str, int]"]
        assert (await client.get("/_perdure/promises?after=x")).status_code == 400
