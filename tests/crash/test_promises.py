"""Promises resolved while their server is killed: what was answered 204 stays, and counts once."""

from __future__ import annotations

import threading
import time
from http.client import HTTPException
from typing import Any

import pytest

from tests.crash.conftest import Server, wait_until
from tests.crash.kills import kill_often, kills, seeded

KILLS = kills(5)
RESOLVERS = 4

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180 + 6 * KILLS)]


class Resolver(threading.Thread):
    """Opens promises at a desk and resolves each until the server has decided."""

    def __init__(self, server: Server, number: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.desk = f"Desk/{number}"
        self.over = over
        self.sent: dict[str, list[tuple[int, int | None]]] = {}
        """By token: (value, status) of each attempt; None where no answer came."""
        self.values = 0

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self._one()
            except (OSError, HTTPException):
                time.sleep(0.05)

    def _one(self) -> None:
        client = self.server.client()
        try:
            client.post(f"/{self.desk}/open", Prefer="respond-async")
            for token in client.get(f"/{self.desk}/opened").json:
                decided = any(status in (204, 409) for _, status in self.sent.get(token, []))
                if not decided:
                    self._resolve(client, token)
        finally:
            client.close()

    def _resolve(self, client: Any, token: str) -> None:
        self.values += 1
        attempts = self.sent.setdefault(token, [])
        attempts.append((self.values, None))
        status = client.post(f"/_perdure/promises/{token}", self.values).status
        attempts[-1] = (self.values, status)


def test_what_is_resolved_stays_so_and_once(serve: Any) -> None:
    chance = seeded("promises")
    server = serve("promises.py", "--hibernate-after", "0.3", "--checkpoint-bytes", "20000")
    server.start()
    over = threading.Event()
    resolvers = [Resolver(server, number, over) for number in range(RESOLVERS)]
    for resolver in resolvers:
        resolver.start()
    hits = kill_often(server, chance, KILLS, lambda: sum(len(one.sent) for one in resolvers))
    assert hits == KILLS
    over.set()
    for resolver in resolvers:
        resolver.join(60)
    server.wait_ready()
    judge(server, resolvers)
    # And again from disk alone.
    server.kill()
    server.start()
    judge(server, resolvers)
    ticks = server.read("/Clock/main/count")
    assert ticks > 0
    wait_until(lambda: server.read("/Clock/main/count") > ticks, "the clock goes on by itself")
    assert server.stop() == 0


def judge(server: Server, resolvers: list[Resolver]) -> None:
    resolved = 0
    for resolver in resolvers:
        came = server.read(f"/{resolver.desk}/came")
        for token, attempts in resolver.sent.items():
            accepted = [value for value, status in attempts if status == 204]
            assert len(accepted) <= 1
            found = came.get(token, [])
            assert len(found) <= 1
            if accepted:
                assert found == accepted
                resolved += 1
            if any(status == 409 for _, status in attempts):
                # An attempt without an answer was the one that counted.
                unheard = [value for value, status in attempts if status is None]
                assert found
                assert found[0] in unheard + accepted
        open_ = {row["token"] for row in server.read(f"/_perdure/promises?object={resolver.desk}")}
        assert open_.isdisjoint(came)
        assert open_ | came.keys() == set(server.read(f"/{resolver.desk}/opened"))
    assert resolved
