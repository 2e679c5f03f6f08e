"""The examples under load while their processes are killed, against a ledger that outlives them.

Each effect happens once for its key, each answer is what it would have been without a kill, and
nothing is left half done.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.crash.conftest import Client, Server, wait_until
from tests.crash.kills import kill_often, kills, seeded

KILLS = kills(10)

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240 + 6 * KILLS)]

CLIENTS = 6
STOCK = 1_000_000
STATIONS = 10
OPENED_WITH = 1_000_000


class Ledger:
    """The process outside."""

    def __init__(self, seed: int) -> None:
        script = str(Path(__file__).parent / "ledger.py")
        self.process = subprocess.Popen(
            [sys.executable, script, str(seed)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def book(self) -> tuple[dict[str, int], dict[str, list[Any]]]:
        with urllib.request.urlopen(f"{self.url}/book", timeout=20) as answer:
            book = json.load(answer)
        return book["requests"], book["effects"]


@pytest.fixture
def ledger() -> Iterator[Callable[[int], Ledger]]:
    """Start a ledger; ended with the test."""
    made: list[Ledger] = []

    def start(seed: int) -> Ledger:
        made.append(Ledger(seed))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()


class Customer(threading.Thread):
    """Does one thing after the other, and each until it is answered."""

    def __init__(
        self, number: int, server: Server, ledger: Ledger, seed: float, closing: threading.Event
    ) -> None:
        super().__init__(name=f"c{number}", daemon=True)
        self._client: Client = server.client()
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._closing = closing
        self.done: list[tuple[str, str, Any]] = []
        self.wrong: list[str] = []
        self.retried = 0

    def run(self) -> None:
        deeds = [self._order, self._transfer, self._report, self._crawl, self._ask, self._expense]
        self._chance.shuffle(deeds)
        number = 0
        try:
            # Each of them at least once.
            while not self._closing.is_set() or number < len(deeds):
                name = f"{self.name}-{number}"
                deed = deeds[number % len(deeds)]
                number += 1
                self.done.append((deed.__name__.strip("_"), name, deed(name)))
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
        self._client.close()

    def _post(self, path: str, arguments: Any, name: str, **headers: str) -> Any:
        """The answer: a result, or the name of an error."""
        deadline = time.monotonic() + 100
        while True:
            try:
                answer = self._client.post(path, arguments, Idempotency_Key=name, **headers)
            except (OSError, HTTPException):
                answer = None
            if answer is not None and answer.status in (200, 202, 204):
                return answer
            if answer is not None and answer.status == 500:
                return answer.json["error"]
            if answer is not None and answer.status not in (503, 504):
                raise AssertionError(f"{path}: {answer.status} {answer.body!r}")
            assert time.monotonic() < deadline, f"{path} was never answered"
            self.retried += 1
            time.sleep(0.02)

    def _order(self, name: str) -> Any:
        answer = self._post(f"/Order/{name}/place", ["tea", 2, 840], name)
        return answer if isinstance(answer, str) else "sent"

    def _transfer(self, name: str) -> Any:
        source, target = self._chance.sample(range(5), 2)
        arguments = {"source": f"a{source}", "target": f"a{target}", "cents": 10}
        return self._post(f"/Transfer/{name}/run", arguments, name).json

    def _report(self, name: str) -> Any:
        return self._post(f"/Report/{name}/run", [STATIONS], name).json["mean"]

    def _crawl(self, name: str) -> Any:
        arguments = {"start": f"http://{name}.example/", "pages": 3}
        return self._post(f"/Crawl/{name}/run", arguments, name).json

    def _ask(self, name: str) -> Any:
        path, body = f"/Agent/{name}/ask", {"question": "umbrella?"}
        while True:
            answer = self._post(path, body, name)
            words = [json.loads(line) for line in answer.body.splitlines()]
            if words and words[-1] == ".":
                return " ".join(words)
            # It was cut off in the middle; all of it comes again.
            self.retried += 1

    def _expense(self, name: str) -> Any:
        self._post(f"/Expense/{name}/submit", ["chair", 100, name], name, Prefer="respond-async")

        def mail() -> str:
            effects = self._ledger.book()[1].values()
            return next((args[2] for args in effects if args[:2] == ["mail", name]), "")

        token = wait_until(mail, "the boss has mail").rpartition(" ")[2]
        decision = {"yes": True, "by": name}
        while True:
            try:
                answer = self._client.post(f"/_perdure/promises/{token}", decision)
                if answer.status in (204, 409):
                    break
                assert answer.status in (503, 504), answer.body
            except (OSError, HTTPException):
                self.retried += 1
            time.sleep(0.02)
        path = f"/Expense/{name}/status"

        def decided() -> Any:
            try:
                found = self._client.get(path)
            except (OSError, HTTPException):
                return None
            return found.json if found.status == 200 and "waits" not in found.json else None

        return wait_until(decided, "the expense is decided")


def test_effects_happen_once_and_answers_are_as_without_kills(
    serve: Any, ledger: Callable[[int], Ledger]
) -> None:
    chance = seeded("patterns")
    outside = ledger(chance.randrange(10**6))
    server = serve(
        "patterns.py",
        *("--checkpoint-bytes", "200000", "--hibernate-after", "0.5"),
        LEDGER_URL=outside.url,
    )
    server.start()
    server.call("/Stock/tea/supply", {"count": STOCK})
    for number in range(5):
        server.call(f"/Account/a{number}/deposit", {"cents": OPENED_WITH})
    closing = threading.Event()
    customers = [
        Customer(number, server, outside, chance.random(), closing) for number in range(CLIENTS)
    ]
    for customer in customers:
        customer.start()
    try:
        kill_often(
            server,
            chance,
            KILLS,
            lambda: sum(len(customer.done) for customer in customers) * 10,
            lambda: any(customer.wrong for customer in customers),
        )
        server.wait_ready()
    finally:
        closing.set()
    for customer in customers:
        customer.join(150)
        assert not customer.is_alive(), server.text()
        assert not customer.wrong, (customer.wrong, server.text())
    done = [deed for customer in customers for deed in customer.done]
    requests, effects = outside.book()
    print(
        f"{Counter(what for what, _, _ in done)}, {len(effects)} effects in "
        f"{sum(requests.values())} requests, {sum(c.retried for c in customers)} retries"
    )
    check(server, done, effects)
    assert sum(requests.values()) > len(requests)
    server.kill()
    server.start()
    check(server, done, outside.book()[1])
    assert outside.book()[1] == effects
    assert server.stop() == 0
    assert '"level": "error"' not in server.text()


def check(server: Server, done: list[tuple[str, str, Any]], effects: dict[str, list[Any]]) -> None:
    made = Counter((args[0], args[1]) for args in effects.values())
    orders = {name: answer for what, name, answer in done if what == "order"}
    for name, answer in orders.items():
        assert answer == ("Refused" if name.endswith("3") else "sent")
        assert made["charge", name] == 1
        assert made["send_parcel", name] == (answer == "sent")
        assert server.read(f"/Order/{name}/status") == ("sent" if answer == "sent" else "undone")
    refused = sum(answer == "Refused" for answer in orders.values())
    assert sum(n for (what, _), n in made.items() if what == "refund") == refused
    assert server.read("/Stock/tea/count") == STOCK - 2 * (len(orders) - refused)
    balances = [server.read(f"/Account/a{number}/balance") for number in range(5)]
    assert sum(balances) == 5 * OPENED_WITH
    answers = {what: {answer for kind, _, answer in done if kind == what} for what, *_ in done}
    assert answers["transfer"] <= {"done"}
    assert answers.get("report", set()) <= {(STATIONS - 1) / 2}
    reports = sum(what == "report" for what, *_ in done)
    assert sum(n for (what, _), n in made.items() if what == "measure") == reports * STATIONS
    assert answers.get("crawl", set()) <= {3}
    pages = [args[1] for args in effects.values() if args[0] == "fetch"]
    assert len(pages) == len(set(pages))
    for what, name, answer in done:
        if what == "ask":
            assert answer.startswith("Let me see. I heard : weather")
        if what == "expense":
            assert answer == f"approved by {name}"
            assert made["mail", name] == 1
    asked = sum(what == "ask" for what, *_ in done)
    assert sum(n for (what, _), n in made.items() if what == "weather") == asked
    assert sum(n for (what, _), n in made.items() if what == "complete") == 2 * asked
