"""What an app imports by name before perdure is there: the guards have to reach it all the same.

The test process has them in place long before; test_guard.py imports this in a fresh process.
"""

from __future__ import annotations

import asyncio
from os import urandom
from random import random
from time import monotonic, time

from perdure import Object
from perdure.host import guard

# The guards come after the names above.
guard.install()


class Early(Object):
    def look(self) -> list[object]:
        return [time(), monotonic(), random(), urandom(4).hex()]


async def main() -> None:
    from tests.host.stage import Stage

    async with Stage(Early) as stage:
        first = await Early.at("a").look()
        now = stage.clock.now_ns() / 1e9
        assert first[:2] == [now, now], (first, now)
        # A node of the same store that never saw the first turn draws the same in its place.
        chance = first[2:]
    async with Stage(Early, store=stage.store.__class__(stage.store.layout)) as again:  # type: ignore[attr-defined, call-arg]
        assert (await Early.at("a").look())[2:] == chance
        assert again.node.ready


if __name__ == "__main__":
    from perdure.testing.virtual import run_virtual

    assert time() != 0
    assert asyncio.iscoroutinefunction(main)
    run_virtual(main())
    print("the same")
