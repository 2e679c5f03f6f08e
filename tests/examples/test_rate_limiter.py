"""examples/rate_limiter.py on a real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.examples.conftest import Server


def test_an_empty_bucket_says_when_to_come_back(serve: Callable[[str], Server]) -> None:
    server = serve("rate_limiter.py")
    server.call("RateLimiter/ada", "configure", rate=0.1, burst=3)
    for _ in range(3):
        assert server.call("RateLimiter/ada", "take")["allowed"]
    server.kill()
    server.start()
    verdict = server.call("RateLimiter/ada", "take")
    assert not verdict["allowed"]
    assert 0 < verdict["retry_after"] <= 10
    assert server.read("RateLimiter/ada", "level") < 1


def test_a_bucket_fills_with_time_even_while_nothing_runs(
    serve: Callable[[str], Server],
) -> None:
    server = serve("rate_limiter.py")
    server.call("RateLimiter/ada", "configure", rate=4, burst=2)
    server.call("RateLimiter/ada", "take", tokens=2)
    server.kill()
    time.sleep(0.6)
    server.start()
    assert server.read("RateLimiter/ada", "level") == pytest.approx(2)
    assert server.call("RateLimiter/ada", "take", tokens=2)["allowed"]


def test_those_who_wait_are_served_one_after_the_other(serve: Callable[[str], Server]) -> None:
    server = serve("rate_limiter.py")
    server.call("RateLimiter/ada", "configure", rate=20, burst=2)
    # Before the bucket is empty: from then on it fills.
    began = time.monotonic()
    server.call("RateLimiter/ada", "take", tokens=2)
    with ThreadPoolExecutor(4) as pool:
        waits = list(
            pool.map(lambda _: server.call("RateLimiter/ada", "wait_for", tokens=2), range(4))
        )
    # Eight tokens at 20 a second, whoever gets them first.
    assert time.monotonic() - began >= 0.39
    assert max(waits) <= 30
    assert server.problem("RateLimiter/ada", "wait_for", tokens=3)["error"] == "ValueError"
