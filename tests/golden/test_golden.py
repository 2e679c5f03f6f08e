"""What every release wrote is read for ever: the files beside this, as they were made (make.py).

What stands in a golden file must never change afterwards. A test that fails here says that users
of that release would lose what they have; the code is to be mended, and never the file.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.errors import JournalCorrupt, ObjectQuarantined, SchemaTooNew
from perdure.host.machine import Machine
from perdure.journal import codec, entry
from perdure.store.sqlite_file import DATABASE
from perdure.suspend import heap
from perdure.testing.virtual import START_NS
from tests.golden import make
from tests.golden.app import Account, Gate
from tests.host.stage import eventually

V0_1 = Path(__file__).parent / "v0_1"

JOURNAL = json.loads((V0_1 / "journal.json").read_text(encoding="utf-8"))
SNAPSHOTS = json.loads((V0_1 / "snapshots.json").read_text(encoding="utf-8"))
DATA = json.loads((V0_1 / "data.json").read_text(encoding="utf-8"))


def assert_is(value: Any, expected: Any) -> None:
    """Field by field; a field that came later has its default."""
    if isinstance(value, msgspec.Struct):
        assert type(value).__name__ == expected["is"]
        for field in msgspec.structs.fields(type(value)):
            found = getattr(value, field.name)
            if field.name in expected:
                assert_is(found, expected[field.name])
            else:
                assert found == field.default
        assert expected.keys() - {"is"} <= set(value.__struct_fields__)
    elif isinstance(value, list | tuple):
        assert len(value) == len(expected)
        for one, other in zip(value, expected, strict=True):
            assert_is(one, other)
    else:
        assert make.plain(value) == expected


# --- journal bytes


def read_frames(data: bytes) -> list[tuple[int, entry.Entry]]:
    return list(codec.read_entries(data, "the place"))


def read_message(data: bytes) -> codec.Message:
    return codec.read_message(data, "the place")


READERS: dict[str, Callable[[bytes], Any]] = {
    "chunk": read_frames,
    "segment": read_frames,
    "message": read_message,
}


@pytest.mark.parametrize("name", READERS)
def test_journal_bytes_are_read(name: str) -> None:
    assert_is(READERS[name]((V0_1 / f"{name}.bin").read_bytes()), JOURNAL[name])


def test_every_kind_of_event_and_command_of_the_release_is_there() -> None:
    kinds = {type(one.event).__name__ for one in make.entries()}
    assert {frame[1]["event"]["is"] for frame in JOURNAL["chunk"]} <= kinds
    commands = {one["is"] for frame in JOURNAL["chunk"] for one in frame[1]["commands"]}
    assert commands == {"Answered", "Sent", "StepAsked", "StepDropped"}


@pytest.mark.parametrize("name", READERS)
def test_damaged_journal_bytes_are_refused_with_their_place(name: str) -> None:
    data = (V0_1 / f"{name}.bin").read_bytes()
    for at in range(len(data)):
        with pytest.raises((JournalCorrupt, SchemaTooNew), match="the place"):
            READERS[name](data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        with pytest.raises(JournalCorrupt, match="the place"):
            READERS[name](data[:at])


# --- snapshots


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshots_are_loaded(name: str) -> None:
    machine = make.keeper()
    heap.load_heap(machine, (V0_1 / f"{name}.snapshot").read_bytes())
    assert machine.seq == 1
    assert machine.quiescent()
    assert machine.reloaded == (name == "sets")
    assert make.ask(machine, "tell") == SNAPSHOTS[name]


def test_what_a_snapshot_holds_works() -> None:
    machine = make.keeper()
    heap.load_heap(machine, (V0_1 / "waits.snapshot").read_bytes())
    instance: Any = machine.instance
    instance.future.set_result(1)
    assert instance.future.result() == 1
    instance.queue.put_nowait(3)
    assert instance.queue.full()
    machine = make.keeper()
    heap.load_heap(machine, (V0_1 / "timer.snapshot").read_bytes())
    machine.turn(entry.Fired(), START_NS + 60 * 10**9)
    assert make.ask(machine, "tell", time_ns=machine.now_ns) == {"rung": True}


def damaged(data: bytes) -> list[bytes]:
    flipped = [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    ]
    return [*flipped, *(data[:end] for end in range(len(data)))]


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_damaged_snapshots_are_refused_with_their_object(name: str) -> None:
    machine: Machine = make.keeper()
    for data in damaged((V0_1 / f"{name}.snapshot").read_bytes()):
        with pytest.raises((JournalCorrupt, SchemaTooNew), match="the snapshot of Keeper/k"):
            heap.load_heap(machine, data)


# --- a data directory


def data_directory(tmp_path: Path, *changes: str) -> Path:
    """A copy of the data directory, after some statements."""
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.executescript((V0_1 / "data.sql").read_text(encoding="utf-8"))
    for change in changes:
        assert connection.execute(change).rowcount > 0, change
    connection.commit()
    connection.close()
    return tmp_path


FROM_THE_FIRST_TURN = ("DELETE FROM snapshot", "UPDATE object SET seq = 0")


@pytest.mark.parametrize(
    "changes", [(), FROM_THE_FIRST_TURN], ids=["from snapshots", "from the first turn"]
)
def test_the_objects_of_a_data_directory_are_what_they_were(
    tmp_path: Path, changes: tuple[str, ...]
) -> None:
    async def main() -> None:
        stage = make.DataStage(data_directory(tmp_path, *changes), ahead_s=60)
        await stage.start()
        assert await make.answers(stage) == DATA
        assert stage.host.quarantine.objects == {}
        # The idempotency key is known, and a call that was kept can be asked for.
        again = await stage.call("Account/ada", "deposit", '{"amount": 20}', idempotency_key="once")
        assert (again.replayed, again.body) == (True, b"520")
        # Life goes on, over the next restart as well.
        amount = DATA["Account/ada"]["amount"]
        assert await Account.at("ada").deposit(1) == amount + 1
        await stage.host.checkpointer.run()
        await stage.leave()
        await stage.start()
        assert (await Account.at("ada").read())["amount"] == amount + 1
        await stage.leave()

    asyncio.run(main())


@pytest.mark.parametrize(
    "changes", [(), FROM_THE_FIRST_TURN], ids=["from snapshots", "from the first turn"]
)
def test_what_waited_goes_on_when_its_time_has_come(
    tmp_path: Path, changes: tuple[str, ...]
) -> None:
    async def main() -> None:
        stage = make.DataStage(data_directory(tmp_path, *changes), ahead_s=7200)
        await stage.start()
        await eventually(lambda: not stage.host.sleepers.times)
        assert (await Account.at("sleeper").read())["notes"] == ["awake"]
        assert (await Account.at("ada").read())["notes"][-1] == "reminded"
        await Gate.at("one").go("f", 0)
        assert await Gate.at("one").read() == [*DATA["Gate/one"], "d", "e", "f"]
        await stage.leave()

    asyncio.run(main())


def flip(table: str, column: str, where: str) -> str:
    """A statement that flips the last byte of a blob."""
    last = f"substr({column}, -1)"
    other = f"CASE {last} WHEN x'2e' THEN x'2f' ELSE x'2e' END"
    whole = f"substr({column}, 1, length({column}) - 1)"
    # Two blobs that are joined are text to SQLite; the cast makes them bytes again.
    return f"UPDATE {table} SET {column} = CAST({whole} || {other} AS BLOB) WHERE {where}"


ADA = "oid = (SELECT oid FROM object WHERE key = 'ada')"


@pytest.mark.parametrize(
    ("change", "error", "place"),
    [
        (
            flip("chunk", "body", "id = (SELECT max(id) FROM chunk)"),
            JournalCorrupt,
            r"journal of partition 0, chunk \d+: its checksum does not match",
        ),
        (
            "DELETE FROM chunk WHERE id = (SELECT max(id) - 1 FROM chunk)",
            JournalCorrupt,
            r"perdure.db: chunk \d+ of partition 0 is missing",
        ),
        (
            "INSERT INTO outbox VALUES (0, 1, x'704d01000000')",
            JournalCorrupt,
            "outbox of partition 0: only 6 bytes are there",
        ),
        ("UPDATE meta SET value = 99 WHERE name = 'schema'", SchemaTooNew, "schema is 99"),
    ],
    ids=["a chunk", "a gap", "the outbox", "a newer schema"],
)
def test_a_damaged_data_directory_is_not_started(
    tmp_path: Path, change: str, error: type[Exception], place: str
) -> None:
    async def main() -> None:
        stage = make.DataStage(data_directory(tmp_path, change))
        try:
            with pytest.raises(error, match=place):
                await stage.start()
        finally:
            await stage.store.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ((flip("snapshot", "body", ADA),), "the snapshot of Account/ada is damaged"),
        (
            (*FROM_THE_FIRST_TURN, flip("segment", "body", ADA)),
            r"history of Account/ada, turns 1 to \d+: its checksum does not match",
        ),
    ],
    ids=["a snapshot", "a segment"],
)
def test_a_damaged_object_is_set_aside_and_the_others_go_on(
    tmp_path: Path, changes: tuple[str, ...], place: str
) -> None:
    async def main() -> None:
        stage = make.DataStage(data_directory(tmp_path, *changes), ahead_s=60)
        await stage.start()
        with pytest.raises(ObjectQuarantined, match=place):
            await Account.at("ada").read()
        assert await Account.at("bob").read() == DATA["Account/bob"]
        await stage.leave()

    asyncio.run(main())
