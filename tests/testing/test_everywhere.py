"""Sweeps: what they find, what they say, and that they are complete."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import perdure
from perdure import Object, query, step, step_id
from perdure.testing import World

EFFECTS: dict[str, int] = {}


@step
async def careless(cents: int) -> None:
    """Takes the money at each attempt."""
    EFFECTS[f"{step_id()} {len(EFFECTS)}"] = cents


@step
async def careful(cents: int) -> None:
    EFFECTS[step_id()] = cents


class Payer(Object):
    paid: int = 0

    async def pay(self, cents: int, *, carefully: bool) -> int:
        await (careful if carefully else careless)(cents)
        self.paid += cents
        await asyncio.sleep(3600)
        return self.paid

    @query
    async def read(self) -> int:
        return self.paid


def scenario(*, carefully: bool) -> Any:
    async def run(world: World) -> tuple[int, int]:
        EFFECTS.clear()
        paid = await world.at(Payer, "a").pay(5, carefully=carefully)
        await world.hibernate()
        return paid + await Payer.at("a").read(), sum(EFFECTS.values())

    return run


async def test_what_is_done_by_key_passes(world: World) -> None:
    sweep = await world.crash_everywhere(scenario(carefully=True))
    assert sweep.result == (10, 5)
    assert sweep.runs == 2 * len(sweep.operations)
    assert {"commit", "load", "checkpoint", "open", "claim"} <= set(sweep.operations)


async def test_what_is_done_twice_is_found(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError) as found:
        await world.crash_everywhere(scenario(carefully=False))
    text = str(found.value)
    assert "(commit), seed 0: it came to\n  (10, 10)\nand in peace to\n  (10, 5)" in text
    assert "To run this one alone: await world.crash_before(" in text
    assert "crash_everywhere: failed with a crash before operation" in capsys.readouterr().out


async def test_results_may_differ_and_be_checked(world: World) -> None:
    seen: list[tuple[int, int]] = []
    sweep = await world.crash_everywhere(
        scenario(carefully=False), same=False, check=seen.append, only={"commit"}
    )
    assert len(seen) == 1 + sweep.runs == 1 + 2 * sweep.operations.count("commit")
    assert {paid for paid, _ in seen} == {10}
    assert (10, 10) in seen
    with pytest.raises(AssertionError, match="the check says no"):
        await world.crash_everywhere(scenario(carefully=True), check=refuse)
    with pytest.raises(ValueError, match="the store has no operation 'write'"):
        await world.crash_everywhere(scenario(carefully=True), only={"write"})


def refuse(result: Any) -> None:
    raise AssertionError("the check says no")


async def test_a_scenario_that_is_not_the_same_each_time_is_told(world: World) -> None:
    runs = 0

    async def fickle(world: World) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await perdure.send(world.at(Payer, "a").pay, 1, carefully=True)
        await world.at(Payer, "a").read()

    with pytest.raises(AssertionError, match="does not do the same each time it is run"):
        await world.crash_everywhere(fickle)


async def test_the_world_around_stands_still(world: World) -> None:
    payer = world.at(Payer, "a")
    waiting = asyncio.create_task(payer.pay(7, carefully=True))
    await world.settle()
    before = world.now
    await world.crash_everywhere(scenario(carefully=True))
    assert world.now == before
    assert not waiting.done()
    assert await payer.read() == 7
    assert await waiting == 7


async def test_each_operation_can_be_hit_with_each_object_rebuilt() -> None:
    async def main() -> int:
        async with World(Payer, replay=True) as world:
            return (await world.crash_everywhere(scenario(carefully=True))).runs

    from perdure.testing import run

    assert await asyncio.to_thread(run, main()) > 20
