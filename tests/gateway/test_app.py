"""App: with its own lifespan, under uvicorn, mounted in FastAPI, and without any of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from structlog.testing import capture_logs

from perdure import App, BadApp, BadSettings, InvalidClass, Object, StoreBusy, query


class Tally(Object):
    """A counter."""

    value: int = 0

    async def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @query
    async def read(self) -> int:
        return self.value


def asgi_client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_its_state_outlives_it(tmp_path: Path) -> None:
    for expected in (1, 2):
        app = App([Tally], data=str(tmp_path))
        async with app.lifespan(), asgi_client(app) as client:
            assert (await client.post("/Tally/a/increment")).json() == expected
            assert (await client.get("/_perdure/ready")).status_code == 200


async def test_it_can_be_started_again(tmp_path: Path) -> None:
    app = App([Tally], data=str(tmp_path))
    for expected in (1, 2):
        async with app.lifespan(), asgi_client(app) as client:
            assert (await client.post("/Tally/a/increment")).json() == expected


async def test_two_lifespans_at_once_are_refused(tmp_path: Path) -> None:
    app = App([Tally], data=str(tmp_path))
    async with app.lifespan():
        with pytest.raises(BadApp, match="running already"):
            async with app.lifespan():
                pass
        with pytest.raises(StoreBusy):
            async with App([Tally], data=str(tmp_path)).lifespan():
                pass


async def test_without_a_lifespan_it_says_what_to_add() -> None:
    app = App([Tally], store="memory:")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        reply = await client.post("/Tally/a/increment")
        assert reply.status_code == 503
        assert "lifespan=app.lifespan" in reply.json()["detail"]
    async with asgi_client(app) as client:
        with pytest.raises(BadApp, match=r"lifespan=app\.lifespan"):
            await client.post("/Tally/a/increment")


async def test_it_is_mounted_in_fastapi(tmp_path: Path) -> None:
    app = App([Tally], data=str(tmp_path))
    web = FastAPI(lifespan=app.lifespan)
    web.mount("/objects", app)

    @web.get("/through/{key}")
    async def through(key: str) -> int:
        return await Tally.at(key).increment(by=10)

    async with web.router.lifespan_context(web), asgi_client(web) as client:
        assert (await client.post("/objects/Tally/a%2Fb/increment")).json() == 1
        assert (await client.get("/through/a")).json() == 10
        reply = await client.post("/objects/Tally/a/increment", headers={"Prefer": "respond-async"})
        assert reply.status_code == 202
        location = reply.headers["location"]
        assert location.startswith("/objects/_perdure/calls/")
        assert (await client.get(f"{location}?wait=10")).json() == 11
        document = (await client.get("/objects/_perdure/openapi.json")).json()
        assert document["servers"][0]["url"] == "/objects"
        reply = await client.get("/objects/_perdure/objects")
        assert [row["address"] for row in reply.json()] == ["Tally/a", "Tally/a%2Fb"]


@contextlib.asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncIterator[str]:
    """An application under a real uvicorn."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, **options)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        running = asyncio.ensure_future(server.serve([sock]))
        while not server.started and not running.done():
            await asyncio.sleep(0.001)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@pytest.mark.parametrize("parser", ["h11", "httptools"])
async def test_it_runs_under_uvicorn(tmp_path: Path, parser: str) -> None:
    app = App([Tally], data=str(tmp_path))
    async with served(app, http=parser) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/Tally/a%2Fb/increment", json={"by": 2})).json() == 2
        assert (await client.get("/Tally/a%2Fb/read")).json() == 2
        reply = await client.head("/Tally/a%2Fb/read")
        assert (reply.headers["content-length"], reply.content) == ("1", b"")
        assert (await client.get("/Tally/a/increment")).status_code == 405
        assert (await client.get("/_perdure/objects/Tally/a%2Fb")).json()["key"] == "a/b"
    async with app.lifespan(), asgi_client(app) as client:
        assert (await client.get("/Tally/a%2Fb/read")).json() == 2


async def test_a_start_that_is_refused_is_told_to_the_server(tmp_path: Path) -> None:
    sent: list[Any] = []
    app = App([Tally], data=str(tmp_path))

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with App([Tally], data=str(tmp_path)).lifespan():
        await app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert str(tmp_path) in sent[0]["message"]
    assert "Traceback" not in sent[0]["message"]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_hash_seed_that_is_not_the_stores_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    app = App([Tally], data=str(tmp_path))
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with capture_logs() as logs:
        async with app.lifespan():
            pass
    (warning,) = [line["event"] for line in logs if "PYTHONHASHSEED" in line["event"]]
    seed = warning.rpartition("PYTHONHASHSEED=")[2]
    if kept:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        with capture_logs() as logs:
            async with app.lifespan():
                pass
        assert [line for line in logs if "PYTHONHASHSEED" in line["event"]] == []


def test_what_is_wrong_with_it_is_said_where_it_is_made() -> None:
    with pytest.raises(BadSettings, match="unknown setting 'prot'"):
        App([Tally], prot=80)
    with pytest.raises(BadApp, match="no subclass"):
        App([int])  # type: ignore[list-item]

    class Wrong(Object):
        shared = []  # type: ignore[var-annotated]

    with pytest.raises(InvalidClass, match="shared"):
        App([Wrong])


def test_it_carries_what_it_was_given() -> None:
    def authorize(request: Any) -> None: ...

    app = App([Tally], authorize, port=80, debug=True)
    assert app.classes == (Tally,)
    assert app.authorize is authorize
    assert (app.settings.port, app.settings.debug) == (80, True)


async def test_a_principal_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    def authorize(request: Any) -> Any:
        return {"name": "ann", "session": threading.Lock()}

    app = App([Tally], authorize, data=str(tmp_path))
    async with app.lifespan(), asgi_client(app) as client:
        problem = (await client.post("/Tally/a/increment")).json()
        assert problem["code"] == "not-serializable"
        assert problem["title"] == "A value cannot be kept"
        assert "the principal['session']" in problem["detail"]
