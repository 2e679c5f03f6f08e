"""A store made from a copy, as it was when the copy was taken or at any time before.

Going back in time rests on the journal: of each object the turns behind that time are taken away,
and with them the snapshots that know of them. One clock has written the times of a store, so what
was received by then had been sent by then. A message that had been sent and not received is under
way again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perdure.errors import BadSettings, OperatorError
from perdure.journal.codec import (
    Message,
    encode_entry,
    frame,
    read_entries,
    read_message,
    write_chunk,
    write_message,
)
from perdure.journal.entry import (
    Answered,
    Call,
    Ended,
    Entry,
    MessageId,
    Promised,
    Reply,
    Sent,
    Settled,
)
from perdure.ref import format_address, parse_address
from perdure.store.base import CallRow
from perdure.store.sqlite_file import DATABASE, connect, trouble_of_copying
from perdure.store.sqlite_sql import GET_VERSION, LSN_BITS
from perdure.suspend.bundles import read, write_source

Progress = Callable[[int, int], None]
"""Called with the objects that are done, and all."""


@dataclass(slots=True)
class Restored:
    """What a restore has done."""

    path: str
    objects: int
    """Objects that are there."""
    changed: int = 0
    """Objects that went back to an earlier turn."""
    removed: int = 0
    """Objects that did not exist yet at that time."""
    turns: int = 0
    """Turns that were taken away."""
    version: str = ""
    """The version of the code that ran the last turn which is there."""
    files: int = 0
    """Source files of that version that were written."""


def restore(
    source: Path,
    data: Path,
    to_ns: int | None,
    progress: Progress = lambda done, all_: None,
    *,
    code: Path | None = None,
) -> Restored:
    """Make the data directory `data` from the copy in `source`, as of a time if one is given; and
    in the directory `code` the source of the code that ran then.

    Raises BadSettings for a directory that has a store or such a file already, or none to copy,
    and OperatorError where the history of an object does not reach back that far, or the source
    is not in the store. Then nothing is left behind.
    """
    source_path, path = source / DATABASE, data / DATABASE
    if not source_path.is_file():
        raise BadSettings(f"{source} has no copy of a store", hint="Made by: perdure backup DEST")
    if path.exists():
        raise BadSettings(
            f"{data} has a store already",
            hint="Restore into a new directory, look at it, and serve from there.",
        )
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        with (
            closing(connect(source_path, reads_only=True)) as copy,
            closing(sqlite3.connect(unfinished, isolation_level=None)) as store,
        ):
            copy.backup(store)
            store.execute("PRAGMA journal_mode = DELETE")
            done = Restored(str(data), 0)
            if to_ns is not None:
                _go_back(store, to_ns, done, progress)
            (done.objects,) = store.execute(
                "SELECT count(*) FROM object WHERE status <> 'deleted'"
            ).fetchone()
            done.version = _last_version(store)
            if code is not None:
                done.files = _write_code(store, done.version, code)
        handle = os.open(unfinished, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        unfinished.rename(path)
    except sqlite3.Error as error:
        raise trouble_of_copying(error, source_path, path) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return done


def _last_version(store: sqlite3.Connection) -> str:
    """Of the turns in the log, or (where it is empty) of those that the objects are at."""
    parts = store.execute("SELECT part FROM part").fetchall()
    tail = [entry for (part,) in parts for _, entry in _tail(store, part)]
    if tail:
        return max(tail, key=lambda entry: entry.time).version
    found = store.execute(
        "SELECT version FROM object WHERE version <> '' ORDER BY updated DESC LIMIT 1"
    ).fetchone()
    return found[0] if found else ""


def _write_code(store: sqlite3.Connection, version: str, code: Path) -> int:
    found = store.execute(GET_VERSION, (version,)).fetchone()
    if found is None:
        raise OperatorError(
            f"the source of version {version or 'of no turn at all'} is not in the store",
            hint="Restore without --code, and bring the code of that time from where it is kept.",
        )
    modules = read(version, found[0]).modules
    try:
        write_source(modules, code)
    except FileExistsError as error:
        raise BadSettings(
            f"{error} is there already", hint="Name an empty directory for the code."
        ) from None
    return len(modules)


@dataclass(slots=True)
class _Life:
    """An object on its way back."""

    oid: int
    kind: str
    key: str
    kept: list[Entry] = field(default_factory=list)
    dropped: list[Entry] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last turn that stays; 0 if none does."""
        return self.kept[-1].seq if self.kept else 0


def _go_back(store: sqlite3.Connection, to_ns: int, done: Restored, progress: Progress) -> None:
    store.execute("BEGIN IMMEDIATE")
    for (part,) in store.execute("SELECT part FROM part ORDER BY part").fetchall():
        _go_back_in(store, part, to_ns, done, progress)
    store.execute("COMMIT")


def _go_back_in(
    store: sqlite3.Connection, part: int, to_ns: int, done: Restored, progress: Progress
) -> None:
    tail = _tail(store, part)
    under_way = _outbox(store, part, tail)
    oids = {oid for oid, _ in tail}
    oids.update(
        oid
        for (oid,) in store.execute(
            "SELECT oid FROM object WHERE part = ? AND updated > ?", (part, to_ns)
        )
    )
    lasts: dict[int, int] = {}
    waiting_again: list[Message] = []
    for number, oid in enumerate(sorted(oids), 1):
        life = _life(store, oid, [entry for owner, entry in tail if owner == oid], to_ns)
        lasts[oid] = life.last
        _write(store, part, life)
        done.turns += len(life.dropped)
        done.changed += bool(life.dropped and life.kept)
        done.removed += not life.kept
        waiting_again += _received(life)
        progress(number, len(oids))
    # Of a sender that is not among them every turn stays.
    messages = [
        message
        for message in [*under_way.values(), *waiting_again]
        if message.source.seq <= lasts.get(message.source.oid, message.source.seq)
    ]
    # Between two objects messages keep the order in which they were sent.
    messages.sort(key=lambda one: (one.source.oid, one.source.seq, one.source.index))
    store.execute("DELETE FROM outbox WHERE part = ?", (part,))
    store.executemany(
        "INSERT INTO outbox (part, n, body) VALUES (?, ?, ?)",
        [(part, n, write_message(message)) for n, message in enumerate(messages)],
    )
    store.execute(
        "DELETE FROM chunk WHERE id > ? AND id <= ?",
        (part << LSN_BITS, (part + 1 << LSN_BITS) - 1),
    )
    store.execute("UPDATE part SET checkpoint = tail, swept = tail WHERE part = ?", (part,))


def _tail(store: sqlite3.Connection, part: int) -> list[tuple[int, Entry]]:
    (checkpoint, last) = store.execute(
        "SELECT checkpoint, tail FROM part WHERE part = ?", (part,)
    ).fetchone()
    base = part << LSN_BITS
    found: list[tuple[int, Entry]] = []
    rows = store.execute(
        "SELECT id, body FROM chunk WHERE id > ? AND id <= ? ORDER BY id",
        (base + checkpoint, base + last),
    )
    for id_, body in rows:
        found += read_entries(body, f"partition {part}, chunk {id_ - base}")
    return found


def _outbox(
    store: sqlite3.Connection, part: int, tail: list[tuple[int, Entry]]
) -> dict[MessageId, Message]:
    """The messages that are under way at the end of the log."""
    found: dict[MessageId, Message] = {}
    for (body,) in store.execute("SELECT body FROM outbox WHERE part = ? ORDER BY n", (part,)):
        message = read_message(body, f"partition {part}, a message under way")
        found[message.source] = message
    for oid, entry in tail:
        source = getattr(entry.event, "source", None)
        if source is not None:
            found.pop(source, None)
        for index, command in enumerate(entry.commands):
            if isinstance(command, Sent):
                id_ = MessageId(oid, entry.seq, index)
                found[id_] = Message(id_, command)
    return found


def _life(store: sqlite3.Connection, oid: int, tail: list[Entry], to_ns: int) -> _Life:
    row = store.execute("SELECT kind, key FROM object WHERE oid = ?", (oid,)).fetchone()
    kind, key = row if row is not None else parse_address(tail[0].address)
    life = _Life(oid, kind, key)
    expected = 1
    for entry in _entries(store, oid, tail):
        if entry.seq != expected:
            raise OperatorError(
                f"{format_address(kind, key)} cannot go back: of its turns {expected} to "
                f"{entry.seq - 1} nothing is kept",
                hint="History is kept with history='all'. An older backup may have them.",
            )
        expected += 1
        (life.kept if entry.time <= to_ns else life.dropped).append(entry)
    return life


def _entries(store: sqlite3.Connection, oid: int, tail: list[Entry]) -> Iterator[Entry]:
    seen = 0
    rows = store.execute(
        "SELECT first, last, body FROM segment WHERE oid = ? ORDER BY first", (oid,)
    ).fetchall()
    for first, last, body in rows:
        for _, entry in read_entries(body, f"history of object {oid:x}, turns {first} to {last}"):
            if entry.seq > seen:
                seen = entry.seq
                yield entry
    for entry in tail:
        # A checkpoint may have moved the first of them to history already.
        if entry.seq > seen:
            yield entry


def _received(life: _Life) -> Iterator[Message]:
    """Messages that are not received any more."""
    address = format_address(life.kind, life.key)
    for entry in life.dropped:
        source = getattr(entry.event, "source", None)
        if source is not None:
            event = msgspec.structs.replace(entry.event, source=None)
            yield Message(source, Sent(address, event))  # type: ignore[arg-type]


def _write(store: sqlite3.Connection, part: int, life: _Life) -> None:
    oid, last = life.oid, life.last
    for table in ("promise", "waypoint", "calls", "indexed"):
        store.execute(f"DELETE FROM {table} WHERE oid = ?", (oid,))
    store.execute("DELETE FROM suspended WHERE oid = ? AND seq > ?", (oid, last))
    store.execute("DELETE FROM segment WHERE oid = ?", (oid,))
    seq = _snapshot_seq(store, oid)
    if seq > last:
        store.execute("DELETE FROM snapshot WHERE oid = ?", (oid,))
        seq = 0
    if not life.kept:
        for table in ("object", "suspended", "snapshot", "blob"):
            store.execute(f"DELETE FROM {table} WHERE oid = ?", (oid,))
        return
    entries = [frame(oid, encode_entry(entry)) for entry in life.kept]
    store.execute(
        "INSERT INTO segment (oid, first, last, body, until) VALUES (?, ?, ?, ?, ?)",
        (oid, life.kept[0].seq, last, write_chunk(entries), life.kept[-1].time),
    )
    end = life.kept[-1]
    gone = isinstance(end.event, Ended)
    store.execute("DELETE FROM object WHERE oid = ?", (oid,))
    columns = {
        "oid": oid,
        "part": part,
        "kind": life.kind,
        "key": life.key,
        "seq": seq,
        "last": last,
        "wake_at": end.wake_at,
        "status": "deleted" if gone else "",
        "detail": "",
        "created": life.kept[0].time,
        "updated": end.time,
        "version": end.version,
        "connections": end.connections,
    }
    store.execute(
        f"INSERT INTO object ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        list(columns.values()),
    )
    store.executemany(
        "INSERT INTO promise (token, part, oid, kind, key, type, since, until) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        list(_open_promises(part, life)),
    )
    store.executemany(
        f"INSERT INTO calls (part, {', '.join(CallRow._fields)}) "
        f"VALUES ({', '.join('?' * (1 + len(CallRow._fields)))})",
        [(part, *row) for row in _open_calls(life)],
    )
    values = next((one.indexed for one in reversed(life.kept) if one.indexed is not None), None)
    if values is None:
        # Whether its class was Indexed then is not known: the next start goes through it.
        store.execute("DELETE FROM indexed_kind WHERE kind = ?", (life.kind,))
    store.executemany(
        "INSERT INTO indexed (oid, name, kind, value, key) VALUES (?, ?, ?, ?, ?)",
        [(oid, name, life.kind, value, life.key) for name, value in (values or {}).items()],
    )


def _open_calls(life: _Life) -> Iterable[CallRow]:
    """Calls that had begun and not ended."""
    open_: dict[str, CallRow] = {}
    numbers: dict[tuple[str, int], str] = {}
    for entry in life.kept:
        event = entry.event
        if isinstance(event, Ended):
            open_.clear()
        elif isinstance(event, Call) and not entry.undone:
            open_[event.id] = CallRow(
                *(entry.time, event.id, event.id, life.oid, life.kind, life.key),
                *(event.handler, event.caller, "running"),
                deadline=event.deadline,
            )
            numbers[event.caller, event.answer_to] = event.id
        for command in entry.commands:
            if isinstance(command, Answered):
                open_.pop(command.id, None)
            elif isinstance(command, Sent) and isinstance(command.event, Reply):
                open_.pop(numbers.get((command.to, command.event.number), ""), None)
    return open_.values()


def _snapshot_seq(store: sqlite3.Connection, oid: int) -> int:
    row = store.execute(
        "SELECT seq FROM object JOIN snapshot USING (oid) WHERE oid = ?", (oid,)
    ).fetchone()
    return int(row[0]) if row is not None else 0


def _open_promises(part: int, life: _Life) -> Iterator[tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for entry in life.kept:
        for command in entry.commands:
            if isinstance(command, Promised):
                found[command.token] = (
                    *(command.token, part, life.oid, life.kind, life.key),
                    *(command.of, entry.time, command.until_ns),
                )
            elif isinstance(command, Settled):
                found.pop(command.token, None)
    yield from found.values()
