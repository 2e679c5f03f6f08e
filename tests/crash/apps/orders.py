"""Orders that deal with the world outside in every way there is."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx

from perdure import Limit, Object, OutcomeUnknown, Retry, heartbeat, http, step, step_id, step_items

LEDGER = os.environ["LEDGER"]
RETRY = Retry(attempts=1000, initial=0.01, max_delay=0.1)


@step(retry=RETRY, limit=Limit(concurrency=8), heartbeat_timeout=30)
def charge(order: str, cents: int) -> dict[str, Any]:
    """A plain function, with a client of its own."""
    heartbeat("connecting")
    connection = HTTPConnection(urlsplit(LEDGER).netloc, timeout=10)
    body = json.dumps({"cents": cents})
    try:
        connection.request("POST", f"/effect/{order}:charge", body, {"Idempotency-Key": step_id()})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ConnectionError(str(answer.status))
        return json.loads(answer.read())
    finally:
        connection.close()


@step(repeat=False)
async def launch(order: str) -> str:
    answer = await http.post(f"{LEDGER}/effect/{order}:launch", json={"cents": 1, "sure": True})
    return answer.raise_for_status().json()["what"]


@step
def count(upto: int) -> Iterator[int]:
    yield from range(len(step_items()), upto)


class Order(Object):
    """`run` gives the same whatever happens meanwhile, but for what was launched."""

    def __init__(self) -> None:
        self.launched = ""
        self.parts: list[str] = []
        self.numbers: list[int] = []

    async def run(self, cents: int) -> dict[str, Any]:
        stock = await self._effect("stock", cents)
        paid = await charge(self.key, cents)
        try:
            self.launched = await launch(self.key)
        except (OutcomeUnknown, httpx.TransportError):
            # The process died, or the line to the world: nobody knows, and it is not tried again.
            self.launched = "unknown"
        async for event in http.events("GET", f"{LEDGER}/events/{self.key}", retry=RETRY):
            self.parts.append(event.data)
        page = await http.get(f"{LEDGER}/page/{self.key}", retry=RETRY)
        async for number in count(20):
            self.numbers.append(number)
        mails = await asyncio.gather(*(self._effect(f"mail-{n}", n) for n in range(3)))
        return {
            "stock": stock,
            "paid": paid,
            "parts": self.parts,
            "page": len(page.json()["page"]),
            "numbers": self.numbers,
            "mails": mails,
            "launched": self.launched,
        }

    async def _effect(self, what: str, cents: int) -> Any:
        url = f"{LEDGER}/effect/{self.key}:{what}"
        return (await http.post(url, json={"cents": cents}, retry=RETRY)).raise_for_status().json()
