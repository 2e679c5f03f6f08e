"""What the embedded store promises beyond the contract: threads, full disks, its WAL."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from perdure.errors import OperatorError, StoreFull, StoreUnavailable
from perdure.store import sqlite
from perdure.store.base import Batch, Checkpoint, Segment
from perdure.store.sqlite import SqliteStore
from tests.contract.fence import row

INLINE = 1e9
MB = 1024 * 1024


class Disk:
    """A disk as slow as a test wants: the clock moves while a commit runs, and at no other time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.commit_s = 0.0
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def before_commit(self) -> None:
        self.threads.append(threading.get_ident())
        self.now_s += self.commit_s
        assert self.gate.wait(60)

    def options(self) -> dict[str, Any]:
        return {"before_commit": self.before_commit, "monotonic": lambda: self.now_s}


@asynccontextmanager
async def opened(directory: Path, **options: Any) -> Any:
    """A store with its partition claimed, and closed at the end."""
    store = SqliteStore(directory, **options)
    await store.open("node")
    try:
        yield Owner(store, (await store.claim([0]))[0])
    finally:
        await store.close()


class Owner:
    """The owner of partition 0, who counts."""

    def __init__(self, store: SqliteStore, claim: Any) -> None:
        self.store = store
        self.epoch = claim.epoch
        self.tail = claim.tail

    def commit(self, chunk: bytes = b"chunk") -> asyncio.Future[frozenset[int]]:
        self.tail += 1
        return self.store.commit([Batch(0, self.epoch, self.tail, chunk)])

    async def commit_many(self, count: int, chunk: bytes) -> None:
        """Ends where one is refused, which then does not count."""
        try:
            for _ in range(count):
                assert await self.commit(chunk) == {0}
        except StoreFull:
            self.tail -= 1
            raise


def wal_of(directory: Path) -> Path:
    return directory / "perdure.db-wal"


# -- which thread


async def test_commits_run_here_while_the_disk_is_fast(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, commit_inline_ms=0.5, **disk.options()) as owner:
        disk.commit_s = 0.0004
        for _ in range(50):
            assert owner.commit().done()
        assert owner.store.stats().inline
        assert set(disk.threads) == {threading.get_ident()}
        assert owner.store.stats().commit_seconds == pytest.approx(50 * 0.0004)


async def test_commits_move_to_a_thread_and_back_with_the_disk(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, commit_inline_ms=0.5, **disk.options()) as owner:
        disk.commit_s = 0.002
        for _ in range(50):
            assert await owner.commit() == {0}
        assert not owner.store.stats().inline
        disk.threads.clear()
        assert await owner.commit() == {0}
        assert threading.get_ident() not in disk.threads
        # Fast again: the probes, once a second, find it out.
        disk.commit_s = 0.0001
        for _ in range(20):
            disk.now_s += 0.5
            assert await owner.commit() == {0}
        assert owner.store.stats().inline
        assert owner.commit().done()
        assert len(await owner.store.tail(0, 0)) == owner.tail


async def test_a_load_does_not_wait_for_a_commit_in_the_thread(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, commit_inline_ms=0, **disk.options()) as owner:
        written = row(1, seq=1, snapshot=b"heap")
        assert await owner.store.checkpoint(Checkpoint(0, owner.epoch, [written]))
        disk.gate.clear()
        waiting = owner.commit()
        found = await owner.store.load(0, 1)
        assert found is not None
        assert found.row == written
        assert await owner.store.tail(0, 0) == []
        assert not waiting.done()
        disk.gate.set()
        assert await waiting == {0}


async def test_what_comes_during_a_write_in_the_thread_queues_behind_it(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, commit_inline_ms=INLINE, **disk.options()) as owner:
        large = [row(oid, seq=1, snapshot=bytes(1000)) for oid in range(1, 301)]
        slice_ = owner.store.checkpoint(Checkpoint(0, owner.epoch, large))
        # The slice is large, so it is in the thread, and so are the commits until it is done.
        first = owner.commit()
        small = owner.store.checkpoint(Checkpoint(0, owner.epoch, [row(1)], upto=1))
        assert not any(future.done() for future in (slice_, first, small))
        assert await small is True
        assert first.result() == {0}
        assert slice_.result() is True
        assert owner.commit().done()


async def test_a_caller_that_no_longer_waits_loses_nothing(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, commit_inline_ms=0, **disk.options()) as owner:
        disk.gate.clear()
        waiting = owner.commit(b"cancelled")
        waiting.cancel()
        disk.gate.set()
        assert await owner.commit(b"next") == {0}
        assert await owner.store.tail(0, 0) == [(1, b"cancelled"), (2, b"next")]


async def test_closing_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, commit_inline_ms=0, **disk.options()) as owner:
        disk.gate.clear()
        waiting = owner.commit()
        closing = asyncio.ensure_future(owner.store.close())
        await asyncio.sleep(0)
        assert not closing.done()
        disk.gate.set()
        await closing
        assert waiting.result() == {0}
        for late in (owner.commit(), owner.store.load(0, 1)):
            with pytest.raises(StoreUnavailable, match="closed"):
                await late
    async with opened(tmp_path) as owner:
        assert owner.tail == 1


@pytest.mark.parametrize("commit_inline_ms", [INLINE, 0])
def test_the_loop_may_be_uvloop(tmp_path: Path, commit_inline_ms: float) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, commit_inline_ms=commit_inline_ms) as owner:
            assert [await owner.commit() for _ in range(20)] == [{0}] * 20
            assert await owner.store.checkpoint(Checkpoint(0, owner.epoch, upto=20))
            assert await owner.store.load(0, 1) is None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


# -- the write-ahead log


@pytest.mark.parametrize("commit_inline_ms", [INLINE, 0])
async def test_the_write_ahead_log_is_begun_anew_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit_inline_ms: float
) -> None:
    monkeypatch.setattr(sqlite, "_WAL_PAGES", 100)
    async with opened(tmp_path, commit_inline_ms=commit_inline_ms) as owner:
        # There is always a commit on the way. After how many of them the log is begun anew is up
        # to the threads; that it is, is not.
        begun = times_begun(tmp_path)
        while times_begun(tmp_path) < begun + 5:
            assert await owner.commit(bytes(20_000)) == {0}
            await asyncio.sleep(0)
            assert owner.tail < 10_000
            # For the first few times by the commits alone.
            if owner.tail % 50 == 0 and times_begun(tmp_path) > begun + 2:
                upto = owner.tail - 5
                assert await owner.store.checkpoint(Checkpoint(0, owner.epoch, upto=upto))
        log = await owner.store.tail(0, 0)
        assert [lsn for lsn, _ in log] == list(range(owner.tail - len(log) + 1, owner.tail + 1))
        assert {chunk for _, chunk in log} == {bytes(20_000)}


def times_begun(directory: Path) -> int:
    """How often the write-ahead log was begun anew: a number in its header."""
    with wal_of(directory).open("rb") as log:
        return int.from_bytes(log.read(16)[12:], "big")


async def test_chunks_behind_the_checkpoint_are_swept_by_the_commits(tmp_path: Path) -> None:
    async with opened(tmp_path, commit_inline_ms=INLINE) as owner:
        for _ in range(100):
            await owner.commit()
        assert await owner.store.checkpoint(Checkpoint(0, owner.epoch, upto=95))
        with sqlite3.connect(tmp_path / "perdure.db") as shell:
            left = "SELECT count(*) FROM chunk"
            assert shell.execute(left).fetchone() == (100,)
            await owner.commit()
            assert shell.execute(left).fetchone() == (97,)
            for _ in range(23):
                await owner.commit()
            assert shell.execute(left).fetchone() == (124 - 95,)
            await owner.commit()
            assert shell.execute(left).fetchone() == (125 - 95,)
        shell.close()
        assert [lsn for lsn, _ in await owner.store.tail(0, 0)] == list(range(96, 126))


async def test_a_reader_in_the_way_only_delays_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_WAL_PAGES", 50)
    async with opened(tmp_path, commit_inline_ms=INLINE) as owner:
        shell = sqlite3.connect(tmp_path / "perdure.db")
        shell.execute("BEGIN")
        assert shell.execute("SELECT count(*) FROM chunk").fetchone() == (0,)
        for _ in range(200):
            assert await owner.commit(bytes(9000)) == {0}
            await asyncio.sleep(0)
        # It still sees what it saw at first; and nobody has waited for it.
        assert shell.execute("SELECT count(*) FROM chunk").fetchone() == (0,)
        shell.close()
        assert len(await owner.store.tail(0, 0)) == 200


async def test_nothing_is_left_of_the_log_after_closing(tmp_path: Path) -> None:
    async with opened(tmp_path) as owner:
        await owner.commit()
        assert wal_of(tmp_path).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "perdure.db"]


# -- when a write fails


async def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def strike() -> None:
        if failures:
            raise failures.pop()

    async with opened(tmp_path, commit_inline_ms=INLINE, before_commit=strike) as owner:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        failures.append(error)
        with pytest.raises(StoreUnavailable, match=r"perdure\.db.*SQLITE_IOERR_FSYNC"):
            await owner.commit(b"lost")
        assert await owner.store.tail(0, 0) == []
        failures.append(RuntimeError("a bug"))
        owner.tail -= 1
        with pytest.raises(RuntimeError, match="a bug"):
            await owner.commit(b"lost")
        owner.tail -= 1
        assert await owner.commit(b"kept") == {0}
        assert await owner.store.tail(0, 0) == [(1, b"kept")]


@pytest.mark.parametrize("commit_inline_ms", [INLINE, 0])
async def test_after_an_input_output_error_the_owner_claims_again(
    tmp_path: Path, commit_inline_ms: float
) -> None:
    async with opened(tmp_path, commit_inline_ms=commit_inline_ms) as owner:
        assert await owner.commit(b"before") == {0}
        # A limit on the size of files: to SQLite a write that fails, and not for want of room.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal_of(tmp_path).stat().st_size, before[1]))
        try:
            with pytest.raises(StoreUnavailable, match=r"perdure\.db.*SQLITE_IOERR_WRITE"):
                await owner.commit(b"unknown")
            assert await owner.store.tail(0, 0) == [(1, b"before")]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        (claim,) = await owner.store.claim([0])
        assert (claim.epoch, claim.tail) == (owner.epoch + 1, 1)
        again = Owner(owner.store, claim)
        assert await again.commit(b"after") == {0}
        assert await owner.commit(b"deposed") == frozenset()
        assert await owner.store.tail(0, 0) == [(1, b"before"), (2, b"after")]


async def test_another_program_that_writes_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.store.sqlite_file._BUSY_S", 0.0)
    async with opened(tmp_path, commit_inline_ms=INLINE) as owner:
        shell = sqlite3.connect(tmp_path / "perdure.db", isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await owner.commit()
        shell.execute("ROLLBACK")
        shell.close()
        owner.tail -= 1
        assert await owner.commit() == {0}


async def test_a_checkpoint_that_fails_drops_no_chunk(tmp_path: Path) -> None:
    async with opened(tmp_path, commit_inline_ms=INLINE) as owner:
        for _ in range(10):
            await owner.commit()
        wrong = Segment(1, None, 1, b"")  # type: ignore[arg-type]
        with pytest.raises(sqlite3.IntegrityError):
            await owner.store.checkpoint(Checkpoint(0, owner.epoch, [row(1)], [wrong], upto=10))
        with pytest.raises(AssertionError):
            await owner.store.checkpoint(Checkpoint(0, owner.epoch, upto=11))
        for _ in range(10):
            await owner.commit()
        assert await owner.store.load(0, 1) is None
        assert len(await owner.store.tail(0, 0)) == 20


async def check_that_a_full_disk_heals(owner: Owner, make_room: Any) -> None:
    """Write until it is full; then everything is refused and nothing lost, until there is room."""
    store = owner.store
    assert await store.checkpoint(Checkpoint(0, owner.epoch, [row(1, seq=1, snapshot=b"heap")]))
    with pytest.raises(StoreFull, match="no room left") as caught:
        await owner.commit_many(2000, bytes(5000))
    assert caught.value.hint is not None
    for write in (
        owner.store.commit([Batch(0, owner.epoch, owner.tail + 1, bytes(5000))]),
        store.checkpoint(Checkpoint(0, owner.epoch, [row(2, seq=1, snapshot=bytes(9 * MB))])),
        store.put_version("v1", bytes(9 * MB), 1),
    ):
        with pytest.raises(StoreFull):
            await write
    # Reads go on.
    assert [lsn for lsn, _ in await store.tail(0, 0)] == list(range(1, owner.tail + 1))
    found = await store.load(0, 1)
    assert found is not None
    assert found.row.snapshot == b"heap"
    assert await store.load(0, 2) is None
    make_room()
    # The same commit, with the same epoch and number.
    assert await owner.commit(b"healed") == {0}
    assert (await store.tail(0, owner.tail - 1)) == [(owner.tail, b"healed")]


@pytest.mark.parametrize("commit_inline_ms", [INLINE, 0])
async def test_a_database_at_its_bound_heals(tmp_path: Path, commit_inline_ms: float) -> None:
    async with opened(tmp_path, commit_inline_ms=commit_inline_ms) as owner:
        bound = owner.store._writer.execute
        bound("PRAGMA max_page_count = 300")
        await check_that_a_full_disk_heals(owner, lambda: bound("PRAGMA max_page_count = 1000000"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("commit_inline_ms", [INLINE, 0])
async def test_a_disk_that_is_really_full_heals(small_disk: Path, commit_inline_ms: float) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * MB))
    async with opened(small_disk / "data", commit_inline_ms=commit_inline_ms) as owner:
        await check_that_a_full_disk_heals(owner, ballast.unlink)
        tail = owner.tail
    async with opened(small_disk / "data") as owner:
        assert owner.tail == tail


async def test_what_was_refused_on_a_full_disk_is_not_there_after_a_crash(
    small_disk: Path, tmp_path: Path
) -> None:
    crashed = SqliteStore(small_disk / "data", commit_inline_ms=INLINE)
    await crashed.open("node")
    owner = Owner(crashed, (await crashed.claim([0]))[0])
    with pytest.raises(StoreFull):
        await owner.commit_many(2000, bytes(7000))
    # The files as a crash at this moment leaves them.
    (tmp_path / "copy").mkdir()
    for path in (small_disk / "data").iterdir():
        if not path.name.endswith("-shm"):
            (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    await crashed.close()
    async with opened(tmp_path / "copy") as after:
        assert after.tail == owner.tail
        assert len(await after.store.tail(0, 0)) == after.tail


async def test_a_store_that_finds_no_room_to_begin_says_so(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(4 * MB - 8192))
    store = SqliteStore(small_disk / "data")
    with pytest.raises(OperatorError):
        await store.open("node")
    (small_disk / "ballast").unlink()
    await store.open("node")
    await store.close()
