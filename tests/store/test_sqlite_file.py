"""The file itself: what is refused, what is found damaged, who may read it."""

from __future__ import annotations

import random
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from perdure.errors import BadSettings, JournalCorrupt, OperatorError, SchemaTooNew, StoreBusy
from perdure.settings import Settings
from perdure.store import open_store, prepare
from perdure.store.base import SCHEMA_VERSION, Batch, Checkpoint, ObjectFilter, Segment
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_sql import behind_prefix
from tests.contract.fence import row

PAGE = 4096


async def fill(directory: Path) -> None:
    """A store with something in every table, closed."""
    store = SqliteStore(directory)
    await store.open("node")
    (claim,) = await store.claim([0])
    for lsn in range(1, 40):
        await store.commit([Batch(0, claim.epoch, lsn, b"%d" % lsn * 700)])
    rows = [
        row(oid, seq=1, last=2, wake_at=oid % 3, snapshot=bytes(oid * 20), version="v1")
        for oid in range(1, 200)
    ]
    segments = [Segment(oid, 1, 2, b"%d" % oid * 50) for oid in range(1, 200)]
    await store.checkpoint(Checkpoint(0, claim.epoch, rows, segments, 9, [b"m" * 500] * 9))
    await store.put_version("v1", bytes(20_000), 1)
    await store.close()


async def read_everything(directory: Path) -> None:
    """Open the store and use each table."""
    store = SqliteStore(directory)
    await store.open("node")
    try:
        (claim,) = await store.claim([0])
        await store.tail(0, 0)
        await store.scan(ObjectFilter(), None, 1000)
        await store.scan(ObjectFilter(status="quarantined"), None, 1000)
        await store.due([0], 10, 1000)
        for oid in range(1, 200):
            await store.load(0, oid)
            await store.history(0, oid, 0, 10)
        await store.get_version("v1")
        for lsn in range(claim.tail + 1, claim.tail + 20):
            await store.commit([Batch(0, claim.epoch, lsn, bytes(9000))])
        await store.checkpoint(Checkpoint(0, claim.epoch, [row(5)], upto=claim.tail))
    finally:
        await store.close()


async def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    await store.open("node")
    await store.claim([0])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert modes == dict.fromkeys(("lock", "perdure.db", "perdure.db-wal", "perdure.db-shm"), 0o600)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    await store.close()


async def test_a_second_store_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path)
    await first.open("node")
    with pytest.raises(StoreBusy, match="in use by process"):
        await SqliteStore(tmp_path).open("node")
    # The refused one has disturbed nothing, and the first can be opened again later.
    assert (await first.claim([0]))[0].epoch == 1
    await first.close()
    await first.open("node")
    assert (await first.claim([0]))[0].epoch == 2
    await first.close()


async def test_two_stores_have_different_seeds_and_secrets(tmp_path: Path) -> None:
    layouts = []
    for name in ("a", "b"):
        store = SqliteStore(tmp_path / name)
        layouts.append(await store.open("node"))
        await store.close()
    assert layouts[0].partitions == layouts[1].partitions == 1
    assert layouts[0].hash_seed != layouts[1].hash_seed
    assert layouts[0].secret != layouts[1].secret


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / "perdure.db") as shell:
        shell.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (SCHEMA_VERSION + 1,))
    shell.close()
    before = (tmp_path / "perdure.db").read_bytes()
    with pytest.raises(SchemaTooNew, match=f"its schema is {SCHEMA_VERSION + 1}"):
        await SqliteStore(tmp_path).open("node")
    assert (tmp_path / "perdure.db").read_bytes() == before


async def test_a_creation_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "perdure.db").touch()
    await fill(tmp_path)
    await read_everything(tmp_path)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "perdure.db").write_bytes(b"my thesis, the only copy" * 1000)
    with pytest.raises(JournalCorrupt, match=r"perdure\.db: file is not a database") as caught:
        await SqliteStore(tmp_path).open("node")
    assert "copy the whole directory" in str(caught.value)
    assert (tmp_path / "perdure.db").read_bytes().startswith(b"my thesis")
    # It holds nothing on to the directory.
    (tmp_path / "perdure.db").unlink()
    await fill(tmp_path)


async def test_what_is_another_programs_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "perdure.db") as shell:
        shell.execute("CREATE TABLE thesis (chapter)")
    shell.close()
    with pytest.raises(JournalCorrupt, match="no store of perdure"):
        await SqliteStore(tmp_path).open("node")


@pytest.mark.parametrize("missing", [10, 20, 39])
async def test_a_chunk_that_is_missing_is_named(tmp_path: Path, missing: int) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / "perdure.db") as shell:
        shell.execute("DELETE FROM chunk WHERE id = ?", (missing,))
    shell.close()
    store = SqliteStore(tmp_path)
    await store.open("node")
    with pytest.raises(JournalCorrupt, match=rf"perdure\.db: chunk {missing} of partition 0"):
        await store.tail(0, 0)
    await store.close()


@pytest.mark.parametrize("garbage", ["ones", "zeros", "chance"])
async def test_a_damaged_page_is_said_so_or_holds_only_opaque_bytes(
    tmp_path: Path, garbage: str
) -> None:
    await fill(tmp_path / "whole")
    whole = (tmp_path / "whole" / "perdure.db").read_bytes()
    chance = random.Random(1)
    found = 0
    for number in range(len(whole) // PAGE):
        page = {"ones": b"\xff" * PAGE, "zeros": bytes(PAGE), "chance": chance.randbytes(PAGE)}
        start = number * PAGE
        damaged = whole[:start] + page[garbage] + whole[start + PAGE :]
        directory = tmp_path / "damaged"
        directory.mkdir()
        (directory / "perdure.db").write_bytes(damaged)
        try:
            await read_everything(directory)
        except JournalCorrupt:
            found += 1
        shutil.rmtree(directory)
    assert found > 10


def test_the_settings_name_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(Settings(store="memory:")), MemoryStore)
    assert isinstance(open_store(Settings(data=str(tmp_path))), SqliteStore)
    assert isinstance(open_store(Settings(store=f"sqlite:{tmp_path}")), SqliteStore)


@pytest.mark.parametrize("url", ["postgres://db", "sqlite:", "sqlite", "memory:x", "", "/tmp"])
def test_an_unknown_store_is_refused_with_those_that_are_known(url: str) -> None:
    with pytest.raises(BadSettings, match="no store is known for") as caught:
        open_store(Settings(store=url))
    assert caught.value.hint is not None
    assert "sqlite:DIR" in caught.value.hint
    with pytest.raises(BadSettings):
        prepare(Settings(store=url))


async def test_preparing_tells_what_opening_will(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "data"))
    layout = prepare(settings)
    assert prepare(settings) == layout
    store = open_store(settings)
    assert await store.open("node") == layout
    with pytest.raises(StoreBusy):
        prepare(settings)
    await store.close()
    with pytest.raises(OperatorError):
        prepare(Settings(data=str(tmp_path / "data" / "perdure.db")))


async def test_a_store_in_memory_takes_the_seed_its_process_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(store="memory:")
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    assert (await open_store(settings).open("node")).hash_seed == 77
    for other in ("random", "0"):
        monkeypatch.setenv("PYTHONHASHSEED", other)
        assert prepare(settings).hash_seed > 0


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("", None), ("a", "b"), ("a\U0010ffff", "b"), ("\U0010ffff", None), ("\ud7ff", "\ue000")],
)
def test_the_end_of_a_prefix(prefix: str, end: str | None) -> None:
    assert behind_prefix(prefix) == end
