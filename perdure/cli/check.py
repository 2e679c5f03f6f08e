"""What `perdure fsck` looks at: a store's file that nobody serves at the moment.

It goes behind the `Store` protocol on purpose: the protocol promises sound data, and here is the
place for data that is not. Each finding names its place; nothing is changed but by `cut`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.errors import BadSettings, OperatorError
from perdure.journal.codec import read_blob, read_entries, read_message
from perdure.journal.entry import Entry, StepDone, StepItem
from perdure.store.place import Place
from perdure.store.sqlite_file import DATABASE, connect, trouble

_LSN_BITS = 40


@dataclass(slots=True)
class Part:
    """The log of one partition."""

    part: int
    epoch: int
    checkpoint: int
    tail: int
    chunks: int = 0
    entries: int = 0
    first_damaged: int | None = None
    """The lsn of the first chunk that is missing or cannot be read."""


@dataclass(slots=True)
class Report:
    """What was found."""

    schema: int
    objects: int = 0
    segments: int = 0
    blobs: int = 0
    orphans: int = 0
    """Blobs that nobody names, left by a crash: the next start removes them."""
    parts: list[Part] = field(default_factory=list)
    findings: list[tuple[str, str]] = field(default_factory=list)
    """(place, what is wrong with it)."""


@dataclass(slots=True)
class Loss:
    """What a cut removes."""

    chunks: int
    damaged: int
    entries: int
    objects: dict[str, int]
    """Address: how many entries of it, as far as they can be read."""


class StoreFile:
    """An open store file; made by `open_file`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self._named: dict[tuple[int, str], str] = {}
        """The blobs that entries name, by object and name: where."""

    def check(self) -> Report:
        """Look at everything: the file itself, the log, the history, the messages under way."""
        report = Report(self._number("SELECT value FROM meta WHERE name = 'schema'"))
        for (text,) in self._rows("PRAGMA integrity_check"):
            if text != "ok":
                report.findings.append((str(self.path), text))
        report.objects = self._number("SELECT count(*) FROM object")
        last = dict(self._rows("SELECT oid, last FROM object"))
        self._named = {}
        self._check_segments(report)
        for row in self._rows("SELECT part, epoch, checkpoint, tail FROM part ORDER BY part"):
            part = Part(*row)
            report.parts.append(part)
            self._check_log(part, last, report)
            self._check_outbox(part, report)
        if self._rows("SELECT 1 FROM sqlite_master WHERE name = 'blob'"):
            self._check_blobs(report)
        return report

    def _check_log(self, part: Part, last: dict[int, int], report: Report) -> None:
        expected = part.checkpoint + 1
        for lsn, body in self._chunks(part.part, part.checkpoint + 1):
            place = f"partition {part.part}, chunk {lsn}"
            while expected < lsn and expected <= part.tail:
                _damaged(part, expected)
                report.findings.append((f"partition {part.part}, chunk {expected}", "is missing"))
                expected += 1
            expected = lsn + 1
            if lsn > part.tail:
                report.findings.append((place, f"lies behind the tail {part.tail}"))
                continue
            part.chunks += 1
            try:
                for oid, entry in read_entries(body, place):
                    part.entries += 1
                    self._note_blob(oid, entry, place)
                    before = last.get(oid, 0)
                    if entry.seq <= before:
                        continue  # A checkpoint has moved it to history already.
                    if entry.seq != before + 1:
                        text = f"entry {entry.seq} of object {oid:x} follows entry {before}"
                        report.findings.append((place, text))
                    last[oid] = entry.seq
            except OperatorError as error:
                _damaged(part, lsn)
                report.findings.append((place, _without(place, error)))
        for lsn in range(expected, part.tail + 1):
            _damaged(part, lsn)
            report.findings.append((f"partition {part.part}, chunk {lsn}", "is missing"))

    def _check_segments(self, report: Report) -> None:
        rows = self._connection.execute(
            "SELECT oid, first, last, body FROM segment ORDER BY oid, first"
        )
        for oid, first, last, body in rows:
            report.segments += 1
            place = f"history of {self._address(oid)}, turns {first} to {last}"
            try:
                expected = first
                for found, entry in read_entries(body, place):
                    self._note_blob(found, entry, place)
                    if found != oid or entry.seq != expected:
                        report.findings.append((place, f"holds entry {entry.seq} of {found:x}"))
                        break
                    expected += 1
                else:
                    if expected != last + 1:
                        report.findings.append((place, f"ends at entry {expected - 1}"))
            except OperatorError as error:
                report.findings.append((place, _without(place, error)))

    def _check_outbox(self, part: Part, report: Report) -> None:
        rows = self._rows("SELECT n, body FROM outbox WHERE part = ? ORDER BY n", part.part)
        for n, body in rows:
            place = f"partition {part.part}, message {n}"
            try:
                read_message(body, place)
            except OperatorError as error:
                report.findings.append((place, _without(place, error)))

    def _note_blob(self, oid: int, entry: Entry, place: str) -> None:
        event = entry.event
        if isinstance(event, StepDone | StepItem) and event.blob:
            self._named[oid, event.blob] = f"{place}, turn {entry.seq}"

    def _check_blobs(self, report: Report) -> None:
        there = set()
        for oid, name in self._rows("SELECT oid, name FROM blob ORDER BY oid, name"):
            report.blobs += 1
            there.add((oid, name))
            report.orphans += (oid, name) not in self._named
            place = f"blob {name} of {self._address(oid)}"
            # One at a time: each may be large.
            query = "SELECT body FROM blob WHERE oid = ? AND name = ?"
            try:
                read_blob(self._rows(query, oid, name)[0][0], place)
            except OperatorError as error:
                report.findings.append((place, _without(place, error)))
        for (oid, name), place in self._named.items():
            if (oid, name) not in there:
                report.findings.append((place, f"names blob {name}, which is not there"))

    def loss(self, part: int, lsn: int) -> Loss:
        """What the log of a partition holds from that chunk on. Raises BadSettings for no chunk."""
        found = self._rows("SELECT checkpoint, tail FROM part WHERE part = ?", part)
        if not found:
            raise BadSettings(f"{self.path} has no partition {part}")
        checkpoint, tail = found[0]
        if not checkpoint < lsn <= tail:
            raise BadSettings(
                f"there is no chunk {lsn} in the log of partition {part}",
                hint=f"Its log goes from {checkpoint + 1} to {tail}; what is older is in history."
                if tail > checkpoint
                else "Its log is empty.",
            )
        loss = Loss(tail - lsn + 1, 0, 0, {})
        addresses: dict[int, str] = {}
        for number, body in self._chunks(part, checkpoint + 1):
            try:
                for oid, entry in read_entries(body, ""):
                    if entry.address:
                        addresses[oid] = entry.address
                    if number >= lsn:
                        address = addresses.get(oid) or self._address(oid)
                        loss.entries += 1
                        loss.objects[address] = loss.objects.get(address, 0) + 1
            except OperatorError:
                loss.damaged += number >= lsn
        return loss

    def cut(self, part: int, lsn: int) -> None:
        """Remove the log of a partition from that chunk on."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            begin, end = (part << _LSN_BITS) + lsn, (part + 1) << _LSN_BITS
            self._connection.execute("DELETE FROM chunk WHERE id >= ? AND id < ?", (begin, end))
            # The epoch grows, so that a process which somehow still serves it can write no more.
            self._connection.execute(
                "UPDATE part SET tail = ?, epoch = epoch + 1 WHERE part = ?", (lsn - 1, part)
            )
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def _chunks(self, part: int, first: int) -> Iterator[tuple[int, bytes]]:
        begin, end = (part << _LSN_BITS) + first, (part + 1) << _LSN_BITS
        rows = self._connection.execute(
            "SELECT id, body FROM chunk WHERE id >= ? AND id < ? ORDER BY id", (begin, end)
        )
        for number, body in rows:
            yield number - (part << _LSN_BITS), body

    def _address(self, oid: int) -> str:
        from perdure.ref import format_address

        rows = self._rows("SELECT kind, key FROM object WHERE oid = ?", oid)
        return format_address(*rows[0]) if rows else f"object {oid:x}"

    def _number(self, statement: str) -> int:
        return int(self._rows(statement)[0][0])

    def _rows(self, statement: str, *values: object) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()


@contextmanager
def open_file(directory: Path) -> Iterator[StoreFile]:
    """The store's file in a data directory, and the directory's lock with it.

    Raises BadSettings if there is none, StoreBusy if somebody serves it, JournalCorrupt if SQLite
    cannot read it.
    """
    path = directory / DATABASE
    if not path.is_file():
        raise BadSettings(
            f"there is no {path}",
            hint="--data names the directory, as it does for `perdure serve`.",
        )
    place = Place(directory.absolute())
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path.absolute())
        yield StoreFile(connection, path)
    except sqlite3.Error as error:
        raise trouble(error, path) from error
    finally:
        if connection is not None:
            connection.close()
        place.release()


def _damaged(part: Part, lsn: int) -> None:
    if part.first_damaged is None:
        part.first_damaged = lsn


def _without(place: str, error: OperatorError) -> str:
    return error.message.removeprefix(f"{place}: ")
