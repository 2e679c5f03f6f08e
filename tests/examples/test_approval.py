"""Approvals: reminded each day, ended after a week that begins with the submission."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

import perdure
from examples.approval import Decision, Expense, mail
from perdure import Conflict, Promise
from perdure.testing import World
from tests.examples.ledger import Ledger

DAY = timedelta(days=1)


async def submitted(world: World) -> tuple[Ledger, str]:
    """The mails so far, and the token in them."""
    ledger = Ledger()
    await world.replace(mail, ledger.noting("mail"))
    await perdure.send(world.at(Expense, "17").submit, "a chair", 30_000, "grace")
    await world.settle()
    (_, to, text) = ledger.done()[0]
    assert to == "grace"
    found = re.search(r"Answer with (\S+)", text)
    assert found is not None
    return ledger, found[1]


@pytest.mark.parametrize(("yes", "word"), [(True, "approved"), (False, "refused")])
async def test_the_boss_decides_after_three_days(yes: bool, word: str, world: World) -> None:
    ledger, token = await submitted(world)
    assert await Expense.at("17").status() == "waits for grace"
    await world.advance(3 * DAY)
    await world.hibernate()
    await Promise.resolve(token, Decision(yes, "grace"))
    await world.advance(10 * DAY)
    assert await Expense.at("17").status() == f"{word} by grace"
    assert ledger.count("mail") == 4
    with pytest.raises(Conflict):
        await Promise.resolve(token, Decision(not yes, "eve"))


async def test_the_week_is_counted_from_the_submission(world: World) -> None:
    ledger, _ = await submitted(world)
    for _ in range(6):
        await world.advance(DAY)
        await world.crash(down=timedelta(hours=1))
    await world.advance(timedelta(hours=17, minutes=59))
    assert await Expense.at("17").status() == "waits for grace"
    await world.advance(timedelta(minutes=1))
    assert await Expense.at("17").status() == "refused: nobody answered within a week"
    assert ledger.count("mail") == 7


async def scenario(world: World) -> Any:
    ledger, token = await submitted(world)
    await world.advance(2 * DAY)
    await world.hibernate()
    await Promise.resolve(token, Decision(True, "grace"))
    await world.advance(DAY)
    return await Expense.at("17").status(), len(ledger.done())


async def test_a_crash_anywhere_changes_nothing(world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert sweep.result == ("approved by grace", 3)
