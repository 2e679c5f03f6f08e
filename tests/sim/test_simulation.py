"""Hundreds of short runs of a random world; `PERDURE_SIM_SEED=7` repeats one."""

from __future__ import annotations

import os

import pytest

from perdure.testing.virtual import run_virtual
from tests.sim.options import Options
from tests.sim.repeat import repeatable
from tests.sim.simulation import Simulation

RUNS = 200
LONG_RUNS = 5000
GROUPS = 10


def run(seed: int) -> None:
    options = Options.of(seed)
    print(f"PERDURE_SIM_SEED={seed}  {options}")

    async def main() -> None:
        simulation = Simulation(options)
        try:
            await simulation.run()
        except BaseException:
            print("\n".join(simulation.log))
            raise

    with repeatable(options):
        run_virtual(main())


def seeds(count: int) -> list[list[int]]:
    given = os.environ.get("PERDURE_SIM_SEED")
    if given is not None:
        return [[int(given)]]
    return [list(range(group, count, GROUPS)) for group in range(GROUPS)]


@pytest.mark.parametrize("group", seeds(RUNS), ids=lambda group: f"from-{group[0]}")
def test_promises_hold_whatever_happens(group: list[int]) -> None:
    for seed in group:
        run(seed)


@pytest.mark.soak
@pytest.mark.parametrize("group", seeds(LONG_RUNS), ids=lambda group: f"from-{group[0]}")
def test_promises_hold_for_long(group: list[int]) -> None:
    for seed in group:
        run(1_000_000 + seed if len(group) > 1 else seed)
