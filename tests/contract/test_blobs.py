"""What every store promises of blobs (perdure/store/base.py)."""

from __future__ import annotations

import pytest

from perdure.store.base import Blob, Checkpoint
from tests.contract.fence import row
from tests.contract.homes import Home, opened

LARGE = bytes(range(256)) * 4096


@pytest.mark.parametrize("body", [b"", b"x", LARGE], ids=["empty", "small", "large"])
async def test_what_was_put_is_there_in_the_next_life(home: Home, body: bytes) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([1])
        assert await store.put_blob(1, claim.epoch, 7, "3", body)
        assert await store.get_blob(1, 7, "3") == body
    async with opened(home) as (store,):
        assert await store.get_blob(1, 7, "3") == body


async def test_what_was_not_put_is_none(home: Home) -> None:
    async with opened(home) as (store,):
        (claim, _) = await store.claim([1, 2])
        await store.put_blob(1, claim.epoch, 7, "3", b"x")
        assert await store.get_blob(1, 7, "4") is None
        assert await store.get_blob(1, 8, "3") is None
        assert await store.get_blob(2, 7, "3") is None
        assert await store.get_blob(0, 0, "") is None


async def test_one_of_the_same_name_is_replaced(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        await store.put_blob(0, claim.epoch, 7, "3", LARGE)
        await store.checkpoint(Checkpoint(0, claim.epoch, blobs=[Blob(7, "3", 5)]))
        await store.put_blob(0, claim.epoch, 7, "3", b"new")
        assert await store.get_blob(0, 7, "3") == b"new"
        assert await store.unnamed_blobs(0) == [(7, "3")]


async def test_a_deposed_owner_writes_and_removes_nothing(home: Home) -> None:
    async with opened(home, 2) as (old, new):
        (deposed,) = await old.claim([0])
        (claim,) = await new.claim([0])
        await new.put_blob(0, claim.epoch, 7, "3", b"mine")
        assert not await old.put_blob(0, deposed.epoch, 7, "3", b"theirs")
        assert not await old.put_blob(0, deposed.epoch, 7, "4", LARGE)
        assert not await old.drop_blobs(0, deposed.epoch, [(7, "3")])
        named = Checkpoint(0, deposed.epoch, blobs=[Blob(7, "3", 5)])
        assert not await old.checkpoint(named)
        assert await new.get_blob(0, 7, "3") == b"mine"
        assert await new.get_blob(0, 7, "4") is None
        assert await new.unnamed_blobs(0) == [(7, "3")]


async def test_those_that_no_checkpoint_has_named_are_listed_and_can_be_dropped(
    home: Home,
) -> None:
    async with opened(home) as (store,):
        (claim, other) = await store.claim([0, 1])
        for oid, name in [(9, "2"), (7, "3"), (7, "10"), (7, "4")]:
            await store.put_blob(0, claim.epoch, oid, name, b"x")
        await store.put_blob(1, other.epoch, 5, "1", b"x")
        await store.checkpoint(
            Checkpoint(0, claim.epoch, [row(7)], blobs=[Blob(7, "4", 2), Blob(7, "99", 2)])
        )
        assert await store.unnamed_blobs(0) == [(7, "10"), (7, "3"), (9, "2")]
        assert await store.unnamed_blobs(1) == [(5, "1")]
        assert await store.drop_blobs(0, claim.epoch, [(7, "3"), (9, "2"), (9, "none")])
        assert await store.unnamed_blobs(0) == [(7, "10")]
        assert await store.get_blob(0, 7, "3") is None
        assert await store.get_blob(0, 7, "4") == b"x"


async def test_forgotten_turns_take_their_blobs_along(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        for name in ("1", "2", "3", "4"):
            await store.put_blob(0, claim.epoch, 7, name, name.encode())
        await store.put_blob(0, claim.epoch, 8, "1", b"other")
        blobs = [Blob(7, "1", 5), Blob(7, "2", 6), Blob(7, "3", 7), Blob(8, "1", 5)]
        await store.checkpoint(Checkpoint(0, claim.epoch, blobs=blobs))
        await store.checkpoint(Checkpoint(0, claim.epoch, forget=[(7, 6)]))
        found = [await store.get_blob(0, 7, name) for name in ("1", "2", "3", "4")]
        assert found == [None, None, b"3", b"4"]
        assert await store.get_blob(0, 8, "1") == b"other"


async def test_named_and_forgotten_in_one_slice(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        await store.put_blob(0, claim.epoch, 7, "1", b"x")
        slice_ = Checkpoint(0, claim.epoch, blobs=[Blob(7, "1", 5)], forget=[(7, 5)])
        assert await store.checkpoint(slice_)
        assert await store.get_blob(0, 7, "1") is None
