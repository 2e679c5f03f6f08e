"""The client for code without an event loop, made from the async classes themselves.

A thread of its own runs the loop; each method of a twin runs the method of the same name there and
waits. So there is one implementation, and what is true of the one is true of the other.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from perdure.client.line import Connection, ConnectionEnded
from perdure.client.remote import Client, RemoteObject

T = TypeVar("T")


def connect_sync(
    url: str = "http://127.0.0.1:7373",
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> SyncClient:
    """A server, for code without an event loop: `with perdure.connect_sync("http://…") as client`.

    Everything is as with `perdure.connect`, without `await`; streams and connections are walked
    with `for`.
    """
    return SyncClient(Client(url, headers=headers, timeout=timeout), _Loop())


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="perdure-client")
        self._thread.daemon = True
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a callback of the client cannot wait for the client")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def is_closed(self) -> bool:
        return self._loop.is_closed()

    def close(self) -> None:
        self.run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        # A stream that was walked half-way is closed by a task, which is not left behind.
        await self._loop.shutdown_asyncgens()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Twin:
    """Something of the async client, met from a thread without a loop."""

    def __init__(self, inner: Any, loop: _Loop) -> None:
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value) or isinstance(value, type):
            return value
        return lambda *args, **kwargs: self._answer(value(*args, **kwargs))

    def _answer(self, result: Any) -> Any:
        if inspect.isawaitable(result):
            return self._loop.run(_wait(result))
        if isinstance(result, Connection):
            return SyncConnection(result, self._loop)
        if isinstance(result, RemoteObject):
            return _Twin(result, self._loop)
        return _walk(self._loop, result) if hasattr(result, "__anext__") else result

    def __repr__(self) -> str:
        return repr(self._inner)


class _Closing(_Twin):
    """A twin of something that is entered, and closed when it is left."""

    def __enter__(self) -> Self:
        self._loop.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()  # Its own, or that of the async class.


class SyncClient(_Closing):
    """A server and its objects. Made by `perdure.connect_sync`; a context manager."""

    _inner: Client

    def close(self) -> None:
        """Let the connections to the server go, and end the thread."""
        if not self._loop.is_closed():
            self._loop.run(self._inner.close())
            self._loop.close()


class SyncConnection(_Closing):
    """A connection to an object; iterate over it for the messages."""

    _inner: Connection

    def __iter__(self) -> Iterator[Any]:
        return _walk(self._loop, self._inner)

    def receive(self, timeout: float | None = None) -> Any:
        """The next message. Raises TimeoutError after `timeout` seconds, and ConnectionEnded."""
        return self._loop.run(asyncio.wait_for(self._inner.receive(), timeout))


async def _wait(result: Any) -> Any:
    return await result


def _walk(loop: _Loop, items: AsyncIterator[Any]) -> Iterator[Any]:
    iterator = aiter(items)
    try:
        while True:
            try:
                item = loop.run(_wait(anext(iterator)))
            except StopAsyncIteration:
                return
            yield item
    finally:
        # Walked half-way: the answer is not read on.
        if isinstance(iterator, AsyncGenerator) and not loop.is_closed():
            loop.run(iterator.aclose())


__all__ = ["ConnectionEnded", "SyncClient", "SyncConnection", "connect_sync"]
