"""`perdure fsck` over data that a real server wrote: sound, damaged, cut."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow]

COUNTER = """
from perdure import Object

class Counter(Object):
    value: int = 0

    async def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value
"""
CALLS = 6


@pytest.fixture
def data(shell: Any) -> Path:
    """A data directory with some chunks in its log: the server was killed."""
    shell.write("counter.py", COUNTER)
    server = shell.serve("serve", "counter.py", "--data", "data")
    for _ in range(CALLS):
        server.call("Counter/a%2Fb/increment")
    server.end()
    folder: Path = shell.folder / "data"
    return folder


@contextmanager
def database(data: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(data / "perdure.db", isolation_level=None)
    yield connection
    connection.close()


def damage(data: Path, lsn: int) -> None:
    with database(data) as connection:
        (body,) = connection.execute("SELECT body FROM chunk WHERE id = ?", (lsn,)).fetchone()
        bad = body[:-1] + bytes([body[-1] ^ 1])
        connection.execute("UPDATE chunk SET body = ? WHERE id = ?", (bad, lsn))


def fsck(shell: Any, *arguments: str, stdin: str = "") -> tuple[int, Any]:
    done = shell.run("fsck", "--data", "data", *arguments, stdin=stdin)
    text = done.stdout if "--json" in arguments else done.stdout + done.stderr
    return done.returncode, json.loads(text) if "--json" in arguments and text else text


def test_sound_data(shell: Any, data: Path) -> None:
    code, text = fsck(shell)
    assert code == 0, text
    assert "data is sound" in text
    code, told = fsck(shell, "--json")
    assert code == 0
    assert told["findings"] == []
    assert told["parts"][0]["entries"] == CALLS


def test_sound_data_after_a_checkpoint(shell: Any, data: Path) -> None:
    server = shell.serve("serve", "counter.py", "--data", "data")
    assert server.call("Counter/a%2Fb/increment") == CALLS + 1
    assert server.stop() == 0
    code, told = fsck(shell, "--json")
    assert code == 0, told
    assert (told["objects"], told["parts"][0]["entries"]) == (1, 0)
    assert told["segments"] >= 1


def test_a_damaged_chunk_stops_the_server_until_the_log_is_cut(shell: Any, data: Path) -> None:
    damage(data, 3)
    server = shell.start("serve", "counter.py", "--data", "data")
    assert server.code() == 2
    assert "perdure fsck" in server.text()
    code, text = fsck(shell)
    assert code == 1
    assert "partition 0, chunk 3: its checksum does not match" in text
    assert "--cut 3" in text
    code, text = fsck(shell, "--cut", "3", stdin="n\n")
    assert code == 1
    assert "lost are 4 chunks with 3 readable entries" in text
    assert "1 chunks cannot be read" in text
    assert "Counter/a%2Fb: 3 entries" in text
    assert fsck(shell)[0] == 1
    code, told = fsck(shell, "--cut", "3", "--yes", "--json")
    assert code == 0
    assert told["lost"]["objects"] == {"Counter/a%2Fb": 3}
    assert fsck(shell)[0] == 0
    server = shell.serve("serve", "counter.py", "--data", "data")
    assert server.call("Counter/a%2Fb/increment") == 3
    server.end()
    assert fsck(shell)[0] == 0


def test_a_missing_chunk_is_found(shell: Any, data: Path) -> None:
    with database(data) as connection:
        connection.execute("DELETE FROM chunk WHERE id = 4")
    code, text = fsck(shell)
    assert code == 1
    assert "partition 0, chunk 4: is missing" in text
    assert "--cut 4" in text


def test_damaged_history_is_found(shell: Any, data: Path) -> None:
    assert shell.serve("serve", "counter.py", "--data", "data").stop() == 0
    with database(data) as connection:
        connection.execute("UPDATE segment SET body = zeroblob(40)")
    code, text = fsck(shell)
    assert code == 1
    assert f"history of Counter/a%2Fb, turns 1 to {CALLS}" in text


def test_a_cut_where_there_is_no_log_is_refused(shell: Any, data: Path) -> None:
    for lsn in ("99", str(CALLS + 1)):
        code, text = fsck(shell, "--cut", lsn)
        assert code == 2
        assert f"Its log goes from 1 to {CALLS}" in text


def test_what_is_no_data_directory(shell: Any) -> None:
    code, text = fsck(shell)
    assert code == 2
    assert "there is no data/perdure.db" in text
    assert not (shell.folder / "data").exists()
    (shell.folder / "data").mkdir()
    (shell.folder / "data" / "perdure.db").write_bytes(b"something else" * 1000)
    code, text = fsck(shell)
    assert code == 1
    assert "not a database" in text


def test_a_directory_in_use_is_left_alone(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    shell.serve("serve", "counter.py", "--data", "data")
    code, text = fsck(shell)
    assert code == 2
    assert "is in use by process" in text
