"""Copies of a store while it is written to, and stores made of them, as of any time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import send
from perdure.cli.check import open_file
from perdure.errors import BadSettings, JournalCorrupt, OperatorError
from perdure.operations.backup import back_up
from perdure.operations.restore import restore
from perdure.operations.sizes import sizes
from perdure.store.sqlite import SqliteStore
from tests.host.stage import Stage
from tests.operations.shop import Account, Ledger

CLASSES = (Account, Ledger)
NAMES = "abcdefgh"


def stage_in(data: Path, **settings: Any) -> Stage:
    # No virtual time passes while a commit is under way.
    store = SqliteStore(data, commit_inline_ms=1e6)
    return Stage(*CLASSES, store=store, data=str(data), **settings)


async def all_states() -> dict[str, Any]:
    states: dict[str, Any] = {name: await Account.at(name).state() for name in NAMES}
    return {**states, "total": await Ledger.at("all").total()}


async def some_payments(random_: random.Random, count: int = 20) -> None:
    for _ in range(count):
        giver, taker = random_.sample(NAMES, 2)
        await Account.at(giver).pay(taker, random_.randrange(10))


def assert_sound(data: Path) -> None:
    with open_file(data) as file:
        assert file.check().findings == []


async def test_a_copy_of_a_running_store_is_of_one_moment(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    random_ = random.Random(1)
    async with stage_in(data) as stage:
        await some_payments(random_)
        await send(Account.at("a").remind, 1000.0)
        asking = asyncio.create_task(Account.at("b").ask())
        await asyncio.sleep(1)
        first = back_up(data, copy)
        assert first.whole
        states = await all_states()
        await some_payments(random_)
        asking.cancel()
        assert stage.host.stats().turns > 0
    assert_sound(copy)
    async with stage_in(copy):
        assert await all_states() == states
        await asyncio.sleep(2000)
        assert (await Account.at("a").state())[1] == ["reminded"]


@pytest.mark.parametrize("seed", range(4))
async def test_the_next_copy_brings_what_is_new_and_is_as_good(seed: int, tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    random_ = random.Random(seed)
    async with stage_in(data) as stage:
        for number in range(5):
            await some_payments(random_, 10)
            if random_.random() < 0.5:
                await stage.host.checkpointer.run()
            if random_.random() < 0.3:
                await stage.hibernate()
            if random_.random() < 0.3:
                await perdure.delete(Account.at(random_.choice(NAMES)))
            done = back_up(data, copy)
            assert done.whole == (number == 0)
            assert_sound(copy)
        states = await all_states()
        done = back_up(data, copy)
    async with stage_in(copy):
        assert await all_states() == states


async def test_the_cost_of_the_next_copy_is_that_of_what_changed(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with stage_in(data) as stage:
        await asyncio.gather(*(Ledger.at(f"l{n}").note(n) for n in range(500)))
        await stage.host.checkpointer.run()
        assert back_up(data, copy).objects == 500
        await Ledger.at("l7").note(1)
        await stage.host.checkpointer.run()
        assert back_up(data, copy).objects <= 2


async def test_directories_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with stage_in(tmp_path / "data"):
        await Account.at("a").pay("b", 1)
        assert back_up(Path("data"), Path("copy")).whole
        assert not back_up(Path("data"), Path("copy")).whole
    assert restore(Path("copy"), Path("again"), None).path == "again"
    assert_sound(Path("again"))


async def test_a_copy_of_another_store_is_not_touched(tmp_path: Path) -> None:
    for name in ("one", "two"):
        async with stage_in(tmp_path / name):
            await Ledger.at("l").note(1)
    back_up(tmp_path / "one", tmp_path / "copy")
    with pytest.raises(BadSettings, match="another store"):
        back_up(tmp_path / "two", tmp_path / "copy")
    with pytest.raises(BadSettings, match="the store itself"):
        back_up(tmp_path / "one", tmp_path / "one")
    with pytest.raises(BadSettings, match="no store"):
        back_up(tmp_path / "three", tmp_path / "copy")
    with pytest.raises(BadSettings, match="a store already"):
        restore(tmp_path / "copy", tmp_path / "two", None)


@pytest.mark.parametrize("seed", range(4))
async def test_a_store_goes_back_to_any_moment(seed: int, tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    random_ = random.Random(seed)
    moments: list[tuple[int, dict[str, Any]]] = []
    async with stage_in(data) as stage:
        for _ in range(6):
            await some_payments(random_, 10)
            if random_.random() < 0.4:
                await send(Account.at(random_.choice(NAMES)).remind, random_.uniform(5, 500))
            if random_.random() < 0.2:
                await perdure.delete(Account.at(random_.choice(NAMES)))
            await asyncio.sleep(random_.uniform(1, 100))
            moments.append((stage.clock.now_ns(), await all_states()))
            await asyncio.sleep(1)
            if random_.random() < 0.5:
                await stage.host.checkpointer.run()
        back_up(data, copy)
    for number, (when, states) in enumerate(moments):
        past = tmp_path / f"past{number}"
        done = restore(copy, past, when)
        assert_sound(past)
        async with stage_in(past) as stage:
            stage.clock.jump_ns = when - stage.clock.now_ns()
            assert await all_states() == states, number
            # It goes on from there.
            await Account.at("a").receive(1)
        async with stage_in(past):
            assert (await Account.at("a").state())[0] == states["a"][0] + 1
        assert done.objects >= 1


async def test_money_under_way_at_that_time_still_arrives(tmp_path: Path) -> None:
    """A cut between the sending and the receiving of a message, wherever it falls."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with stage_in(data) as stage:
        times = [stage.clock.now_ns()]
        for n in range(10):
            await Account.at("a").pay("b", n)
            times.append(stage.clock.now_ns())
            await asyncio.sleep(1e-6)
        back_up(data, copy)
    for number, when in enumerate(times):
        past = tmp_path / f"past{number}"
        restore(copy, past, when)
        async with stage_in(past):
            await asyncio.sleep(1)
            a, b = (await Account.at("a").state())[0], (await Account.at("b").state())[0]
            assert a + b == 200
            assert await Ledger.at("all").total() == 100 - a


async def test_what_is_no_longer_kept_cannot_be_gone_back_to(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with stage_in(data, history="none") as stage:
        await some_payments(random.Random(1))
        when = stage.clock.now_ns()
        await asyncio.sleep(10)
        await some_payments(random.Random(2))
        await stage.hibernate()
        await stage.host.checkpointer.run()
        await some_payments(random.Random(2))
        back_up(data, copy)
    with pytest.raises(OperatorError, match="cannot go back"):
        restore(copy, tmp_path / "past", when)
    assert not (tmp_path / "past" / "perdure.db").exists()
    restore(copy, tmp_path / "now", None)
    assert_sound(tmp_path / "now")


def damage_of(how: str, body: bytes) -> bytes:
    match how:
        case "empty":
            return b""
        case "no database":
            return bytes(range(256)) * 40
        case "cut":
            return body[: len(body) // 2]
        case "a name in the schema":
            return body.replace(b"CREATE TABLE segment", b"CREATE TABLE \xd3\xd3gment")
        case _:
            at = body.index(b"CREATE INDEX")
            return body[:at] + b"\xd3" * 12 + body[at + 12 :]


@pytest.mark.parametrize(
    "how", ["empty", "no database", "cut", "a name in the schema", "text in the schema"]
)
async def test_a_damaged_store_is_named_and_not_the_copy_of_it(how: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with stage_in(data):
        await Account.at("a").state()
        await Account.at("a").pay("b", 1)
    back_up(data, tmp_path / "sound")
    store = data / "perdure.db"
    store.write_bytes(damage_of(how, (tmp_path / "sound" / "perdure.db").read_bytes()))
    for path in data.glob("perdure.db-*"):
        path.unlink()
    works: list[Callable[[], object]] = [
        lambda: back_up(data, tmp_path / "new"),
        lambda: back_up(data, tmp_path / "sound"),
        lambda: restore(data, tmp_path / "restored", None),
        lambda: sizes(data, 10),
    ]
    for work in works:
        with pytest.raises(JournalCorrupt) as caught:
            work()
        assert caught.value.message.startswith(f"{store}: ")
        assert caught.value.hint is not None
    with pytest.raises(JournalCorrupt), open_file(data) as file:
        file.check()
