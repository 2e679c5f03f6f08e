"""The crawler: within its limit, each page once, wherever it crashes."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from examples.crawler import Crawl, fetch
from perdure import Retry
from perdure.testing import World
from tests.examples.ledger import Ledger

HOME = "http://site.example/"


def site(ledger: Ledger | None = None, pages: int = 20) -> Any:
    """Each page leads to its two children, home again, and away."""

    def answer(url: str) -> str:
        number = int(url.removeprefix(HOME) or 1)
        if ledger is not None:
            ledger.note("fetch", url)
        if number == 7:
            raise ConnectionError("page 7 never answers")
        children = [n for n in (2 * number, 2 * number + 1) if n <= pages]
        links = "".join(f'<a href="/{n}#top">{n}</a>' for n in children)
        return f'{links} <a href="{HOME}">home</a> <a href="http://other.example/">away</a>'

    return answer


async def test_all_pages_are_found_at_one_a_second(world: World) -> None:
    await world.replace(fetch, site())
    began = world.now
    assert await world.at(Crawl, "first").run(HOME, pages=50) == 19 - 2
    found = await Crawl.at("first").found()
    assert found[HOME] == [f"{HOME}2", f"{HOME}3", HOME]
    assert await Crawl.at("first").failed() == {f"{HOME}7": "page 7 never answers"}
    seconds = [(call.at - began).total_seconds() for call in world.step_calls(fetch)]
    assert all(later - sooner >= 0.99 for sooner, later in itertools.pairwise(seconds))
    tries = Counter(call.args[0] for call in world.step_calls(fetch))
    assert tries.pop(f"{HOME}7") == Retry(attempts=3).attempts
    assert set(tries.values()) == {1}


async def test_no_more_pages_than_wanted(world: World) -> None:
    await world.replace(fetch, site())
    assert await world.at(Crawl, "first").run(HOME, pages=5) == 5


async def scenario(world: World) -> Any:
    ledger = Ledger()
    await world.replace(fetch, site(ledger, pages=6))
    count = await world.at(Crawl, "first").run(HOME, workers=2)
    await world.hibernate()
    return count, sorted(ledger.done()), sorted(await Crawl.at("first").found())


async def test_a_crash_anywhere_changes_nothing(world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert sweep.result[0] == 6
    assert len(sweep.result[1]) == 6
