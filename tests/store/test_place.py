"""The data directory and its lock."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.errors import StoreBusy, StoreUnavailable
from perdure.store.place import LOCK, Place

HOLD = """
import sys
from pathlib import Path
from perdure.store.place import Place
place = Place(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_what_is_made_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        place = Place(tmp_path / "deep" / "data")
        file = place.file("perdure.db")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "deep" / "data") == 0o700
    assert mode_of(tmp_path / "deep" / "data" / LOCK) == 0o600
    assert mode_of(file) == 0o600
    place.release()


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "perdure.db").write_bytes(b"content")
    assert place.file("perdure.db").read_bytes() == b"content"
    place.release()


def test_a_second_owner_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = Place(tmp_path)
    with pytest.raises(StoreBusy, match=f"in use by process {os.getpid()}") as caught:
        Place(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint is not None
    first.release()
    first.release()
    Place(tmp_path).release()


def test_another_process_is_named(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    with pytest.raises(StoreBusy, match=rf"in use by process {holder.pid}\b"):
        Place(tmp_path / "data")


def test_a_killed_process_has_let_go(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()
    Place(tmp_path / "data").release()


def test_a_program_started_meanwhile_does_not_hold_on(tmp_path: Path) -> None:
    place = Place(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    place.release()
    Place(tmp_path).release()
    child.communicate(b"\n")


def test_without_the_lock_two_can_have_it(tmp_path: Path) -> None:
    first = Place(tmp_path)
    Place(tmp_path, exclusive=False).release()
    first.release()


def test_a_directory_that_cannot_be_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        Place(tmp_path / "file" / "data")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        Place(tmp_path / "file")
