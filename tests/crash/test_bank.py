"""Money between accounts while the processes are killed: to the cent, and each transfer once."""

from __future__ import annotations

import random
import threading
from http.client import HTTPException
from typing import Any, NamedTuple

import pytest

from tests.crash.conftest import Client, Server, wait_until
from tests.crash.kills import kill_often, kills, seeded

KILLS = kills(12)

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180 + 6 * KILLS)]

ACCOUNTS = [f"account-{number}" for number in range(50)]
OPENED_WITH = 10_000
CLIENTS = 8


class Transfer(NamedTuple):
    id: str
    source: str
    target: str
    cents: int


class Teller(threading.Thread):
    """Sends one transfer after the other, and each until it is answered, mostly."""

    def __init__(self, server: Server, name: str, seed: float, closing: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._client: Client = server.client()
        self._chance = random.Random(seed)
        self._closing = closing
        self.answered: dict[Transfer, bool] = {}
        self.unknown: list[Transfer] = []
        self.retried = self.replayed = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self._closing.is_set() and not self.wrong:
            source, target = self._chance.sample(ACCOUNTS, 2)
            id_ = f"{self.name}-{len(self.answered) + len(self.unknown)}"
            self._send(Transfer(id_, source, target, self._chance.randint(1, 5000)))
        self._client.close()

    def _send(self, transfer: Transfer) -> None:
        # Some turn away at the first trouble, and never learn what became of it.
        patient = self._chance.random() < 0.9
        path = f"/Account/{transfer.source}/transfer"
        arguments = {"id": transfer.id, "to": transfer.target, "cents": transfer.cents}
        while True:
            try:
                answer = self._client.post(path, arguments, Idempotency_Key=transfer.id)
            except (OSError, HTTPException):
                answer = None
            if answer is not None and answer.status == 200:
                self.answered[transfer] = answer.json
                self.replayed += "Idempotent-Replayed" in answer.headers
                return
            if answer is not None and answer.status not in (503, 504):
                self.wrong.append(f"{transfer}: {answer.status} {answer.body!r}")
                return
            if not patient:
                self.unknown.append(transfer)
                return
            self.retried += 1
            self._closing.wait(0.02)


def test_every_transfer_happens_once_on_both_sides_or_not_at_all(serve: Any) -> None:
    chance = seeded("bank")
    # Checkpoints, and objects that leave memory, in the middle of it.
    options = ("--checkpoint-bytes", "200000", "--hibernate-after", "0.5")
    server = serve("bank.py", *options)
    server.start()
    for account in ACCOUNTS:
        server.call(f"/Account/{account}/open", {"cents": OPENED_WITH})
    closing = threading.Event()
    tellers = [
        Teller(server, f"teller-{number}", chance.random(), closing) for number in range(CLIENTS)
    ]
    for teller in tellers:
        teller.start()
    try:
        kill_often(
            server,
            chance,
            KILLS,
            lambda: sum(len(teller.answered) for teller in tellers),
            lambda: any(teller.wrong for teller in tellers),
        )
        server.wait_ready()
    finally:
        closing.set()
    for teller in tellers:
        teller.join(120)
        assert not teller.is_alive(), server.text()
        assert not teller.wrong, server.text()
    answered = {transfer: done for teller in tellers for transfer, done in teller.answered.items()}
    unknown = [transfer for teller in tellers for transfer in teller.unknown]
    print(
        f"{len(answered)} answered, {len(unknown)} given up, "
        f"{sum(teller.retried for teller in tellers)} retries, "
        f"{sum(teller.replayed for teller in tellers)} answers from memory"
    )
    assert sum(teller.retried for teller in tellers)
    wait_until(lambda: is_calm(server), "all money has arrived")
    check(server, answered, unknown)
    # And again from disk alone.
    server.kill()
    server.start()
    check(server, answered, unknown)
    assert server.stop() == 0
    assert '"level": "error"' not in server.text()


def statements(server: Server) -> dict[str, tuple[int, int, dict[str, int]]]:
    client = server.client()
    found = {name: client.get(f"/Account/{name}/statement").json for name in ACCOUNTS}
    client.close()
    return found


def is_calm(server: Server) -> bool:
    """Nothing is on its way any more."""
    return sum(balance for balance, _, _ in statements(server).values()) == (
        OPENED_WITH * len(ACCOUNTS)
    )


def check(server: Server, answered: dict[Transfer, bool], unknown: list[Transfer]) -> None:
    found = statements(server)
    assert is_calm(server)
    for balance, opened_with, ledger in found.values():
        assert opened_with == OPENED_WITH
        assert balance == opened_with + sum(ledger.values())
        assert balance >= 0
    ledgers = {name: ledger for name, (_, _, ledger) in found.items()}
    expected: dict[str, dict[str, int]] = {name: {} for name in ACCOUNTS}
    for transfer, done in answered.items():
        if done:
            expected[transfer.source][transfer.id] = -transfer.cents
            expected[transfer.target][transfer.id] = transfer.cents
    for transfer in unknown:
        # As a whole: on both sides, or on none.
        if transfer.id in ledgers[transfer.source]:
            expected[transfer.source][transfer.id] = -transfer.cents
            expected[transfer.target][transfer.id] = transfer.cents
    assert ledgers == expected
