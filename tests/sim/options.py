"""What may happen in a run, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What may happen in a run. Each run turns some of it off entirely and skews the rest."""

    seed: int
    clients: int = 6
    calls: int = 12
    objects: int = 4
    seconds: float = 40.0
    crashes: float = 1.0
    stops: float = 0.3
    full: float = 0.5
    unavailable: float = 0.5
    holds: float = 1.0
    slowest_s: float = 0.01
    hibernations: float = 1.0
    reads_fail: float = 0.3
    deletes: bool = True
    sets: bool = True
    circles: bool = True
    checkpoint_seconds: float = 5.0
    checkpoint_bytes: int = 4000
    hibernate_after: float = 8.0
    cache_turns: int = 200
    base_turns: int = 5000
    history: str = "all"
    max_live: int = 0
    jumps: float = 0.0

    @classmethod
    def of(cls, seed: int) -> Options:
        rng = random.Random(seed)

        def some(most: float) -> float:
            return 0.0 if rng.random() < 0.4 else rng.random() * most

        return cls(
            seed,
            clients=rng.choice([1, 3, 8]),
            calls=rng.choice([5, 12, 20]),
            objects=rng.choice([1, 2, 4, 8]),
            seconds=rng.choice([10.0, 30.0, 80.0]),
            crashes=some(3),
            stops=some(1),
            full=some(1.5),
            unavailable=some(1.5),
            holds=some(2),
            slowest_s=some(0.05),
            hibernations=some(3),
            reads_fail=some(1),
            deletes=rng.random() < 0.7,
            sets=rng.random() < 0.7,
            circles=rng.random() < 0.5,
            checkpoint_seconds=rng.choice([1.0, 5.0, 1000.0]),
            checkpoint_bytes=rng.choice([500, 4000, 10_000_000]),
            hibernate_after=rng.choice([0.5, 8.0, 1000.0]),
            cache_turns=rng.choice([1, 3, 200]),
            base_turns=rng.choice([2, 10, 5000]),
            history=rng.choice(["all", "all", "none"]),
            max_live=rng.choice([0, 0, 2]),
            jumps=some(1),
        )
