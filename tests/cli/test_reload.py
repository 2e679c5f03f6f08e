"""A reload of a running server: no call is lost, and what waits goes on in its own code."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.slow]

TRIP = '''
import asyncio
from perdure import Object, query

class Trip(Object):
    log: list[str] = []
    calls: int = 0

    async def run(self, seconds: float) -> str:
        self.log.append("begun by %(name)s")
        await asyncio.sleep(seconds)
        self.log.append("ended by %(name)s")
        return "%(name)s"

    async def same(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.log.append(who())

    async def up(self) -> int:
        self.calls += 1
        return self.calls

    @query
    async def read(self) -> list[str]:
        return self.log

    @query
    async def who(self) -> str:
        return who()

def who() -> str:
    return "%(name)s"
'''


def code(name: str) -> str:
    return TRIP % {"name": name}


def test_sighup_takes_the_new_code_and_loses_no_call(shell: Any) -> None:
    shell.write("trip.py", code("one"))
    server = shell.serve("serve", "trip.py")
    answers: list[int] = []
    failures: list[str] = []
    stop = threading.Event()

    def ask(client: httpx.Client | None) -> None:
        while not stop.is_set():
            if client is None:
                answer = server.post("Trip/a/up")
            else:
                answer = client.post(f"{server.url}/Trip/a/up", json={}, timeout=60)
            if answer.status_code == 200:
                answers.append(answer.json())
            else:
                failures.append(answer.text)

    # Two that connect for each call, and two that keep their connections.
    clients = [None, None, httpx.Client(), httpx.Client()]
    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for number, name in enumerate(["two", "three"], start=1):
        shell.write("trip.py", code(name))
        server.signal(signal.SIGHUP)
        server.wait_for("serving again", number)
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(answers) == list(range(1, len(answers) + 1))
    assert httpx.get(f"{server.url}/Trip/a/who").json() == "three"
    assert server.stop() == 0


def test_a_reload_with_broken_code_changes_nothing(shell: Any) -> None:
    shell.write("trip.py", code("one"))
    server = shell.serve("serve", "trip.py")
    shell.write("trip.py", "import nothing_of_that_name\n")
    server.signal(signal.SIGHUP)
    server.wait_for("the code before this change goes on")
    assert httpx.get(f"{server.url}/Trip/a/who").json() == "one"
    assert server.call("Trip/a/up") == 1
    assert server.stop() == 0


def test_a_file_is_edited_while_handlers_sleep(shell: Any) -> None:
    shell.write("trip.py", code("one"))
    server = shell.serve("dev", "trip.py")
    for handler in ("run", "same"):
        asked = httpx.post(
            f"{server.url}/Trip/a/{handler}",
            json={"seconds": 6.0},
            headers={"Prefer": "respond-async"},
        )
        assert asked.status_code == 202
    shell.write("trip.py", code("two"))
    server.wait_for("serving again")
    assert httpx.get(f"{server.url}/Trip/a/who").json() == "two"
    deadline = time.monotonic() + 30
    while len(log := httpx.get(f"{server.url}/Trip/a/read").json()) < 3:
        assert time.monotonic() < deadline, log
        time.sleep(0.1)
    # What has changed went on as it was, and what has not found the new function.
    assert sorted(log) == ["begun by one", "ended by one", "two"]
    assert server.stop() == 0
