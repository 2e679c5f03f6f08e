"""Test functions that are coroutines run on uvloop, as the front does."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine function in a loop of its own.

    Of a fixture that is an async context manager the test gets what entering it gives.
    """
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    uvloop.run(_run(pyfuncitem.obj, arguments))
    return True


async def _run(test: Any, arguments: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        for name, value in arguments.items():
            if hasattr(value, "__aenter__"):
                arguments[name] = await stack.enter_async_context(value)
        await test(**arguments)
