"""What 0.1 has on disk as it was published is read for ever: `v0_1_schema2/` (make_schema2.py).

As in test_golden.py: where something fails here the code is to be mended, and never the file. A
kind of event or command, a field, a table or a slot of the memory that is added needs golden files
of its own, in a folder beside this one.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from perdure import Promise
from perdure.errors import JournalCorrupt, SchemaTooNew
from perdure.host.upgrades import begin_from, having, settle
from perdure.journal import codec, entry
from perdure.journal.identity import oid_of
from perdure.past import extract, planting
from perdure.past.record import record_of
from perdure.past.state import state_of
from perdure.past.walk import walk
from perdure.ref import parse_address
from perdure.sight.waits import tell_waits
from perdure.store.sqlite import SqliteStore
from perdure.suspend import bundles, codes, heap, layout, probe
from perdure.testing.virtual import run_virtual
from tests.golden import make
from tests.golden.make_schema2 import (
    AHEAD_S,
    EXPORTED,
    PYTHON,
    TEXT,
    Shop,
    data_directory,
    kept_turns,
    last_turns,
    past_of,
    shop,
    text_of,
)
from tests.golden.test_golden import assert_is

FOLDER = Path(__file__).parent / "v0_1_schema2"

JOURNAL = json.loads((FOLDER / "journal.json").read_text(encoding="utf-8"))
DATA = json.loads((FOLDER / "data.json").read_text(encoding="utf-8"))
MESSAGES = sorted(name for name in JOURNAL if name.startswith("message-"))
PYTHONS = [f"{major}.{minor}" for major, minor in layout.KNOWN]

FROM_THE_FIRST_TURN = "DELETE FROM snapshot; UPDATE object SET seq = 0;"

needs_suspended_code = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


def suspended(python: str) -> str:
    """What one Python kept of code that waits, as statements."""
    return (FOLDER / f"snapshots-{python}.sql").read_text(encoding="utf-8")


STARTS: dict[str, str] = {
    "from snapshots": "",
    "from the first turn": FROM_THE_FIRST_TURN,
    **{f"from code suspended by {python}": suspended(python) for python in PYTHONS},
}


# --- journal bytes


def read_one(name: str, data: bytes) -> Any:
    if name == "chunk":
        return list(codec.read_entries(data, "the place"))
    return codec.read_message(data, "the place")


@pytest.mark.parametrize("name", ["chunk", *MESSAGES])
def test_journal_bytes_are_read(name: str) -> None:
    assert_is(read_one(name, (FOLDER / f"{name}.bin").read_bytes()), JOURNAL[name])


@pytest.mark.parametrize("name", ["chunk", *MESSAGES])
def test_damaged_journal_bytes_are_refused_with_their_place(name: str) -> None:
    data = (FOLDER / f"{name}.bin").read_bytes()
    for at in range(len(data)):
        with pytest.raises((JournalCorrupt, SchemaTooNew), match="the place"):
            read_one(name, data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        with pytest.raises(JournalCorrupt, match="the place"):
            read_one(name, data[:at])


def fields_set(told: Any) -> Iterator[tuple[str, str]]:
    """(class, field) of everything in a golden journal.json that is not as by default."""
    if isinstance(told, list):
        for one in told:
            yield from fields_set(one)
    elif isinstance(told, dict):
        cls = getattr(entry, str(told.get("is")), None) or getattr(codec, str(told.get("is")), None)
        by_name = {field.name: field for field in msgspec.structs.fields(cls)} if cls else {}
        for name, value in told.items():
            if name in by_name and value != make.plain(_default_of(by_name[name])):
                yield str(told["is"]), name
            yield from fields_set(value)


def _default_of(field: Any) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return object() if field.default is msgspec.NODEFAULT else field.default


EVENTS = [kind.__name__ for kind in get_args(entry.Event)]
COMMANDS = [kind.__name__ for kind in get_args(entry.Command)]
EVERY_FIELD = [
    (cls.__name__, name)
    for cls in (
        *get_args(entry.Event), *get_args(entry.Command), entry.Entry, entry.Tick, entry.MessageId
    )
    for name in cls.__struct_fields__
]  # fmt: skip


def test_every_kind_and_every_field_has_golden_bytes() -> None:
    # Of any release: what comes later has its bytes in a folder of its own.
    found: set[tuple[str, str]] = set()
    for path in FOLDER.parent.glob("*/journal.json"):
        found.update(fields_set(json.loads(path.read_text(encoding="utf-8"))))
    assert [field for field in EVERY_FIELD if field not in found] == []
    sent = get_args(msgspec.structs.fields(entry.Sent)[1].type)
    assert {f"message-{kind.__name__.lower()}" for kind in sent} == set(MESSAGES)


def test_every_kind_occurs_in_the_data_directory() -> None:
    # Of this release: what came later occurs in a directory of its own.
    later = json.loads((FOLDER.parent / "v0_1_uploads" / "data.json").read_text(encoding="utf-8"))
    past = [*DATA.values(), *later.values()]
    found = {word for one in past for turn in one["turns"] for word in turn.split()}
    assert [kind for kind in (*EVENTS, *COMMANDS) if kind not in found] == []


def test_every_table_has_rows_in_the_data_directory(tmp_path: Path) -> None:
    async def tables_now() -> list[str]:
        store = SqliteStore(tmp_path / "new")
        await store.open("look")
        await store.close()
        return tables(sqlite3.connect(tmp_path / "new" / "perdure.db"))

    def tables(connection: sqlite3.Connection) -> list[str]:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name for (name,) in found.fetchall()]

    (tmp_path / "new").mkdir()
    directory = data_directory(FOLDER, tmp_path / "data", suspended("3.11"))
    connection = sqlite3.connect(directory / "perdure.db")
    empty = [
        name
        for name in run_virtual(tables_now())
        if not connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
    ]
    connection.close()
    # Snapshots on the way through a long past: caches, which this past is too short for.
    assert empty == ["waypoint"]


def test_the_code_of_now_is_that_of_the_data(tmp_path: Path) -> None:
    """workshop.py has not been changed, and both bundles are read."""
    connection = sqlite3.connect(data_directory(FOLDER, tmp_path) / "perdure.db")
    found = [
        bundles.read(version, bundle)
        for version, bundle in connection.execute(
            "SELECT version, bundle FROM version ORDER BY created"
        )
    ]
    connection.close()
    assert [one.modules for one in found] == [
        {"workshop": text_of(release)["workshop.py"]} for release in ("before", "now")
    ]
    assert found[-1].modules["workshop"] == TEXT.read_text(encoding="utf-8")
    assert found[-1].classes["Order"] == "workshop:Order"


# --- the data directory


Script = Callable[[Shop], Coroutine[Any, Any, None]]


def play(tmp_path: Path, more: str, script: Script, ahead_s: float = AHEAD_S) -> None:
    """Run a script on a node that is started on a copy of the data directory."""

    async def main() -> None:
        directory = data_directory(FOLDER, tmp_path / "data", more)
        async with shop(tmp_path / "app", directory, ahead_s=ahead_s) as stage:
            await script(stage)

    run_virtual(main())


@needs_suspended_code
@pytest.mark.parametrize("start", STARTS)
def test_the_past_of_every_object_is_what_it_was(tmp_path: Path, start: str) -> None:
    async def script(stage: Shop) -> None:
        there = await last_turns(FOLDER)
        assert await past_of(stage, there) == DATA
        aside = stage.host.quarantine.objects
        assert [json.loads(one)["object"] for one in aside.values()] == ["Order/aside"]

    play(tmp_path, STARTS[start], script)


LATER = {
    "Order/sleeps": ["begun now", "while it sleeps", "ended now"],
    "Order/promised": ["approved by eve"],
    "Order/unpaid": ["paid"],
    "Order/queues": ["consumed [0, 1]"],
    "Order/old": ["begun before", "touched", "ended before"],
    "Order/moved": ["consumed [0, 1]"],
    "Order/aside": ["fine", "are you there?"],
    "Order/copy": [],
    "Order/stubborn": ["undone slowly"],
    "Order/alarmed": ["rung 0", "rung 2"],
    "Order/limited": ["begun now", "cancelled", "undone"],
    "Gate/parks": ["first", "planned"],
    "Slow/s": ["created", "hello"],
    "Room/t": ["+c1", "-c1 1006"],
    "Gate/one": ["a", "b", "c", "d", "e"],
    "Teller/ear": [0, 1, 2, 3],
    "Teller/mouth": [3],
}


async def told(stage: Shop) -> dict[str, Any]:
    """What those objects say of themselves; not that a later perdure took them over."""
    found = {address: await stage.at(address).read() for address in LATER}
    return {
        address: [line for line in lines if line != "upgraded to now"]
        for address, lines in found.items()
    }


@needs_suspended_code
@pytest.mark.parametrize("start", STARTS)
def test_what_waited_goes_on(tmp_path: Path, start: str) -> None:
    async def script(stage: Shop) -> None:
        stage.host.quarantine.watched.clear()
        stage.host.quarantine.retry("Order", "aside")
        token = DATA["Order/promised"]["state"]["token"]
        await Promise.resolve(token, stage.app.module.Approval(True, "eve"))
        await stage.at("Order/unpaid").put("done", 100)
        again = await stage.call("Order/a", "put", b'["sent", 8]', idempotency_key="once",
                                 principal="ada")  # fmt: skip
        assert (again.replayed, again.body) == (True, b"8")
        found = [one.key for one in await stage.app.module.Order.find(status="lost")]
        assert found == ["n"]
        await asyncio.sleep(17_000)
        assert await told(stage) == LATER
        # All whose sockets were lost with the process were told, each once.
        lost = (await stage.at("Room/r").read())[len(DATA["Room/r"]["state"]["log"]) :]
        assert lost == ["-c10 1006", "-c1 1006"]
        assert await stage.at("Diary/d").read() == ["a", "late", "every morning", "later"]
        # And all of it is there over the next start.
        await stage.host.checkpointer.run()
        await stage.leave()
        await stage.start()
        assert await told(stage) == LATER

    play(tmp_path, STARTS[start], script)


# --- suspended code


def rows_of(python: str) -> dict[int, tuple[int, bytes]]:
    """(seq, body) by object of what one Python kept."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE suspended (oid, seq, body)")
    connection.executescript(suspended(python))
    found = connection.execute("SELECT oid, seq, body FROM suspended").fetchall()
    connection.close()
    return {oid: (seq, body) for oid, seq, body in found}


def waits_of(machine: Any) -> list[Any]:
    names = ("task", "call_id", "handler", "began", "since", "until", "deadline", "waiting_on")
    return [[wait[name] for name in names] for wait in tell_waits(machine)]


def test_each_python_has_its_own_and_they_are_of_the_same_objects() -> None:
    assert {frozenset(rows_of(python)) for python in PYTHONS} == {frozenset(rows_of("3.11"))}
    assert all(
        heap.is_suspended(body) for python in PYTHONS for _, body in rows_of(python).values()
    )


@needs_suspended_code
@pytest.mark.parametrize("python", PYTHONS)
def test_suspended_code_is_loaded_by_its_python_and_refused_by_others(
    tmp_path: Path, python: str
) -> None:
    async def script(stage: Shop) -> None:
        rows = rows_of(python)
        for address in kept_turns(FOLDER):
            if oid_of(*parse_address(address)) not in rows:
                continue
            seq, body = rows[oid_of(*parse_address(address))]
            record = await record_of(stage.host, address)
            machine, copy = await walk(record, seq), record.machine()
            try:
                if python != PYTHON:
                    with pytest.raises(codes.CodeChanged, match="another Python"):
                        heap.load_heap(copy, body)
                    continue
                begin_from(copy, body, seq)
                await having(copy, functools.partial(settle, copy))
                # Not the whole heaps: pytest rewrites code of perdure that is suspended in them.
                assert state_of(copy) == state_of(machine)
                assert waits_of(copy) == waits_of(machine)
                assert (copy.seq, copy.wake_at()) == (seq, machine.wake_at())
            finally:
                machine.discard()
                copy.discard()

    play(tmp_path, FROM_THE_FIRST_TURN, script)


def test_damaged_suspended_code_is_refused() -> None:
    _, body = max(rows_of(PYTHON).values(), key=lambda row: len(row[1]))
    machine = make.keeper()
    for at in range(len(body)):
        with pytest.raises((JournalCorrupt, SchemaTooNew), match="the snapshot of Keeper/k"):
            heap.load_heap(machine, body[:at] + bytes([body[at] ^ 0x41]) + body[at + 1 :])
        with pytest.raises(JournalCorrupt, match="the snapshot of Keeper/k"):
            heap.load_heap(machine, body[:at])


@needs_suspended_code
def test_every_slot_of_the_memory_is_in_a_golden_snapshot(tmp_path: Path) -> None:
    found: set[str] = set()

    async def script(stage: Shop) -> None:
        connection = sqlite3.connect(tmp_path / "data" / "perdure.db")
        bodies = dict(connection.execute("SELECT oid, body FROM snapshot").fetchall())
        connection.close()
        kept = [bodies, {oid: body for oid, (_, body) in rows_of(PYTHON).items()}]
        for address in kept_turns(FOLDER):
            oid = oid_of(*parse_address(address))
            for body in [table[oid] for table in kept if oid in table]:
                machine = (await record_of(stage.host, address)).machine()
                try:
                    await having(machine, functools.partial(begin_from, machine, body, 0))
                    await having(machine, functools.partial(settle, machine))
                    found.update(name for name in heap.STATE if getattr(machine, name))
                finally:
                    machine.discard()

    play(tmp_path, "", script)
    # `uploads` came later, and is in golden snapshots of its own (test_uploads.py).
    assert [name for name in heap.STATE if name not in found] == ["uploads"]


# --- the export


def exported() -> extract.Export:
    return extract.read((FOLDER / "objects.perdure").read_bytes(), "the place")


def test_the_export_is_read() -> None:
    found = exported()
    assert [one.address for one in found.objects] == list(EXPORTED)
    assert len(found.versions) == 2
    for one in found.objects:
        past = DATA[one.address]
        assert [turn.seq for turn in one.entries()] == list(range(1, past["seq"] + 1))
        assert one.last == past["seq"]
        assert one.state == past["state"]
    assert found.objects[0].blobs


@needs_suspended_code
def test_the_export_is_imported_and_its_objects_live(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "data").mkdir()
        async with shop(tmp_path / "app", tmp_path / "data", ahead_s=AHEAD_S) as stage:
            await planting.bring_in(stage.host, exported(), None)
            there = {address: DATA[address]["seq"] for address in EXPORTED}
            # Turn by turn as they were, out of the turns in the file.
            assert await past_of(stage, there) == {name: DATA[name] for name in EXPORTED}
            await planting.release(stage.host, "Order/old")
            assert await stage.at("Order/a").put("brought", 12) == 12
            await asyncio.sleep(17_000)
            assert (await stage.at("Order/old").read())[-1] == "ended before"

    run_virtual(main())


def test_a_damaged_export_is_refused() -> None:
    data = (FOLDER / "objects.perdure").read_bytes()
    for at in [*range(40), *range(40, len(data), 211)]:
        with pytest.raises((JournalCorrupt, SchemaTooNew), match="the place"):
            extract.read(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :], "the place")
        with pytest.raises(JournalCorrupt, match="the place"):
            extract.read(data[:at], "the place")
