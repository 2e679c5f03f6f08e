"""What every store promises of the index of open promises, by example."""

from __future__ import annotations

from typing import Any

from perdure.store.base import Checkpoint, PromiseFilter, PromiseRow
from tests.contract.homes import Home, opened


def row(n: int, key: str = "a", type_: str = "bool", until: int = 0) -> PromiseRow:
    return PromiseRow(n, f"token-{n}", 7, "Order", key, type_, until)


async def test_rows_are_put_listed_in_pages_and_dropped(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])

        async def write(**changes: Any) -> bool:
            return await store.checkpoint(Checkpoint(0, claim.epoch, **changes))

        async def listed(limit: int = 100, after: Any = None, **wanted: Any) -> list[PromiseRow]:
            return await store.promises(PromiseFilter(**wanted), after, limit)

        rows = [row(1), row(2, "b"), row(3, "b", "Approval", until=9), row(4)]
        assert await write(promises=list(reversed(rows)))
        assert await listed() == rows
        assert await listed(limit=2) == rows[:2]
        assert await listed(limit=2, after=(2, "token-2")) == rows[2:]
        assert await listed(after=(2, "token-1")) == rows[1:]
        assert await listed(kind="Order", key="b") == rows[1:3]
        assert await listed(kind="Other") == []
        assert await listed(type="Approval") == [rows[2]]
        assert await write(promises=[row(1, until=5)], settled=["token-3", "never there"])
        assert await listed() == [row(1, until=5), rows[1], rows[3]]
        # So many at once that they take more than one statement.
        many = [row(n) for n in range(10, 160)]
        assert await write(promises=many)
        assert len(await listed(limit=1000)) == 153
        assert await write(settled=[one.token for one in many])
        assert len(await listed(limit=1000)) == 3


async def test_a_deposed_owner_writes_none(home: Home) -> None:
    async with opened(home) as (store,):
        (old,) = await store.claim([0])
        await store.claim([0])
        assert not await store.checkpoint(Checkpoint(0, old.epoch, promises=[row(1)]))
        assert await store.promises(PromiseFilter(), None, 10) == []
