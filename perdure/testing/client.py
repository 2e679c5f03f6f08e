"""The test as a client of its world: how refs reach the objects from outside of them.

It is a patient client. When the connection breaks since the process ended, it asks again with the
same idempotency key, so that each call happens once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from perdure.errors import BadApp, Conflict
from perdure.failure import Failure
from perdure.host.failures import raised_by
from perdure.host.incoming import Answer
from perdure.node import Node
from perdure.object import Object
from perdure.suspend import heap
from perdure.testing.process import Process


class Client:
    """What `perdure.ref.Outside` is in a world."""

    def __init__(self, process: Process, seed: int) -> None:
        self.principal: Any = None
        self._process = process
        self._seed = seed
        self._asked = 0

    async def call(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a handler; gives its result or raises what it raised."""
        answer = await self._answer(kind, key, handler, args, kwargs)
        if answer.failure is not None:
            raise raised_by(answer.failure)
        return heap.loads(answer.body)

    async def send(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Tell an object; returns the call id when it is on disk."""
        answer = await self._answer(kind, key, handler, args, kwargs, keep=True)
        if answer.failure is not None and not answer.call_id:
            raise raised_by(answer.failure)
        return answer.call_id

    async def _answer(
        self,
        kind: str,
        key: str,
        handler: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        **options: Any,
    ) -> Answer:
        options |= self._options(kind)

        def begin(node: Node, hear: Callable[[Answer], None]) -> None:
            if options.get("keep"):
                options["on_accepted"] = lambda id_: hear(Answer(id_, b"", None))
            node.begin(kind, key, handler, args, kwargs, hear, **options)

        return await self._process.ask(begin)

    def _options(self, kind: str) -> dict[str, Any]:
        """What all attempts of one call have in common."""
        if kind not in self._process.classes and not self._process.whole:
            found = class_named(kind)
            if found is not None:
                self._process.serve(found)
        self._asked += 1
        return {
            "idempotency_key": f"world-{self._seed}-{self._asked}",
            "principal": self.principal,
        }

    async def stream(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Call a handler that streams; gives each of its items once."""
        options = self._options(kind)
        given = 0
        while True:
            node, life = await self._process.up()
            arrived: asyncio.Queue[tuple[int, bytes] | Answer] = asyncio.Queue()
            broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def hear_item(number: int, body: bytes, hear: Any = arrived.put_nowait) -> None:
                hear((number, body))

            def begin(node: Node = node, hear: Any = arrived.put_nowait) -> None:
                node.begin(kind, key, handler, args, kwargs, hear, on_item=hear_item, **options)

            with self._process.connection(broken):
                life.run(begin)
                while (item := await _next(arrived, broken)) is not None:
                    if isinstance(item, Answer):
                        if item.failure is not None:
                            raise raised_by(item.failure)
                        return
                    number, body = item
                    if number > given:
                        given = number
                        yield heap.loads(body)

    async def delete(self, kind: str, key: str) -> None:
        """End an object."""
        await self._process.through(lambda node: node.delete(kind, key))

    async def settle_promise(
        self, token: str, value: object, failure: Failure | None, error: BaseException | None
    ) -> None:
        """Resolve or reject a promise; returns when that is on disk."""
        tries = 0

        async def settle(node: Node) -> None:
            nonlocal tries
            tries += 1
            try:
                await node.settle_promise(token, value, failure, error)
            except Conflict:
                # It may have been this very client, before the connection broke.
                if tries == 1:
                    raise

        await self._process.through(settle)

    async def cancel(self, call_id: str, *, again: bool) -> None:
        """Cancel a call by its id."""
        await self._process.through(lambda node: node.cancel(call_id, again=again))

    async def calls(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Calls that are so."""
        found: list[dict[str, Any]] = await self._process.through(lambda node: node.calls(wanted))
        return found

    async def find(
        self, kind: str, where: dict[str, Any], limit: int, after: str | None
    ) -> list[str]:
        """Keys of the objects that meet all conditions."""
        found: list[str] = await self._process.through(
            lambda node: node.find(kind, where, limit, after)
        )
        return found


async def _next(
    arrived: asyncio.Queue[tuple[int, bytes] | Answer], broken: asyncio.Future[None]
) -> tuple[int, bytes] | Answer | None:
    """What arrived next; None if the connection broke."""
    getting = asyncio.ensure_future(arrived.get())
    waiting: set[asyncio.Future[Any]] = {getting, broken}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        getting.cancel()


def class_named(name: str) -> type[Object] | None:
    """The class of the process that is served under a name, if there is one and no other."""
    found = [cls for cls in all_classes(Object) if cls.__perdure_name__ == name]
    if len(found) > 1:
        raise BadApp(
            f"{len(found)} classes are named {name}: "
            + ", ".join(f"{cls.__module__}.{cls.__qualname__}" for cls in found),
            hint="Say which: @pytest.mark.perdure(…), or world.at(Class, key) first.",
        )
    return found[0] if found else None


def all_classes(base: type[Object]) -> Iterator[type[Object]]:
    """Each class below `base` that a program could serve."""
    for cls in base.__subclasses__():
        # A twin that the runtime made for queries has the name of its only base.
        twin = (cls.__module__, cls.__qualname__) == (base.__module__, base.__qualname__)
        if not twin and not cls.__module__.startswith("perdure."):
            yield cls
        yield from all_classes(cls)
