"""Bodies that were on their way are read for ever: `v0_1_uploads/` (make_uploads.py).

As in test_golden.py: where something fails here the code is to be mended, and never the file.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import JournalCorrupt, SchemaTooNew
from perdure.host.upgrades import begin_from, having, settle
from perdure.journal import codec
from perdure.journal.identity import oid_of
from perdure.past.record import record_of
from perdure.ref import parse_address
from perdure.suspend import codes, layout, probe
from perdure.testing.virtual import run_virtual
from tests.golden.make_schema2 import PYTHON, data_directory, kept_turns, last_turns, past_of
from tests.golden.make_uploads import AHEAD_S, Desk, desk
from tests.golden.test_golden import assert_is

FOLDER = Path(__file__).parent / "v0_1_uploads"
JOURNAL = json.loads((FOLDER / "journal.json").read_text(encoding="utf-8"))
DATA = json.loads((FOLDER / "data.json").read_text(encoding="utf-8"))
PYTHONS = [f"{major}.{minor}" for major, minor in layout.KNOWN]

needs_suspended_code = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


def suspended(python: str) -> str:
    return (FOLDER / f"snapshots-{python}.sql").read_text(encoding="utf-8")


STARTS = {
    "from snapshots": "",
    "from the first turn": "DELETE FROM snapshot; UPDATE object SET seq = 0;",
    **{f"from code suspended by {python}": suspended(python) for python in PYTHONS},
}
starts = pytest.mark.parametrize("start", STARTS)


def play(tmp_path: Path, more: str, script: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    """Run a script on a node that is started on a copy of the data directory."""

    async def main() -> None:
        directory = data_directory(FOLDER, tmp_path / "data", more)
        async with desk(tmp_path / "app", directory, AHEAD_S) as stage:
            await script(stage)

    run_virtual(main())


def test_journal_bytes_are_read() -> None:
    data = (FOLDER / "chunk.bin").read_bytes()
    assert_is(list(codec.read_entries(data, "the place")), JOURNAL["chunk"])
    for at in range(len(data)):
        with pytest.raises((JournalCorrupt, SchemaTooNew), match="the place"):
            list(
                codec.read_entries(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "the place")
            )


def test_pieces_occur_in_the_data_directory() -> None:
    found = {word for one in DATA.values() for turn in one["turns"] for word in turn.split()}
    assert "Piece" in found


@needs_suspended_code
@starts
def test_the_past_of_every_object_is_what_it_was(tmp_path: Path, start: str) -> None:
    async def script(stage: Desk) -> None:
        assert await past_of(stage, await last_turns(FOLDER)) == DATA
        assert stage.host.quarantine.objects == {}

    play(tmp_path, STARTS[start], script)


@needs_suspended_code
@starts
def test_whoever_read_a_body_goes_on_and_is_told_of_the_loss(tmp_path: Path, start: str) -> None:
    async def script(stage: Desk) -> None:
        await asyncio.sleep(3 * 3600)
        assert {address: await stage.read(address) for address in DATA} == {
            "Inbox/whole": ["first", "second", ""],
            "Inbox/left": ["first", "second", "gone"],
            "Inbox/waits": ["first", "second", "gone"],
            "Inbox/unread": ["nap", "second", "third", "gone"],
            "Inbox/ended": ["nap", "second", ""],
            "Queue/queued": ["nap", "gone", "behind", "it", "gone"],
        }

    play(tmp_path, STARTS[start], script)


@needs_suspended_code
@pytest.mark.parametrize("python", PYTHONS)
def test_bodies_are_in_the_snapshots_of_each_python(tmp_path: Path, python: str) -> None:
    async def script(stage: Desk) -> None:
        connection = sqlite3.connect(tmp_path / "data" / "perdure.db")
        rows = dict(connection.execute("SELECT oid, body FROM suspended").fetchall())
        connection.close()
        found = {}
        for address in kept_turns(FOLDER):
            body = rows.get(oid_of(*parse_address(address)))
            if body is None:
                continue
            machine = (await record_of(stage.host, address)).machine()
            if python != PYTHON:
                with pytest.raises(codes.CodeChanged, match="another Python"):
                    begin_from(machine, body, 0)
                found[address] = 1
                continue
            try:
                await having(machine, lambda m=machine, b=body: begin_from(m, b, 0))
                await having(machine, lambda m=machine: settle(m))
                found[address] = len(machine.uploads or {})
            finally:
                machine.discard()
        many = 2 if python == PYTHON else 1
        expected = dict.fromkeys(("Inbox/ended", "Inbox/unread", "Inbox/waits"), 1)
        assert found == expected | {"Queue/queued": many}

    play(tmp_path, suspended(python), script)
