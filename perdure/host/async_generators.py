"""Async generators of an object end in their object, and not on the event loop around it.

An async generator that is let go in the middle, by a `break` out of its `async for`, still has
its `finally` to run, and Python asks the running thread's hooks to see to it. Those of the event
loop outside would run it there: it would change the object's memory outside of a turn, and no
replay would know. Here it becomes a task of the object, in the very turn that let it go.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

from perdure.suspend import frames

Generator = AsyncGenerator[Any, Any]

_running_loop: Any = asyncio._get_running_loop

# Generators that began in a turn. By id: when one is finished off it can no longer be referred to
# weakly. An id that is given again to a generator of the outside is taken out there.
_of_objects: set[int] = set()


def install() -> None:
    """Put the hooks of this thread before those that are there: asyncio's, while its loop runs."""
    before = sys.get_asyncgen_hooks()
    if getattr(before.firstiter, "of_objects", False):
        return

    def begun(generator: Generator) -> None:
        if getattr(_running_loop(), "is_object_loop", False):
            _of_objects.add(id(generator))
            return
        _of_objects.discard(id(generator))
        if before.firstiter is not None:
            before.firstiter(generator)

    def let_go(generator: Generator) -> None:
        if id(generator) in _of_objects:
            _finish(generator)
        elif before.finalizer is not None:
            before.finalizer(generator)

    begun.of_objects = True  # type: ignore[attr-defined]
    sys.set_asyncgen_hooks(begun, let_go)
    frames.finish_generator = _finish


def _finish(generator: Generator) -> None:
    _of_objects.discard(id(generator))
    loop: Any = _running_loop()
    # Let go outside of a turn it belongs to memory that is dropped: it is not ending, and its
    # code does not run.
    if getattr(loop, "is_object_loop", False):
        loop.create_task(generator.aclose())
