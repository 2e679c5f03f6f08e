"""`perdure fsck` and what rests beside the journal: missing, damaged, left over."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from perdure import Object, step
from perdure.cli.check import Report, open_file
from perdure.cli.fsck import fsck
from perdure.store.sqlite import SqliteStore
from tests.host.stage import Stage


@step
async def download(size: int) -> bytes:
    return bytes(size)


class Archive(Object):
    total: int = 0

    async def add(self, size: int) -> int:
        self.total += len(await download(size))
        return self.total


@pytest.fixture(params=["in the log", "in history"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A data directory with two blobs and a result that is none."""

    async def make() -> None:
        stage = Stage(Archive, store=SqliteStore(tmp_path))
        await stage.start()
        for size in (200_000, 10, 100_000):
            await Archive.at("a").add(size)
        if request.param == "in the log":
            await stage.crash()
            await stage.node.store.close()
        else:
            await stage.node.drain()

    asyncio.run(make())
    return tmp_path


def change(data: Path, statement: str) -> None:
    connection = sqlite3.connect(data / "perdure.db")
    connection.execute(statement)
    connection.commit()
    connection.close()


def check(data: Path) -> Report:
    with open_file(data) as file:
        return file.check()


def test_sound_ones_are_counted(data: Path) -> None:
    report = check(data)
    assert (report.blobs, report.orphans, report.findings) == (2, 0, [])
    assert (
        "large values beside the journal: 2\n"
        in CliRunner().invoke(fsck, ["--data", str(data)]).output
    )


def test_one_that_nobody_names_is_left_over_and_no_damage(data: Path) -> None:
    change(
        data,
        "INSERT INTO blob (part, oid, name, seq, body) "
        "SELECT part, 77, name, 0, body FROM blob LIMIT 1",
    )
    report = check(data)
    assert (report.blobs, report.orphans, report.findings) == (3, 1, [])
    told = CliRunner().invoke(fsck, ["--data", str(data)])
    assert told.exit_code == 0
    assert "3, of which 1 are left over" in told.output


def test_a_missing_one_is_named_with_its_place(data: Path) -> None:
    change(data, "DELETE FROM blob WHERE length(body) < 150000")
    [(place, message)] = check(data).findings
    assert "which is not there" in message
    assert "turn " in place
    assert CliRunner().invoke(fsck, ["--data", str(data)]).exit_code == 1


def test_a_damaged_one_is_found(data: Path) -> None:
    change(data, "UPDATE blob SET body = zeroblob(100) WHERE length(body) < 150000")
    [(place, message)] = check(data).findings
    assert place.startswith("blob ")
    assert "begins with" in message


def test_a_file_of_the_first_schema_has_none(data: Path) -> None:
    change(data, "DROP TABLE blob")
    report = check(data)
    assert (report.blobs, report.orphans, report.findings) == (0, 0, [])
