"""What the turn slot costs: `begin` and `end` around an empty turn, in nanoseconds.

    python -m benchmarks.turn_slot

They run in each turn of each object, so the goal is 400 ns for both together.
"""

from __future__ import annotations

import timeit
from collections.abc import Iterator

from benchmarks.report import Beside, Figure, Goal, median
from perdure.supervisor.slot import TurnSlot

ROUNDS = 200_000
GOAL_NS = 400


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Both together, beside a call of an empty function."""
    found = [costs_ns() for _ in range(rounds)]
    cost, nothing = (median(one[n] for one in found) for n in (0, 1))
    yield Figure(
        "turn slot: begin and end",
        f"{cost:.0f} ns",
        cost / 1000,
        [Beside("a call of an empty function", f"{nothing:.0f} ns", cost / nothing)],
        [Goal(f"≤ {GOAL_NS} ns", cost <= GOAL_NS)],
    )


def costs_ns() -> tuple[float, float]:
    """Of the slot for a turn, and of an empty function."""
    slot = TurnSlot.create()
    address, event = "Counter/lobby", b'increment {"by": 2}'

    def turn() -> None:
        slot.begin(address, event)
        slot.end()

    def nothing() -> None:
        pass

    # The best of several rounds: what others do on the machine only adds to it.
    costs = [min(timeit.repeat(what, number=ROUNDS, repeat=9)) for what in (turn, nothing)]
    slot.close()
    return (costs[0] - costs[1]) / ROUNDS * 1e9, costs[1] / ROUNDS * 1e9


def main() -> None:
    print(f"begin + end: {costs_ns()[0]:.0f} ns (goal: {GOAL_NS})")


if __name__ == "__main__":
    main()
