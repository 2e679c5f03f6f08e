"""Kills at random moments: how many, which, and with what seed."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

# The supervisor gives up after five workers in a row that died right after their start, as it
# should: so a new life of the supervisor comes before that.
WORKERS_MOST = 3


def kills(least: int) -> int:
    """How often to kill: PERDURE_KILLS, or a number for every day."""
    return int(os.environ.get("PERDURE_KILLS", least))


def seeded(name: str) -> random.Random:
    """Chance that can be had again: the seed is printed, and PERDURE_SEED sets it."""
    seed = os.environ.get("PERDURE_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"{name}: PERDURE_SEED={seed}")
    return random.Random(seed)


def kill_often(
    server: Any,
    chance: random.Random,
    count: int,
    progress: Callable[[], int],
    over: Callable[[], bool] = lambda: False,
) -> int:
    """Kill `count` times: mostly when some more was done, else wherever it is in its start.

    Every fourth time or so the whole process group dies. Gives how many kills hit.
    """
    hits = workers = 0
    while hits < count and not over():
        if chance.random() < 0.75:
            _await_progress(progress, progress() + chance.randint(1, 60), over)
            time.sleep(chance.uniform(0, 0.02))
        else:
            time.sleep(chance.uniform(0, 0.8))
        if workers < WORKERS_MOST and chance.random() < 0.75:
            if server.kill_worker():
                workers += 1
                hits += 1
        else:
            server.kill()
            server.spawn()
            workers = 0
            hits += 1
    return hits


def _await_progress(progress: Callable[[], int], goal: int, over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while progress() < goal and not over():
        assert time.monotonic() < deadline, f"nothing was done any more: {progress()}, not {goal}"
        pause.wait(0.01)
