"""Sleeping objects while the worker is killed: all wake, none early, none twice."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.crash.conftest import Server, wait_until
from tests.crash.kills import kill_often, kills, seeded

KILLS = kills(5)
SLEEPERS = 20

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180 + 6 * KILLS)]


def test_all_that_sleep_wake_once_and_never_early(serve: Any, tmp_path: Path) -> None:
    chance = seeded("sleepers")
    diary = tmp_path / "diary"
    server = serve(
        *("sleepers.py", "--hibernate-after", "0.3", "--checkpoint-bytes", "20000"),
        DIARY=str(diary),
    )
    server.start()
    client = server.client()
    plans: dict[str, list[float]] = {}
    calls: dict[str, str] = {}
    # All kills in vain would prove nothing: the more of them, the longer the sleep.
    longest = 3.0 + 0.5 * KILLS
    for number in range(SLEEPERS):
        plans[str(number)] = naps = [round(chance.uniform(1, longest), 3) for _ in range(3)]
        alarm = round(chance.uniform(1, longest), 3)
        answer = client.post(
            f"/Sleeper/{number}/run", {"naps": naps, "alarm": alarm}, Prefer="respond-async"
        )
        assert answer.status == 202, answer.body
        calls[str(number)] = answer.headers["Location"]
    client.close()
    began = time.monotonic()
    hits = kill_often(
        server,
        chance,
        KILLS,
        # Each line of the diary is some progress, and so is a little time.
        lambda: len(lines(diary)) * 4 + int((time.monotonic() - began) * 30),
    )
    assert hits == KILLS
    server.wait_ready()
    for number, location in calls.items():
        result = wait_until(lambda at=location: result_of(server, at), f"{number} is done")
        assert result["naps"] == ["nap-0", "nap-1", "nap-2"]
        assert result["runs"] == 1
    check(server, plans, diary)
    # And again from disk alone.
    server.kill()
    server.start()
    check(server, plans, diary)
    assert server.stop() == 0
    assert '"level": "error"' not in server.text()


def lines(diary: Path) -> list[dict[str, str]]:
    try:
        written = diary.read_bytes()
    except FileNotFoundError:
        return []
    # The last one may be half written at this moment.
    return [json.loads(line) for line in written[: written.rfind(b"\n") + 1].splitlines()]


def result_of(server: Server, location: str) -> Any:
    """The result of a call once it is there; it fails on a call that did."""
    client = server.client()
    answer = client.get(location)
    client.close()
    assert answer.status in (200, 202), answer.body
    return answer.json if answer.status == 200 else None


def check(server: Server, plans: dict[str, list[float]], diary: Path) -> None:
    written = lines(diary)
    tokens = {(line["step"], line["token"]) for line in written}
    asked: set[str] = set()
    for number, naps in plans.items():
        told = server.read(f"/Sleeper/{number}/told")
        assert told["runs"] == 1
        names = Counter(name for name, _, _ in told["woken"])
        expected = [f"nap-{n}" for n in range(len(naps))]
        outside = [f"{name} outside" for name in expected]
        assert names == Counter([*expected, *outside, "alarm", "never"])
        for name, due, woke in told["woken"]:
            assert woke >= due, f"{name} of {number} woke {due - woke} s early"
        # One result for each step, and it is one that was really brought about.
        ids = [step for step, _, _ in told["noted"]]
        assert len(set(ids)) == len(ids) == 2 * len(naps) + 1
        assert {(step, token) for step, _, token in told["noted"]} <= tokens
        asked.update(ids)
    # Whatever was tried again went by the same id.
    assert {line["step"] for line in written} == asked
    print(f"{len(written) - len(asked)} of {len(asked)} steps were tried again")
