"""A node on a memory store in virtual time, which can be killed and started again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Self

from perdure import Object, ref
from perdure.errors import OperatorError
from perdure.node import Node
from perdure.settings import load_settings
from perdure.store.base import Store
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing.faults import FaultyStore
from perdure.testing.virtual import VirtualClock, VirtualLoop


class Stage:
    """`async with Stage(Room) as stage`: objects are called through refs, as in a program."""

    def __init__(self, *classes: type[Object], store: Store | None = None, **settings: Any) -> None:
        self.classes = classes
        self.objects = settings.pop("objects", ())
        self.settings = load_settings({"debug": True} | settings, {})
        self.store = store if store is not None else MemoryStore()
        self.lost: list[OperatorError] = []
        """What a node was told when its store was lost."""
        loop = asyncio.get_running_loop()
        self.clock = VirtualClock(loop)
        self.node: Node
        if isinstance(loop, VirtualLoop):
            loop.at_work = self._store_works

    def _store_works(self) -> bool:
        """Whether a thread of a store on disk is at work: meanwhile no virtual time passes. Else a
        commit behind a checkpoint, which is always the thread's, would take hours of it."""
        store = self.store
        if not isinstance(store, SqliteStore) or not hasattr(store, "_lane"):
            return False
        return not (store._lane.empty and store._background.empty)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.node.ready:
            await self.node.drain()

    async def start(self) -> None:
        self.node = Node(
            self.classes,
            self.settings,
            clock=self.clock,
            store=self.store,
            on_lost=self.lost.append,
            objects=self.objects,
        )
        await self.node.start()

    @property
    def host(self) -> Any:
        return self.node.host

    async def crash(self) -> None:
        """kill -9 as far as one process can do it to itself: nothing of the node runs on."""
        host = self.host
        self.node.ready = False
        ref.close_outside(self.node)
        host.alarms.close()
        host.residency.close()
        host.delivery.clear()
        host.draining = True
        tasks = [
            task
            for task in (
                host.sleepers._looking,
                host.checkpointer._task,
                *host.effects.abandon(),
                *host._kept,
            )
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for activation in host.live():
            activation.retire()

    async def restart(self) -> None:
        await self.crash()
        await self.start()

    async def hibernate(self) -> None:
        """Let every object leave memory that may."""
        await self.settle()
        for activation in self.host.live():
            self.host.residency.let_go(activation)

    async def settle(self) -> None:
        """Until nothing is ready to move (timers far ahead stay)."""
        for _ in range(20):
            await asyncio.sleep(0)


async def through_crashes(
    stage: Stage, store: FaultyStore, life: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run a life of the process, and after each crash that the store has on order the next one,
    until a life comes to its end."""
    fallen = asyncio.Event()
    store.on_crash = fallen.set
    while True:
        fallen.clear()
        tasks = {asyncio.create_task(life()), asyncio.create_task(fallen.wait())}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if not fallen.is_set():
            for task in done:
                task.result()
            return
        store.crash_now()
        if hasattr(stage.node, "host"):
            if stage.node not in ref._outside:
                ref.open_outside(stage.node)
            await stage.crash()


async def eventually(condition: Callable[[], bool]) -> None:
    """Until the condition holds; in virtual time this takes no time."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to be")


def seeded(seed: int) -> random.Random:
    print(f"seed {seed}")
    return random.Random(seed)
