"""A reload of a running server: no call is lost, and what waits goes on in its own code."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.crash.kills import kills

pytestmark = [pytest.mark.slow]

TRIP = """
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
"""


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


def test_verify_asks_a_running_server(shell: Any) -> None:
    shell.write("trip.py", code("one"))
    server = shell.serve("serve", "trip.py")
    for key in ("a", "b"):
        assert server.call(f"Trip/{key}/up") == 1
    asked = httpx.post(
        f"{server.url}/Trip/a/run", json={"seconds": 600.0}, headers={"Prefer": "respond-async"}
    )
    assert asked.status_code == 202
    same = shell.run("verify", "trip.py", "--url", server.url, "--json")
    assert same.returncode == 0, same.stderr
    report = json.loads(same.stdout)
    assert (report["objects"], report["turns"], report["bad"]) == (2, 3, 0)
    assert report["moves"] == ["Trip/a"]
    mistyped = shell.run("verify", "trip.py", "--url", server.url, "--class", "Trap")
    assert mistyped.returncode == 2
    assert "no class 'Trap'" in mistyped.stderr
    shell.write("trip.py", code("one").replace("self.calls += 1", "self.calls += 2"))
    other = shell.run("verify", "trip.py", "--url", server.url, "--json", "--one-seed")
    assert other.returncode == 1
    report = json.loads(other.stdout)
    assert [one["address"] for one in report["diverges"]] == ["Trip/a", "Trip/b"]
    listed = shell.run("versions", "--url", server.url, "--json", "--past")
    versions = json.loads(listed.stdout)
    assert [(one["objects"], one["past"], one["needed"]) for one in versions["versions"]] == [
        (2, 2, True)
    ]
    assert server.stop() == 0


def children(pid: int) -> list[int]:
    """The processes that a supervisor has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


@pytest.mark.crash
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it needs Linux's /proc")
def test_waits_come_to_their_end_once_over_deploys_that_are_killed(shell: Any) -> None:
    shell.write("trip.py", code("0"))
    server = shell.serve("serve", "trip.py")
    chance = random.Random(7)
    count, deploys = 30, min(kills(2), 12)
    with httpx.Client(base_url=server.url) as client:
        for number in range(count):
            asked = client.post(
                f"/Trip/{number}/run",
                json={"seconds": 6.0 * deploys + number / 10},
                headers={"Prefer": "respond-async"},
            )
            assert asked.status_code == 202
    for deploy in range(1, deploys + 1):
        shell.write("trip.py", code(str(deploy)))
        server.signal(signal.SIGHUP)
        # At any moment of it: both workers, as in a loss of power.
        time.sleep(chance.uniform(0.0, 1.5))
        for pid in children(server.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while httpx.get(f"{server.url}/Trip/x/who", timeout=60).json() != str(deploy):
            assert time.monotonic() < deadline, server.text()
            server.signal(signal.SIGHUP)
            time.sleep(2.0)
        # Some wake in between, and go over.
        for number in range(0, count, deploy + 1):
            server.call(f"Trip/{number}/up")
    deadline = time.monotonic() + 90 + 6 * deploys
    for number in range(count):
        while len(log := httpx.get(f"{server.url}/Trip/{number}/read", timeout=60).json()) < 2:
            assert time.monotonic() < deadline, (number, log, server.text())
            time.sleep(0.2)
        assert log == ["begun by 0", "ended by 0"]
    assert server.stop() == 0
