"""`promises`, `resolve` and schedules in `show`, against a real server."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.slow]

TRIP = """
from dataclasses import dataclass
from datetime import timedelta
from perdure import App, Object, Promise, cron, every, query

@dataclass
class Approval:
    approved: bool
    by: str = ""

class Trip(Object):
    async def plan(self) -> str:
        self.promise = Promise[Approval](timeout=timedelta(days=1))
        answer = await self.promise
        return f"{answer.approved} by {answer.by}"

    async def forget(self) -> None:
        self.schedule(timedelta(), self._fail, id="fail")

    async def _fail(self) -> None:
        raise ValueError("no luck")

class Clock(Object):
    ticks: int = 0

    @every(timedelta(milliseconds=50))
    async def tick(self) -> None:
        self.ticks += 1

    @cron("0 9 * * *", tz="Europe/Lisbon")
    async def morning(self) -> None: ...

    @query
    async def count(self) -> int:
        return self.ticks

app = App([Trip, Clock], objects=[Clock.at("main")])
"""


def test_promises_are_listed_resolved_and_rejected(shell: Any) -> None:
    shell.write("trip.py", TRIP)
    server = shell.serve("serve", "trip.py")
    calls = {key: shell.json(server, "send", f"Trip/{key}", "plan") for key in "ab"}
    listed = shell.json(server, "promises")
    assert [(row["object"], row["type"]) for row in listed] == [
        ("Trip/a", "Approval"),
        ("Trip/b", "Approval"),
    ]
    assert shell.json(server, "promises", "--type", "bool") == []
    [row] = shell.json(server, "promises", "--object", "Trip/b", "--limit", "1")
    told = shell.run("promises", "--url", server.url).stdout
    assert row["token"] in told
    assert "Trip/b" in told
    url = ("--url", server.url)
    wrong = shell.run("resolve", row["token"], '{"approved": 5}', *url)
    assert wrong.returncode == 1
    assert "$.approved" in wrong.stderr
    done = shell.run("resolve", row["token"], '{"approved": true, "by": "ada"}', *url)
    assert (done.returncode, done.stdout) == (0, "resolved\n")
    again = shell.run("resolve", row["token"], '{"approved": false}', *url)
    assert again.returncode == 1
    assert "conflict" in again.stderr
    assert shell.run("resolve", "nonsense", "1", *url).returncode == 1
    assert shell.run("resolve", row["token"], *url).returncode == 2
    first = listed[0]["token"]
    rejected = shell.json(server, "resolve", first, "--reject", "too dear")
    assert rejected == {"token": first, "resolved": False}
    assert shell.json(server, "promises") == []
    answer = server_answer(server, calls["b"]["location"])
    assert answer == "true by ada".replace("true", "True")
    failed = server_answer(server, calls["a"]["location"])
    assert (failed["error"], failed["message"]) == ("PromiseRejected", "too dear")
    assert "promise of" in shell.run("history", "Trip/b", *url).stdout


def server_answer(server: Any, location: str) -> Any:
    import httpx

    return httpx.get(f"{server.url}{location}", params={"wait": "10"}).json()


def test_schedules_run_and_are_shown(shell: Any) -> None:
    shell.write("trip.py", TRIP)
    server = shell.serve("serve", "trip.py")
    deadline = time.monotonic() + 30
    while shell.json(server, "call", "Clock/main", "count") < 2:
        assert time.monotonic() < deadline
    timers = {one["id"]: one for one in shell.json(server, "show", "Clock/main")["timers"]}
    assert timers["@tick"]["rhythm"] == "every 0:00:00.050000"
    assert timers["@morning"]["rhythm"] == "0 9 * * * Europe/Lisbon"
    assert timers["@morning"]["missed"] == "once"
    shell.json(server, "call", "Trip/c", "forget")
    while not (timers := shell.json(server, "show", "Trip/c")["timers"])[0]["failures"]:
        assert time.monotonic() < deadline
    assert (timers[0]["id"], timers[0]["due"]) == ("fail", None)
    assert timers[0]["error"] == "ValueError: no luck"
    told = shell.run("show", "Trip/c", "--url", server.url).stdout
    assert "failed: ValueError: no luck" in told
    assert json.dumps(timers)
