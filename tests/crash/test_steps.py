"""Steps against a world that keeps book, while the processes are killed.

Each keyed effect is had once, a step that must not be repeated is asked for once, and the answers
are those of a run that nobody disturbed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.crash.conftest import Server, wait_until
from tests.crash.kills import kill_often, kills, seeded

KILLS = kills(8)
ORDERS = 12 + 4 * KILLS
WHATS = ("stock", "charge", "launch", "mail-0", "mail-1", "mail-2")

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240 + 10 * KILLS)]


class Ledger:
    """The process outside."""

    def __init__(self, seed: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("bookkeeper.py")), str(seed)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def book(self) -> dict[str, dict[str, list[str]]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/book")
        found: dict[str, dict[str, list[str]]] = json.loads(connection.getresponse().read())
        connection.close()
        return found


@pytest.fixture
def ledger() -> Iterator[Any]:
    begun: list[Ledger] = []

    def begin(seed: int) -> Ledger:
        begun.append(Ledger(seed))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.wait()


def test_effects_are_had_once_and_answers_are_those_of_a_run_in_peace(
    serve: Any, ledger: Any
) -> None:
    chance = seeded("orders")
    outside = ledger(chance.randrange(10**6))
    options = ("--checkpoint-bytes", "100000", "--hibernate-after", "0.3")
    server = serve("orders.py", *options, LEDGER=f"http://127.0.0.1:{outside.port}")
    server.start()
    in_peace = server.call("/Order/peace/run", {"cents": 100})
    assert in_peace["launched"] == "launch"
    calls = {}
    for number in range(ORDERS):
        client = server.client()
        answer = client.post(f"/Order/{number}/run", {"cents": 100}, Prefer="respond-async")
        client.close()
        assert answer.status == 202, answer.body
        calls[str(number)] = answer.headers["Location"]

    def progress() -> int:
        return sum(map(len, outside.book()["requests"].values()))

    def over() -> bool:
        book = outside.book()
        return all(book["effects"].get(f"{order}:mail-{n}") for order in calls for n in range(3))

    hits = kill_often(server, chance, KILLS, progress, over)
    server.wait_ready()
    told: dict[str, str] = {}
    for number, location in calls.items():
        found = wait_until(lambda at=location: result_of(server, at), f"{number} is done")
        told[number] = found["launched"]
        assert found | {"launched": "launch"} == in_peace, number
    book = outside.book()
    repeated = sum(len(keys) > 1 for keys in book["requests"].values())
    unknown = sum(launched == "unknown" for launched in told.values())
    print(f"{hits} kills, {repeated} effects asked for again, {unknown} launches unknown")
    for order in calls:
        for what in WHATS:
            keys = book["requests"].get(f"{order}:{what}", [])
            had = book["effects"].get(f"{order}:{what}", [])
            if what == "launch":
                # At most once; and the object says that it happened only where it has.
                assert len(keys) <= 1
                assert keys or told[order] == "unknown"
                continue
            assert len(set(keys)) == 1, (order, what)
            assert had == keys[:1], (order, what)
    assert server.stop() == 0
    assert '"level": "error"' not in server.text()


def result_of(server: Server, location: str) -> Any:
    client = server.client()
    try:
        answer = client.get(location)
    except OSError:
        return None
    finally:
        client.close()
    assert answer.status in (200, 202, 503), answer.body
    return answer.json if answer.status == 200 else None
