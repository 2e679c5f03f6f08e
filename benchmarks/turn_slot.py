"""What the turn slot costs: `begin` and `end` around an empty turn, in nanoseconds.

    python -m benchmarks.turn_slot

They run in each turn of each object, so the goal is 400 ns for both together.
"""

from __future__ import annotations

import timeit

from perdure.supervisor.slot import TurnSlot

ROUNDS = 200_000
GOAL_NS = 400


def main() -> None:
    slot = TurnSlot.create()
    address, event = "Counter/lobby", b'increment {"by": 2}'

    def turn() -> None:
        slot.begin(address, event)
        slot.end()

    def nothing() -> None:
        pass

    # The best of several rounds: what others do on the machine only adds to it.
    costs = [min(timeit.repeat(what, number=ROUNDS, repeat=9)) for what in (turn, nothing)]
    cost_ns = (costs[0] - costs[1]) / ROUNDS * 1e9
    print(f"begin + end: {cost_ns:.0f} ns (goal: {GOAL_NS})")
    slot.close()


if __name__ == "__main__":
    main()
