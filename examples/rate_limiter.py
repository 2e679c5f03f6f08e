"""A rate limiter for each customer: a token bucket that survives restarts.

    perdure dev examples/rate_limiter.py

    curl -d '{"rate": 2, "burst": 5}' http://127.0.0.1:7373/RateLimiter/ada/configure
    curl -X POST http://127.0.0.1:7373/RateLimiter/ada/take
    curl -d '{"tokens": 5}' http://127.0.0.1:7373/RateLimiter/ada/take
    curl http://127.0.0.1:7373/RateLimiter/ada/level
    curl -d '{"tokens": 3}' http://127.0.0.1:7373/RateLimiter/ada/wait_for

`time.time()` is the turn's own time: written down once, and the same again when the journal is
replayed. `reentrant=False` lets those who wait take their turns in the order in which they came.
"""

import asyncio
import time
from dataclasses import dataclass

from perdure import Object, query


@dataclass(frozen=True)
class Verdict:
    """Whether it may go on; if not, in how many seconds to try again."""

    allowed: bool
    left: float
    retry_after: float = 0.0


class RateLimiter(Object, reentrant=False):
    """A bucket that fills with `rate` tokens a second, up to `burst`."""

    rate: float = 1.0
    burst: float = 10.0

    def __init__(self) -> None:
        self._tokens = self.burst
        self._filled_at = time.time()

    async def configure(self, rate: float, burst: float) -> None:
        """Set both; the bucket is full afterwards."""
        if rate <= 0 or burst < 1:
            raise ValueError("rate must be more than 0, and burst at least 1")
        self.rate, self.burst = rate, burst
        self._tokens, self._filled_at = burst, time.time()

    async def take(self, tokens: float = 1.0) -> Verdict:
        """Take tokens if there are enough; never waits."""
        self._fill()
        if tokens <= self._tokens + 1e-9:  # a float may end just below
            self._tokens = max(0.0, self._tokens - tokens)
            return Verdict(True, self._tokens)
        return Verdict(False, self._tokens, (tokens - self._tokens) / self.rate)

    async def wait_for(self, tokens: float = 1.0) -> float:
        """Take tokens, waiting until there are enough; gives the seconds waited."""
        if tokens > self.burst:
            raise ValueError(f"the bucket holds {self.burst} at most")
        began = time.time()
        while not (verdict := await self.take(tokens)).allowed:
            await asyncio.sleep(verdict.retry_after)
        return time.time() - began

    @query
    async def level(self) -> float:
        """How many tokens there are at this moment."""
        return self._level()

    def _level(self) -> float:
        return min(self.burst, self._tokens + (time.time() - self._filled_at) * self.rate)

    def _fill(self) -> None:
        self._tokens, self._filled_at = self._level(), time.time()
