"""An object that waits in every way there is, and writes down when it woke."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from perdure import Object, query, step, step_id


@step
def note(owner: str, name: str) -> tuple[str, float, str]:
    """Append a line to the diary. It may run again; each run has a token of its own."""
    token = os.urandom(8).hex()
    line = json.dumps({"step": step_id(), "owner": owner, "name": name, "token": token})
    diary = os.open(os.environ["DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(diary, line.encode() + b"\n")
    finally:
        os.close(diary)
    # Long enough that some die in between, and are run again.
    time.sleep(0.05)
    # The time of the real world, not that of a turn.
    return step_id(), time.time(), token


class Sleeper(Object):
    """Each wait adds a record: its name, when it was due, when it woke."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, float, float]] = []
        self.noted: list[tuple[str, float, str]] = []
        self.runs = 0

    async def run(self, naps: list[float], alarm: float) -> dict[str, Any]:
        """Sleep in parallel, give up a wait, ring an alarm, nested as people write it."""
        self.runs += 1
        rung = asyncio.Event()
        due = time.time() + alarm
        asyncio.get_running_loop().call_later(alarm, self._ring, rung, due)
        async with asyncio.timeout(600):
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._nap(f"nap-{number}", nap))
                    for number, nap in enumerate(naps)
                ]
                group.create_task(self._give_up("never", naps[0]))
            await rung.wait()
        last = await self._note("last")
        return {"naps": [task.result() for task in tasks], "last": last, "runs": self.runs}

    def _ring(self, rung: asyncio.Event, due: float) -> None:
        self.woken.append(("alarm", due, time.time()))
        rung.set()

    async def _nap(self, name: str, seconds: float) -> str:
        before = await self._note(f"before {name}")
        due = time.time() + seconds
        await asyncio.sleep(seconds)
        self.woken.append((name, due, time.time()))
        # What the step saw on the clock of the wall is no earlier either.
        after = await self._note(f"after {name}")
        self.woken.append((f"{name} outside", before + seconds, after))
        return name

    async def _give_up(self, name: str, seconds: float) -> None:
        due = time.time() + seconds
        try:
            async with asyncio.timeout(seconds):
                await asyncio.Event().wait()
        except TimeoutError:
            self.woken.append((name, due, time.time()))

    async def _note(self, name: str) -> float:
        self.noted.append(await note(self.key, name))
        return self.noted[-1][1]

    @query
    async def told(self) -> dict[str, Any]:
        return {"woken": self.woken, "noted": self.noted, "runs": self.runs}
