"""What can be done with a call besides making it: cancel it, and give it a deadline."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from perdure.inside import inside, want_by, wanted_by
from perdure.ref import outside

if TYPE_CHECKING:
    from perdure.object import Object


async def cancel(call_id: str, *, again: bool = False) -> None:
    """Cancel a call by its id, wherever it runs or waits; returns when that is durable.

    Its code meets `asyncio.CancelledError` where it waits; `finally` and `except` run, durably,
    and may wait themselves. Its caller gets CallCancelled. What it came to can be asked for by
    its id for `call_retention`. A call that was cancelled before is left alone, since a second
    CancelledError would cut off its compensation; `again=True` raises one.

    Raises UnknownCall for a call that nothing is known of, Conflict for one that has ended.
    """
    turn = inside()
    if turn is not None:
        await turn.cancel_call(call_id, again=again)
    else:
        await outside().cancel(call_id, again=again)


async def calls(
    *,
    status: str | None = None,
    kind: str | type[Object] | None = None,
    object: object = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """What `perdure calls` lists: calls of the node in this process, the newest first.

    `status` is `open`, `running`, `queued`, `done`, `failed` or `cancelled`; `kind` a class or its
    name; `object` a ref or address; `since` when they began. Each is a dict with `id`, `object`,
    `handler`, `status`, `since`, `waiting_on`, `caller`, `ended`, `deadline`, `error`.

    Raises RuntimeError inside an object: it would not be recorded. Call it in a step.
    """
    if inside() is not None:
        raise RuntimeError(
            "perdure.calls() looks at the world outside; inside an object, call it in a step"
        )
    wanted: dict[str, Any] = {"status": status, "limit": limit}
    if kind is not None:
        wanted["kind"] = kind if isinstance(kind, str) else kind.__perdure_name__
    if object is not None:
        wanted["address"] = object if isinstance(object, str) else getattr(object, "address", "")
    if since is not None:
        wanted["since"] = int(since.timestamp() * 1_000_000) * 1000
    return await outside().calls(wanted)


class deadline:
    """`async with perdure.deadline(seconds):` ends what runs in it, as `asyncio.timeout` does.

    Beyond that, each call made in it has this as its deadline, and so have the calls made for
    that one: when it has passed they are cancelled where they run, also if whoever called is
    gone. A deadline around this one that is earlier counts instead. Takes seconds or a timedelta;
    raises TimeoutError at the end of the block.
    """

    def __init__(self, seconds: timedelta | float) -> None:
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        self._seconds = seconds
        self._outer = 0.0
        self._timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        when = asyncio.get_running_loop().time() + self._seconds
        outer = wanted_by()
        self._outer = want_by(min(when, outer) if outer else when)
        self._timeout = asyncio.timeout_at(when)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._timeout is not None
        want_by(self._outer)
        await self._timeout.__aexit__(exc_type, exc, traceback)
