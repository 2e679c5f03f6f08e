"""A scenario with everything in it, cut before and after each single operation of the store."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable

import pytest

from perdure.errors import OperatorError, StoreFull, StoreUnavailable
from perdure.testing.virtual import run_virtual
from tests.sim.deeds import Deed
from tests.sim.options import Options
from tests.sim.repeat import repeatable
from tests.sim.simulation import Simulation

OPTIONS = Options(
    seed=0,
    objects=2,
    seconds=60.0,
    crashes=0,
    stops=0,
    full=0,
    unavailable=0,
    holds=0,
    slowest_s=0,
    hibernations=0,
    reads_fail=0,
    jumps=0,
    checkpoint_seconds=1000.0,
    checkpoint_bytes=10_000_000,
    hibernate_after=1000.0,
    cache_turns=1,
    base_turns=2,
    circles=False,
)


def deed(address: str, handler: str, *args: object, tokens: list[tuple[str, int]]) -> Deed:
    return Deed(address, handler, args, tokens)


FIRST = [
    deed("Shelf/0", "put", 1, tokens=[("Shelf/0", 1)]),
    deed("Shelf/0", "mark", 2, 77, tokens=[("Shelf/0", 2)]),
    deed("Shelf/0", "later", 3, 5.0, tokens=[("Shelf/0", 3)]),
    deed(
        "Shelf/0",
        "pass_on",
        [4, 5, 6],
        ["Vault/0", "Shelf/1"],
        tokens=[("Shelf/0", 4), ("Vault/0", 5), ("Shelf/1", 6)],
    ),
    deed("Shelf/1", "burst", [7, 8], "Brief/0", tokens=[("Brief/0", 7), ("Brief/0", 8)]),
    deed("Vault/0", "work", 9, 0.1, 1, tokens=[("Vault/0", 9)]),
    Deed("Shelf/1", "undo", (10, "Vault/0"), never=[("Shelf/1", 10), ("Vault/0", 10)]),
    deed("Vault/1", "background", 11, 2.0, tokens=[("Vault/1", 11)]),
]
SECOND = [
    deed("Shelf/0", "mark", 12, 1, tokens=[("Shelf/0", 12)]),
    deed("Slow/3", "put", 13, tokens=[("Slow/3", 13)]),
    deed("Shelf/1", "nap_twice", 14, 3.0, tokens=[("Shelf/1", 14)]),
    deed("Shelf/1", "delete_other", 15, "Leaf/0", tokens=[("Shelf/1", 15)]),
    deed("Vault/1", "give_up", [16, 17], "Vault/0", 0.5, tokens=[("Vault/1", 16), ("Vault/0", 17)]),
    deed(
        "Brief/0",
        "call_off",
        [18, 19],
        "Shelf/1",
        0.5,
        tokens=[("Brief/0", 18), ("Shelf/1", 19)],
    ),
    deed("Shelf/1", "stream", [33, 34, 35], 0.1, tokens=[("Shelf/1", n) for n in (33, 34, 35)]),
    deed("Vault/0", "once", 36, 0.2, tokens=[("Vault/0", 36)]),
]


class Sweep(Simulation):
    """One run of the scenario; `operations` counts those of the scenario alone."""

    operations = 0

    async def scenario(self) -> None:
        rng = random.Random(0)
        naps = Deed("Brief/0", "nap", (20, 8.0), [("Brief/0", 20)])
        self.deeds.append(naps)
        sleeper = asyncio.create_task(self.insist(naps, "nap", rng))
        await self._do(FIRST, rng)
        await self._checkpoint()
        await self._do(SECOND[:2], rng)
        await self.up.wait()
        self.let_all_go()
        await self._do(SECOND[2:], rng)
        await self._checkpoint()
        await self._checkpoint()
        await sleeper
        self.operations = len(self.disk.operations)

    async def _do(self, deeds: list[Deed], rng: random.Random) -> None:
        for one in deeds:
            mine = dataclasses.replace(one, told="open")
            self.deeds.append(mine)
            await self.insist(mine, f"{one.args}", rng)

    async def _checkpoint(self) -> None:
        """Made by the host, if it lives and its disk lets it."""
        await self.up.wait()
        checkpoint = asyncio.create_task(self.host.checkpointer.run())
        down = asyncio.create_task(self.fallen.wait())
        await asyncio.wait({checkpoint, down}, return_when=asyncio.FIRST_COMPLETED)
        down.cancel()
        if not checkpoint.done():
            checkpoint.cancel()
            await asyncio.gather(checkpoint, return_exceptions=True)
        elif not isinstance(checkpoint.exception(), OperatorError):
            checkpoint.result()


def play(order: Callable[[Simulation], None]) -> int:
    """Run the scenario with an accident; gives the number of operations."""

    async def main() -> int:
        sweep = Sweep(OPTIONS)
        order(sweep)
        try:
            await sweep.run(sweep.scenario())
        except BaseException:
            print("\n".join(sweep.log))
            raise
        return sweep.operations

    with repeatable(OPTIONS):
        return run_virtual(main())


@pytest.fixture(scope="module")
def operations() -> int:
    return play(lambda sweep: None)


ACCIDENTS: dict[str, Callable[[Simulation, int], None]] = {
    "crash before": lambda sweep, n: sweep.disk.crash(n),
    "crash after": lambda sweep, n: sweep.disk.crash(n, after=True),
    "cut before": lambda sweep, n: sweep.disk.fail(n, StoreUnavailable("cut")),
    "cut after": lambda sweep, n: sweep.disk.fail(n, StoreUnavailable("cut"), after=True),
    "full": lambda sweep, n: sweep.disk.fail(n, StoreFull("full")),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_everything_survives_an_accident_at_each_operation(accident: str, operations: int) -> None:
    assert operations > 50
    for number in range(1, operations + 1):
        print(f"{accident} operation {number}")
        play(lambda sweep, number=number: ACCIDENTS[accident](sweep, number))  # type: ignore[misc]


def test_the_scenario_does_not_depend_on_the_run(operations: int) -> None:
    assert play(lambda sweep: None) == operations
