"""Programs that use everything asyncio has, as handlers of one object."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
import uuid
from datetime import datetime
from typing import Any

from perdure import Object, query

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


class Programs(Object):
    log: list[Any] = []
    shared: Any = None

    def note(self, *what: Any) -> None:
        self.log.append([*what, asyncio.get_running_loop().time()])

    @query
    async def read(self) -> list[Any]:
        return self.log

    async def set_shared(self, value: int) -> None:
        self.shared.set_result(value)

    async def sleeping(self) -> None:
        for i in range(3):
            await asyncio.sleep(1.5)
            self.note("slept", i)
        await asyncio.sleep(0)
        self.note("done")

    async def timeouts(self) -> None:
        try:
            async with asyncio.timeout(2):
                await asyncio.sleep(10)
        except TimeoutError:
            self.note("timeout")
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 1)
        except TimeoutError:
            self.note("wait_for")
        async with asyncio.timeout(5) as deadline:
            await asyncio.sleep(1)
            deadline.reschedule(asyncio.get_running_loop().time() + 3)
            await asyncio.sleep(2)
        self.note("in time")
        self.note(await asyncio.wait_for(self._number(1, 7), 5))

    async def _number(self, delay: float, n: int) -> int:
        await asyncio.sleep(delay)
        return n

    async def gathering(self) -> None:
        self.note(
            await asyncio.gather(
                self._number(3, 1), self._number(1, 2), asyncio.shield(self._number(2, 3))
            )
        )

        async def bad() -> None:
            await asyncio.sleep(1)
            raise ValueError("bad")

        results = await asyncio.gather(bad(), self._number(2, 5), return_exceptions=True)
        self.note([repr(result) for result in results])

    async def waiting(self) -> None:
        tasks = [asyncio.create_task(self._number(i, i)) for i in (3, 1, 2)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.note([task.result() for task in done], len(pending))
        for task in pending:
            task.cancel()
        self.note(len((await asyncio.wait(pending))[0]))
        found = []
        for next_ in asyncio.as_completed([self._number(i, i) for i in (2, 1, 3)]):
            found.append(await next_)
        self.note(found)

    async def locks(self) -> None:
        lock, semaphore, condition = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Condition()
        ready: list[int] = []

        async def worker(n: int) -> None:
            async with lock:
                await asyncio.sleep(1)
                self.note("lock", n)
            async with semaphore:
                await asyncio.sleep(1)
                self.note("semaphore", n)
            async with condition:
                ready.append(n)
                condition.notify_all()

        tasks = [asyncio.create_task(worker(n)) for n in range(4)]
        async with condition:
            await condition.wait_for(lambda: len(ready) == 4)
        self.note(ready)
        await asyncio.gather(*tasks)

    async def queues(self) -> None:
        queue: asyncio.Queue[int | None] = asyncio.Queue(2)
        barrier = asyncio.Barrier(3)
        event = asyncio.Event()

        async def produce() -> None:
            for i in range(5):
                await queue.put(i)
            await queue.put(None)
            await barrier.wait()

        async def consume() -> None:
            while (item := await queue.get()) is not None:
                await asyncio.sleep(0.5)
                self.note("item", item)
                queue.task_done()
            event.set()
            await barrier.wait()

        both = asyncio.gather(produce(), consume())
        await event.wait()
        self.note("event")
        await barrier.wait()
        await both

    async def groups(self) -> None:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(self._number(2, 1))
            two = group.create_task(self._number(1, 2))
        self.note(one.result(), two.result())

        async def bad() -> None:
            await asyncio.sleep(1)
            raise KeyError("group")

        async def cleans_up() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)
                self.note("cleaned up")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(bad())
                group.create_task(cleans_up())
        except* KeyError as errors:
            self.note([repr(error) for error in errors.exceptions])

    async def contexts(self) -> None:
        async def child(name: str) -> None:
            self.note(where.get())
            where.set(name)
            await asyncio.sleep(1)
            self.note(where.get())

        where.set("parent")
        await asyncio.gather(child("a"), child("b"))
        self.note(where.get())

    async def cancelling(self) -> None:
        async def stubborn() -> str:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                await asyncio.sleep(1)
                return "stayed"
            return "not reached"

        task = asyncio.create_task(stubborn())
        await asyncio.sleep(1)
        task.cancel()
        self.note(await task)
        victim = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(1)
        victim.cancel("why")
        try:
            await victim
        except asyncio.CancelledError as error:
            self.note("cancelled", error.args)

    async def sharing(self) -> None:
        self.shared = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(3, self.shared.set_result, 42)
        self.note(await self.shared, await self.shared)

    async def chances(self) -> None:
        for _ in range(3):
            self.note(
                random.random(),
                random.choice("abcdef"),
                str(uuid.uuid4()),
                time.time(),
                datetime.now().isoformat(),
            )
            await asyncio.sleep(random.uniform(0.5, 1.5))

    async def all_tasks(self) -> None:
        task = asyncio.create_task(self._number(1, 1), name="number")
        self.note(sorted(task.get_name() for task in asyncio.all_tasks()))
        await task
        self.note(len(asyncio.all_tasks()), asyncio.current_task() is not None)

    async def iterating(self) -> None:
        async def numbers() -> Any:
            try:
                for i in range(10):
                    await asyncio.sleep(0.5)
                    yield i
            finally:
                self.note("closed")

        stream = numbers()
        async for n in stream:
            self.note(n)
            if n == 2:
                break
        await stream.aclose()


NAMES = [
    "sleeping",
    "timeouts",
    "gathering",
    "waiting",
    "locks",
    "queues",
    "groups",
    "contexts",
    "cancelling",
    "sharing",
    "chances",
    "all_tasks",
    "iterating",
]
