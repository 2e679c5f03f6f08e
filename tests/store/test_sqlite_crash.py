"""Real processes: killed in the middle of anything, kept apart by the lock, and by the fence."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.errors import StoreBusy
from perdure.store.base import Batch
from perdure.store.sqlite import SqliteStore
from tests.contract.race import Accepted, check_race
from tests.store.committer import OBJECTS, chunk_of, row_of

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that runs a module of the tests."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # No buffer: what `readline` had read ahead would be lost to `communicate`.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


def kill_after(process: subprocess.Popen[bytes], lines: int) -> list[str]:
    """Kill it when it has said so much; all that it said, which may be more."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest, errors = process.communicate()
    assert process.returncode == -9, errors.decode()
    return b"".join([*said, rest]).decode().splitlines()


@pytest.mark.crash
@pytest.mark.parametrize("commit_inline_ms", [1e9, 0])
async def test_what_was_acknowledged_survives_kill_9(
    tmp_path: Path, commit_inline_ms: float
) -> None:
    chance = random.Random(commit_inline_ms)
    tail = checkpoint = 0
    for _ in range(12):
        process = start("tests.store.committer", tmp_path, commit_inline_ms)
        said = [line.split() for line in kill_after(process, chance.randint(2, 400))]
        assert said[0] == ["o", str(tail)], "it begins where the last one was killed"
        tail = max([tail, *(int(number) for what, number in said if what == "c")])
        checkpoint = max([checkpoint, *(int(number) for what, number in said if what == "k")])

        store = SqliteStore(tmp_path)
        await store.open("after")
        log = await store.tail(0, 0)
        # One more of each may have landed without having been heard of.
        found_tail, found_checkpoint = log[-1][0], log[0][0] - 1
        assert found_tail in (tail, tail + 1)
        assert found_checkpoint >= checkpoint
        assert log == [(lsn, chunk_of(lsn)) for lsn in range(found_checkpoint + 1, found_tail + 1)]
        for oid in range(1, 1 + OBJECTS):
            stored = await store.load(0, oid)
            if found_checkpoint == 0:
                assert stored is None
                continue
            assert stored is not None
            assert stored.row == row_of(found_checkpoint, oid)
            segments = await store.history(0, oid, 0, 10_000)
            assert [s.first for s in segments] == [1, *(s.last + 1 for s in segments[:-1])]
            assert segments[-1].last == found_checkpoint
        await store.close()
        tail, checkpoint = found_tail, found_checkpoint


@pytest.mark.crash
async def test_a_second_process_is_refused_and_the_first_not_disturbed(tmp_path: Path) -> None:
    first = start("tests.store.committer", tmp_path, 1e9)
    assert first.stdout is not None
    assert first.stdout.readline() == b"o 0\n"
    second = start("tests.store.committer", tmp_path, 1e9)
    _, errors = second.communicate()
    assert second.returncode == 1
    assert f"is in use by process {first.pid}" in errors.decode()
    with pytest.raises(StoreBusy, match=f"in use by process {first.pid}"):
        await SqliteStore(tmp_path).open("third")
    kill_after(first, 50)
    store = SqliteStore(tmp_path)
    await store.open("after")
    assert (await store.claim([0]))[0].tail >= 45
    await store.close()


@pytest.mark.crash
async def test_processes_that_steal_from_each_other_never_mix(tmp_path: Path) -> None:
    racers = [
        start("tests.contract.race", tmp_path, f"racer-{number}", number, 300)
        for number in range(3)
    ]
    accepted = []
    for racer in racers:
        output, errors = racer.communicate()
        assert racer.returncode == 0, errors.decode()
        accepted += [Accepted(*json.loads(line)) for line in output.splitlines()]
    store = SqliteStore(tmp_path)
    await store.open("after")
    check_race(accepted, await store.tail(0, 0))
    # Else the race has proved nothing.
    assert len({one.chunk.split()[0] for one in accepted}) == 3
    await store.close()


@pytest.mark.parametrize("damage", ["cut", "ones", "chance"])
async def test_a_torn_end_of_the_log_costs_only_what_is_behind_it(
    tmp_path: Path, damage: str
) -> None:
    chance = random.Random(damage)
    crashed = SqliteStore(tmp_path / "data", commit_inline_ms=1e9)
    await crashed.open("crashed")
    (claim,) = await crashed.claim([0])
    wal = tmp_path / "data" / "perdure.db-wal"
    ends = [wal.stat().st_size]
    for lsn in range(1, 31):
        chunk = bytes([lsn]) * chance.randint(0, 9000)
        assert await crashed.commit([Batch(0, claim.epoch, lsn, chunk)]) == {0}
        ends.append(wal.stat().st_size)
    log = await crashed.tail(0, 0)
    whole = wal.read_bytes()
    for _ in range(40):
        start_of_damage = chance.randint(ends[0], len(whole))
        rest = len(whole) - start_of_damage
        torn = {"cut": b"", "ones": b"\xff" * rest, "chance": chance.randbytes(rest + 5000)}
        copy = tmp_path / "copy"
        copy.mkdir()
        shutil.copy(tmp_path / "data" / "perdure.db", copy)
        (copy / wal.name).write_bytes(whole[:start_of_damage] + torn[damage])
        store = SqliteStore(copy)
        await store.open("after")
        survived = [lsn for lsn, end in enumerate(ends) if lsn and end <= start_of_damage]
        assert await store.tail(0, 0) == log[: len(survived)]
        assert (await store.claim([0]))[0].tail == len(survived)
        await store.close()
        shutil.rmtree(copy)
    await crashed.close()
