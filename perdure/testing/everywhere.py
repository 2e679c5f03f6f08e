"""A scenario with a crash at each operation of the store: just before it, and just after.

The first run is left in peace: it says which operations there are and what comes out. Each further
run ends the process at one point, and must come to the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from perdure.testing.virtual import run_apart

if TYPE_CHECKING:
    from perdure.testing.world import World

R = TypeVar("R")


@dataclass(frozen=True)
class Sweep(Generic[R]):
    """What `crash_everywhere` has done."""

    operations: tuple[str, ...]
    """The operations of the run in peace, by name."""
    runs: int
    """Runs with a crash in them."""
    result: R
    """What the run in peace returned."""


def crash_everywhere(
    make: Callable[[], World],
    scenario: Callable[[World], Awaitable[R]],
    check: Callable[[R], object] | None,
    *,
    same: bool,
    only: Collection[str],
) -> Sweep[R]:
    """See `World.crash_everywhere`. Each run has a loop of its own, so that they are alike to the
    last bit of the time."""
    result, operations = run_apart(_peace(make(), scenario))
    _check(check, result)
    runs = 0
    for number, name in enumerate(operations, 1):
        if only and name not in only:
            continue
        for after in (False, True):
            runs += 1
            try:
                found = run_apart(_run(make(), scenario, number, after=after))
                _check(check, found)
                if same and found != result:
                    raise AssertionError(f"it came to\n  {found!r}\nand in peace to\n  {result!r}")
            except Exception as error:
                raise AssertionError(
                    _place(number, name, len(operations), make().seed, error, after=after)
                ) from error
    return Sweep(operations, runs, result)


async def _peace(
    world: World, scenario: Callable[[World], Awaitable[R]]
) -> tuple[R, tuple[str, ...]]:
    async with world:
        result = await scenario(world)
        await world.settle()
        return result, tuple(world.operations)


async def _run(
    world: World, scenario: Callable[[World], Awaitable[R]], number: int, *, after: bool
) -> R:
    async with world:
        await (world.crash_after(number) if after else world.crash_before(number))
        result = await scenario(world)
        await world.settle()
        if not world.crashes:
            raise AssertionError(
                f"operation {number} never came in this run: the scenario does not do the same "
                "each time it is run. Let its chance come from world.choice, and keep nothing "
                "between two runs."
            )
        return result


def _check(check: Callable[[R], object] | None, result: R) -> None:
    if check is not None:
        check(result)


def _place(number: int, name: str, total: int, seed: int, error: Exception, *, after: bool) -> str:
    when = "after" if after else "before"
    place = f"{when} operation {number} of {total} ({name}), seed {seed}"
    print(f"crash_everywhere: failed with a crash {place}")
    return (
        f"with a crash {place}: {error}\n"
        f"  To run this one alone: await world.crash_{when}({number}) at the start of the scenario"
        f", with --perdure-seed={seed}"
    )
