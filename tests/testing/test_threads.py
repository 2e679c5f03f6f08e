"""Threads and virtual time: whose work holds it up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure import Object, step
from perdure.testing import World, run, virtual


@step
async def nap() -> None:
    for _ in range(100):
        await asyncio.sleep(60.0)


class Sleeper(Object):
    async def rest(self) -> str:
        await nap()
        return "rested"


def test_a_thread_that_was_there_before_holds_up_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever waits for it, waits longer than a test may take.
    monkeypatch.setattr(virtual, "_PATIENCE_S", 1e6)
    over = threading.Event()
    bystander = threading.Thread(target=over.wait)
    bystander.start()

    async def rests() -> None:
        async with World(Sleeper):
            assert await Sleeper.at("a").rest() == "rested"

    try:
        run(rests())
    finally:
        over.set()
        bystander.join()
