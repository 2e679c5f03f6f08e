"""A monitor that looks at a web address for ever, and tells when it goes down and comes back.

    perdure dev examples/monitor.py

    curl -d '{"url": "https://example.org", "every": 60}' http://127.0.0.1:7373/Monitor/home/watch
    curl http://127.0.0.1:7373/Monitor/home/report
    curl -X POST http://127.0.0.1:7373/Monitor/home/stop

A loop that never ends is fine: its object sleeps on disk between two looks, and its journal is cut
short behind a snapshot of the loop itself.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from perdure import Object, Retry, http, query, step


@step(retry=Retry(attempts=10))
async def tell(text: str) -> None:
    """Send a message to whoever is on duty."""
    print(text)  # your mail, pager or chat here, with step_id() as idempotency key


@dataclass(frozen=True)
class Report:
    """How it is, since when, and how often it was looked at."""

    up: bool
    since: datetime
    looks: int
    outages: int


class Monitor(Object):
    """Watches one address."""

    up: bool = True
    looks: int = 0
    outages: int = 0
    _since: datetime
    _watching: asyncio.Task[None] | None = None

    def __init__(self) -> None:
        self._since = datetime.now(UTC)

    async def watch(self, url: str, every: float = 60.0, patience: int = 3) -> None:
        """Look every so many seconds; it is down after `patience` bad looks in a row."""
        await self.stop()
        self._watching = asyncio.create_task(self._watch(url, every, patience))

    async def stop(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self, url: str, every: float, patience: int) -> None:
        bad = 0
        while True:
            try:
                answer = await http.get(url, timeout=10)
                bad = bad + 1 if answer.is_server_error else 0
            except httpx.RequestError:
                bad += 1
            self.looks += 1
            if self.up and bad >= patience:
                self.up, self._since, self.outages = False, datetime.now(UTC), self.outages + 1
                await tell(f"{url} is down")
            elif not self.up and not bad:
                self.up, self._since = True, datetime.now(UTC)
                await tell(f"{url} is back")
            await asyncio.sleep(every)

    @query
    async def report(self) -> Report:
        return Report(self.up, self._since, self.looks, self.outages)
