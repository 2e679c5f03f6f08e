"""A disk that is full, and one that gives back other bytes than were written."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.conftest import ROOT, wait_until

pytestmark = [pytest.mark.crash]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 6 MB."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small tmpfs to fill")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "perdure-test", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield disk
    # Lazily: the server that had its files open there is killed by a fixture of its own.
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left there."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return filler


def test_a_full_disk_refuses_writes_and_goes_on_by_itself(serve: Any, small_disk: Path) -> None:
    server = serve("counter.py", data=small_disk / "data")
    server.start()
    process = server.process.pid, server.worker()
    client = server.client()
    acknowledged = 0
    for _ in range(3):
        for _ in range(5):
            acknowledged += 1
            assert client.post("/Counter/a/increment").json == acknowledged
        filler = fill(small_disk)

        def refused() -> Any:
            # Until the last room in a file that is there already is used up.
            nonlocal acknowledged
            answer = client.post("/Counter/a/increment", {"padding": "x" * 20_000})
            if answer.status == 200:
                acknowledged += 1
                assert answer.json == acknowledged
            return answer if answer.status != 200 else None

        refusals = [wait_until(refused, "a write is refused") for _ in range(5)]
        for answer in refusals:
            assert answer.status == 503
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json["code"] == "unavailable"
            assert "the disk is full" in answer.json["detail"]
            assert client.get("/Counter/a/read").json == acknowledged
            # An object that nobody has asked for yet as well.
            assert client.get("/Counter/b/read").json == 0
        assert client.get("/_perdure/health").status == 200
        filler.unlink()

        def accepted() -> Any:
            answer = client.post("/Counter/a/increment")
            assert answer.status in (200, 503), answer.body
            return answer.json if answer.status == 200 else None

        acknowledged += 1
        assert wait_until(accepted, "writes work again") == acknowledged
    assert (server.process.pid, server.worker()) == process
    client.close()
    server.kill()
    server.start()
    assert server.read("/Counter/a/read") == acknowledged
    assert server.call("/Counter/a/increment") == acknowledged + 1
    assert server.stop() == 0


def test_what_was_acknowledged_survives_a_kill_while_the_disk_is_full(
    serve: Any, small_disk: Path
) -> None:
    server = serve("counter.py", data=small_disk / "data")
    server.start()
    client = server.client()
    acknowledged = 0
    filler = fill(small_disk)
    while client.post("/Counter/a/increment", {"padding": "x" * 20_000}).status == 200:
        acknowledged += 1
    client.close()
    server.kill()
    filler.unlink()
    server.start()
    assert server.read("/Counter/a/read") == acknowledged
    assert server.call("/Counter/a/increment") == acknowledged + 1


def fsck(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "perdure.cli.main", "fsck", "--data", str(data)]
    return subprocess.run(
        [*command, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def flip_a_byte(data: Path, lsn: int) -> None:
    """In the middle of a chunk behind the checkpoint, past SQLite's own care."""
    connection = sqlite3.connect(data / "perdure.db", isolation_level=None)
    (checkpoint,) = connection.execute("SELECT checkpoint FROM part").fetchone()
    assert checkpoint < lsn
    (body,) = connection.execute("SELECT body FROM chunk WHERE id = ?", (lsn,)).fetchone()
    at = len(body) // 2
    bad = body[:at] + bytes([body[at] ^ 0x20]) + body[at + 1 :]
    connection.execute("UPDATE chunk SET body = ? WHERE id = ?", (bad, lsn))
    connection.close()


def test_a_flipped_byte_stops_the_start_until_the_log_is_cut(serve: Any) -> None:
    server = serve("counter.py")
    server.start()
    client = server.client()
    for number in range(1, 11):
        assert client.post("/Counter/a/increment").json == number
    client.close()
    server.kill()
    connection = sqlite3.connect(server.data / "perdure.db")
    (tail,) = connection.execute("SELECT tail FROM part").fetchone()
    connection.close()
    # One call after the other: one chunk each, and the last one is that of the tenth.
    damaged = tail - 3
    flip_a_byte(server.data, damaged)

    before = len(server.text())
    server.spawn()
    assert server.wait() == 2
    said = server.text()[before:]
    assert f"chunk {damaged}" in said
    assert "perdure fsck" in said
    found = fsck(server.data)
    assert found.returncode == 1, found.stderr
    assert f"chunk {damaged}: its checksum does not match" in found.stdout
    assert f"--cut {damaged}" in found.stdout

    cut = fsck(server.data, "--cut", str(damaged), "--yes")
    assert cut.returncode == 0, cut.stderr
    assert fsck(server.data).returncode == 0
    server.start()
    assert server.read("/Counter/a/read") == 6
    assert server.call("/Counter/a/increment") == 7
    assert server.stop() == 0
    assert fsck(server.data).returncode == 0
