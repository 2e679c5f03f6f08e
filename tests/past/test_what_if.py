"""What would have been: another call in the past, and what follows from it as far as it fits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Object, Past, atomic, step
from perdure.errors import BadArguments, UnknownHandler
from tests.host.stage import Stage, seeded
from tests.past.observed import Basket, Life

asked: list[str] = []


@step
async def price(name: str) -> int:
    asked.append(name)
    return len(name)


class Other(Object):
    async def double(self, n: int) -> int:
        return 2 * n


class Till(Object):
    total: int = 0
    sold: list[str] = []
    woken: int = 0
    marks: set[int] = set()

    async def sell(self, name: str) -> int:
        cents = await price(name)
        self.sold.append(name)
        self.total += cents
        return self.total

    async def add(self, n: int) -> int:
        self.total += n
        return self.total

    @atomic
    async def take(self, n: int) -> int:
        self.total -= n
        if self.total < 0:
            raise ValueError("not enough")
        return self.total

    async def mark(self, n: int) -> None:
        self.marks.add(n)

    async def unmark(self, n: int) -> list[int]:
        self.marks.discard(n)
        return list(self.marks)

    async def twice(self, n: int) -> int:
        self.total += await Other.at("o").double(n)
        return self.total

    async def later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.woken += 1


def texts(found: dict[str, Any]) -> list[str]:
    return [change["text"] for change in found["changes"]]


async def test_another_argument_changes_what_follows_from_it() -> None:
    async with Stage(Till, Other):
        till = Till.at("t")
        for n in (1, 2, 3):
            await till.add(n)
        found = await Past(till).what_if(2, {"n": 20})
        assert texts(found) == ["total: 6 -> 24"]
        assert [turn["seq"] for turn in found["changed"]] == [2, 3]
        assert (found["changed"][0]["expected"], found["changed"][0]["found"]) == (
            "answer 3",
            "answer 21",
        )
        assert (await Past(till).state())["state"]["total"] == 6
        assert texts(await Past(till).what_if(2, None)) == ["total: 6 -> 4"]
        same = await Past(till).what_if(2, {"n": 2})
        assert (same["changes"], same["changed"], same["left_out"]) == ([], [], [])
        other = await Past(till).what_if(3, {"n": 2}, "take")
        assert other["state"]["total"] == 1


async def test_results_of_steps_are_taken_where_the_same_is_asked_for() -> None:
    asked.clear()
    async with Stage(Till, Other):
        till = Till.at("t")
        await till.sell("bread")
        await till.sell("jam")
        assert asked == ["bread", "jam"]
        found = await Past(till).what_if(1, {"name": "butter"})
        # Nobody knows what butter would have cost; jam is as it was.
        assert found["waiting"][0].startswith("step ")
        assert found["state"]["sold"] == ["jam"]
        assert found["state"]["total"] == 3
        assert [turn["why"] for turn in found["left_out"]] == ["its step was not asked for"]
        assert asked == ["bread", "jam"]
        found = await Past(till).what_if(3, None)
        assert found["state"]["sold"] == ["bread"]


async def test_answers_of_other_objects_and_numbers_that_have_moved() -> None:
    async with Stage(Till, Other):
        till = Till.at("t")
        await till.add(1)
        await till.twice(4)
        # One future more is made before it: its number is another, and the answer still fits.
        found = await Past(till).what_if(1, {"seconds": 0.01}, "later")
        assert found["state"]["total"] == 8
        assert found["left_out"] == []


async def test_timers_fire_when_they_would_have() -> None:
    async with Stage(Till, Other):
        till = Till.at("t")
        await till.later(10)
        await asyncio.sleep(100)
        await till.add(1)
        found = await Past(till).what_if(1, {"seconds": 50})
        assert found["state"]["woken"] == 1
        found = await Past(till).what_if(1, {"seconds": 5000})
        assert found["state"]["woken"] == 0
        assert [turn["why"] for turn in found["left_out"]] == ["no timer is due"]


async def test_what_was_undone_may_happen_and_the_other_way_round() -> None:
    async with Stage(Till, Other):
        till = Till.at("t")
        await till.add(5)
        with pytest.raises(ValueError, match="not enough"):
            await till.take(7)
        await till.take(2)
        found = await Past(till).what_if(1, {"n": 10})
        assert found["state"]["total"] == 1
        found = await Past(till).what_if(1, {"n": 1})
        assert found["state"]["total"] == 1


async def test_sets_keep_their_order_when_a_turn_is_undone() -> None:
    async with Stage(Till, Other):
        till = Till.at("t")
        # Grown and shrunk so that the same numbers, put into a new set, are walked otherwise.
        for n in (7, 15, 23):
            await till.mark(n)
        await till.unmark(7)
        await till.mark(0)
        with pytest.raises(ValueError, match="not enough"):
            await till.take(1)
        order = await till.unmark(99)
        assert order != list(set(order))
        await till.add(1)
        found = await Past(till).what_if(1, {"n": 7})
        assert (found["changes"], found["changed"]) == ([], [])


async def test_what_cannot_be_meant() -> None:
    async with Stage(Till, Other):
        till = Till.at("t")
        await till.later(1)
        past = Past(till)
        with pytest.raises(BadArguments, match="is no call"):
            await past.what_if(2, {"n": 1})
        with pytest.raises(BadArguments):
            await past.what_if(1, {"seconds": "long"})
        with pytest.raises(UnknownHandler):
            await past.what_if(1, None, "nothing")


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_call_again_changes_nothing(seed: int) -> None:
    rng = seeded(seed)
    async with Stage(Basket) as stage:
        await Life(stage, rng).go(40)
        past = Past(Basket.at("b"))
        calls = await past.history(kind="call", handler="put", limit=1000)
        for turn in rng.sample(calls, min(4, len(calls))):
            args = turn["input"].partition("(")[2]
            name, cents = args.rstrip(")").split(", ")
            arguments = {"name": name.strip("'"), "price": float(cents)}
            found = await past.what_if(turn["seq"], arguments)
            assert found["changes"] == []
            assert found["changed"] == []
