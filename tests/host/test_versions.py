"""What becomes of objects when the code changes: they go over to it, and their past does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import perdure
from perdure.suspend import probe
from tests.host.deploys import Deploys

pytestmark = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)

HEAD = """
import asyncio
from dataclasses import dataclass, field
import perdure
from perdure import Object, query, step
"""

WAITING = (
    HEAD
    + """
class Order(Object):
    log: list[str] = []

    async def run(self) -> str:
        self.log.append("begun by %(name)s")
        await asyncio.sleep(60)
        self.log.append("ended by %(name)s")
        self.log.append(self._helper())
        self.log.append(helper())
        return "%(name)s"

    def _helper(self) -> str:
        return "method of %(name)s"

    async def other(self) -> str:
        return "%(name)s"

    @query
    async def read(self) -> list[str]:
        return self.log

def helper() -> str:
    return "function of %(name)s"
"""
)

UNCHANGED = (
    HEAD
    + """
class Order(Object):
    log: list[str] = []

    async def run(self) -> str:
        await asyncio.sleep(60)
        self.log.append(self._helper())
        self.log.append(helper())
        return "done"

    def _helper(self) -> str:
        return "method of %(name)s"

    @query
    async def read(self) -> list[str]:
        return self.log

def helper() -> str:
    return "function of %(name)s"
"""
)


@pytest.mark.parametrize("crash", [False, True])
async def test_changed_code_that_waits_goes_on_on_its_version(tmp_path: Path, crash: bool) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(WAITING % {"name": "one"})
        await perdure.send(app.at("Order", "a").run)
        await app.deploy(WAITING % {"name": "two"}, crash=crash)
        assert await app.at("Order", "a").other() == "two"
        await app.deploy(WAITING % {"name": "three"}, crash=crash)
        assert await app.at("Order", "a").other() == "three"
        await asyncio.sleep(61)
        assert await app.at("Order", "a").read() == [
            "begun by one", "ended by one", "method of one", "function of one",
        ]  # fmt: skip
        kinds = [(line["kind"], line["version"]) for line in await app.history("Order/a")]
        one, two, three = app.versions
        assert kinds == [
            ("call", one), ("upgrade", two), ("call", two), ("upgrade", three), ("call", three),
            ("timer", three),
        ]  # fmt: skip
        # The whole past once more, from the first turn.
        app.stage.host.stash.clear()
        app.store._suspended.clear()
        app.store._rows = {
            oid: (part, row.__class__(**{f: getattr(row, f) for f in row.__slots__}
                                     | {"seq": 0, "snapshot": None}))
            for oid, (part, row) in app.store._rows.items()
        }
        await app.deploy(WAITING % {"name": "four"}, crash=True)
        assert (await app.at("Order", "a").read())[1] == "ended by one"
        assert await app.stage.host.quarantined() == []


@pytest.mark.parametrize("crash", [False, True])
async def test_unchanged_code_that_waits_goes_over(tmp_path: Path, crash: bool) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(UNCHANGED % {"name": "one"})
        await perdure.send(app.at("Order", "a").run)
        await app.deploy(UNCHANGED % {"name": "two"}, crash=crash)
        await asyncio.sleep(61)
        assert await app.at("Order", "a").read() == ["method of two", "function of two"]
