"""Snapshot and entries into a machine; and the comparison that finds a divergence.

A replayed turn must ask for exactly what the journal says the live one asked for. If it does not,
the code has changed or depends on something outside the journal; then nothing is guessed, and
DivergenceError names the turn, what was expected and what was found.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import re
from collections.abc import Iterator, Sequence

import msgspec

from perdure.clock import iso
from perdure.errors import DivergenceError, JournalCorrupt
from perdure.host import forking
from perdure.host.failures import decode_failure
from perdure.host.machine import Machine
from perdure.host.upgrades import enter
from perdure.interrupt import is_interrupt
from perdure.journal import codec
from perdure.journal.entry import (
    ARGUMENTS_KEPT_MAX,
    BODY_KEPT_MAX,
    RULES,
    Answered,
    Broadcast,
    Call,
    Cancel,
    Closed,
    Command,
    Entry,
    Framed,
    Item,
    Planned,
    Promised,
    Reply,
    Resolved,
    Sent,
    Settled,
    StepAsked,
    Yielded,
    shortened,
    shortened_message,
    without_arguments,
)
from perdure.store.base import Segment
from perdure.suspend import editions, heap


def replay_segments(machine: Machine, segments: Sequence[Segment], upto: int | None = None) -> int:
    """Run history again; gives the number of turns. Raises DivergenceError or JournalCorrupt.

    Turns behind `upto` are left out.
    """
    replayed = 0
    if segments:
        with _past(machine):
            for segment in segments:
                place = f"history of {machine.address}, turns {segment.first} to {segment.last}"
                for _, entry in codec.read_entries(segment.body, place):
                    if upto is not None and entry.seq > upto:
                        return replayed
                    replayed += _replay(machine, entry)
    return replayed


def replay_tail(machine: Machine, entries: Sequence[bytes]) -> int:
    """Run again what is in no history yet. Raises DivergenceError or JournalCorrupt."""
    replayed = 0
    if entries:
        with _past(machine):
            for body in entries:
                replayed += _replay(machine, codec.decode_entry(body))
    return replayed


def replay_entries(machine: Machine, entries: Sequence[Entry]) -> int:
    """Run again what was decoded already. Raises DivergenceError or JournalCorrupt."""
    replayed = 0
    if entries:
        with _past(machine):
            for entry in entries:
                replayed += _replay(machine, entry)
    return replayed


def replay_aloud(machine: Machine, entry: Entry) -> None:
    """Run one turn again, and let it be heard what it prints and logs."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with machine.inside():
            _replay(machine, entry)
    finally:
        if collects:
            gc.enable()


def run_again(machine: Machine, entry: Entry) -> list[Command]:
    """Run one turn as the live one ran, also one that was undone, and give what it asks for."""
    try:
        _enter(machine, entry)
    finally:
        editions.active = None
    collects = gc.isenabled()
    gc.disable()
    machine.rules = entry.rules
    machine.past = entry.commands
    try:
        return machine.turn(entry.event, entry.time)
    finally:
        machine.rules = RULES
        machine.past = None
        if collects:
            gc.enable()


def skip_again(machine: Machine, entry: Entry) -> None:
    """Count a turn that was undone, whose answers are in the entry."""
    try:
        _enter(machine, entry)
    finally:
        editions.active = None
    machine.skip(entry.event, entry.time, entry.commands)


def _enter(machine: Machine, entry: Entry) -> None:
    """Be what the turn found."""
    versions = machine.surroundings.versions
    if machine.source is not None or (
        versions is not None and entry.version != machine.kind.version
    ):
        enter(machine, entry)
    if entry.reloaded and not machine.reloaded:
        machine.go_through_bytes()
    machine.reloaded = False
    if entry.chance:
        forking.borrow(machine, entry)
    else:
        machine.borrowed = None


def _replay(machine: Machine, entry: Entry) -> int:
    if entry.seq <= machine.seq:
        return 0
    if entry.seq != machine.seq + 1:
        raise JournalCorrupt(
            f"{machine.address}: turn {machine.seq + 1} is missing, and {entry.seq} is there",
            hint="Restore the data directory from a backup.",
        )
    _enter(machine, entry)
    if entry.undone:
        machine.skip(entry.event, entry.time, entry.commands)
        return 1
    machine.rules = entry.rules
    machine.past = entry.commands
    found = machine.turn_inside(entry.event, entry.time)
    machine.past = None
    same = found == entry.commands or _same(found, entry.commands)
    if not same or machine.undone or machine.wake_at() != entry.wake_at:
        raise DivergenceError(
            machine.address,
            entry.seq,
            _tell(entry.commands, entry.wake_at),
            _tell(found, machine.wake_at()) + (" and was undone" if machine.undone else ""),
        )
    return 1


@contextlib.contextmanager
def _past(machine: Machine) -> Iterator[None]:
    """The world as a replayed turn finds it: as in a live one, and nobody hears what it says.

    What the past printed and logged, it printed and logged then; not once more. Nothing is
    collected in a turn, since that would run finalizers at another place at each replay.
    """
    heard = logging.Logger.handle
    collects = gc.isenabled()
    gc.disable()
    # Not logging.disable(), which makes every logger of the process look up its level anew.
    logging.Logger.handle = _unheard  # type: ignore[method-assign, assignment]
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            machine.inside(),
        ):
            yield
    finally:
        logging.Logger.handle = heard  # type: ignore[method-assign]
        machine.rules = RULES
        # Callbacks and tasks that failed then were told then.
        machine.problems = None
        if collects:
            gc.enable()


def _unheard(logger: logging.Logger, record: logging.LogRecord) -> None:
    """In the place of Logger.handle."""


def _same(found: list[Command], expected: list[Command]) -> bool:
    if len(found) != len(expected):
        return False
    for new, old in zip(found, expected, strict=True):
        if new != old and not _equivalent(new, old):
            return False
    return True


def _equivalent(new: Command, old: Command) -> bool:
    """Equal but for bytes: two pickles of equal values may share their parts differently."""
    if isinstance(new, Answered) and isinstance(old, Answered):
        if (new.id, new.ok) != (old.id, old.ok):
            return False
        if old.size:
            # Of a long answer the checksum is kept. A long pickle may be laid out differently;
            # that it is one, and that it is long, is all that can be asked of it.
            long_pickle = new.body[:1] == b"\x80" and len(new.body) > BODY_KEPT_MAX
            return shortened(new) == old or long_pickle
        return _same_bytes(new.ok, new.body, old.body)
    if isinstance(new, (Framed, Broadcast)) and type(new) is type(old) and old.size:
        return shortened_message(new) == old
    if isinstance(new, StepAsked) and isinstance(old, StepAsked):
        if old.size:
            # Of long arguments the checksum is kept, as of a long answer.
            kept = without_arguments(new)
            same = msgspec.structs.replace(kept, size=old.size, checksum=old.checksum) == old
            return same and len(new.body) > ARGUMENTS_KEPT_MAX
        return _but_body(new) == _but_body(old) and heap.same(new.body, old.body)
    if isinstance(new, Yielded) and isinstance(old, Yielded):
        return _but_body(new) == _but_body(old) and _same_bytes(True, new.body, old.body)
    if isinstance(new, Sent) and isinstance(old, Sent):
        a, b = new.event, old.event
        if new.to != old.to or type(a) is not type(b):
            return False
        if isinstance(a, Call) and isinstance(b, Call):
            return _but_body(a) == _but_body(b) and heap.same(a.body, b.body)
        if isinstance(a, Item) and isinstance(b, Item):
            return _but_body(a) == _but_body(b) and heap.same(a.body, b.body)
        if isinstance(a, Resolved) and isinstance(b, Resolved):
            return _but_body(a) == _but_body(b) and _same_bytes(a.ok, a.body, b.body)
        if isinstance(a, Reply) and isinstance(b, Reply):
            return _but_body(a) == _but_body(b) and _same_bytes(a.ok, a.body, b.body)
    return False


def _but_body(value: msgspec.Struct) -> msgspec.Struct:
    return msgspec.structs.replace(value, body=b"")


def _same_bytes(ok: bool, new: bytes, old: bytes) -> bool:
    if ok:
        return new[:1] == b"\x80" and heap.same(new, old)
    # Of a failure, the text may hold the address of something in memory, and its pickled
    # exception may be laid out differently; what it says is the same.
    a, b = decode_failure(new), decode_failure(old)
    return (a.code, a.error, _faceless(a.message)) == (b.code, b.error, _faceless(b.message))


def _faceless(text: str) -> str:
    return re.sub(r"\b0x[0-9a-f]+", "0x", text)


def _tell(commands: list[Command], wake_at: int) -> str:
    told = [tell_command(command) for command in commands]
    if wake_at > 1:
        told.append(f"a timer at {wake_at / 1e9:.6f}")
    return "; ".join(told) or "nothing"


def tell_command(command: Command) -> str:
    """A command in a few words, for a person."""
    if isinstance(command, Answered):
        what = f"{command.size} bytes" if command.size else _short(command.body)
        return f"{'answer' if command.ok else 'failure'} {what}"
    if isinstance(command, Yielded):
        return f"item {command.index} {_short(command.body)}"
    if isinstance(command, Sent):
        if isinstance(command.event, Item):
            return f"item {command.event.index} to {command.to} {_short(command.event.body)}"
        if isinstance(command.event, Call):
            verb = "call" if command.event.answer_to else "send"
            return f"{verb} {command.to}.{command.event.handler}{_short(command.event.body)}"
        if isinstance(command.event, Reply):
            return f"reply to {command.to} {_short(command.event.body)}"
        if isinstance(command.event, Resolved):
            return f"{'resolve' if command.event.ok else 'reject'} a promise of {command.to}"
        if isinstance(command.event, Cancel):
            return f"cancel call {command.event.id} of {command.to}"
        return f"delete {command.to}"
    if isinstance(command, Promised):
        return f"promise of {command.of}"
    if isinstance(command, Settled):
        return "promise settled"
    if isinstance(command, Planned):
        due = f"at {iso(command.next_ns)}" if command.next_ns else "never again"
        return f"{command.id} {due}"
    if isinstance(command, (Framed, Broadcast)):
        what = f"{command.size} bytes" if command.size else _short(command.body)
        if isinstance(command, Framed):
            return f"message to {command.conn} {what}"
        some = "all" if command.to is None else f"{len(command.to)}"
        return f"message to {some}{' but some' if command.but else ''} {what}"
    if isinstance(command, Closed):
        return f"close {command.conn} {command.code} {command.reason}".rstrip()
    if isinstance(command, StepAsked):
        return f"step {command.name.rpartition(':')[2]}{_short(command.body)}"
    return f"drop step {command.number}"


def _short(body: bytes) -> str:
    return short_body(body, 80)


def short_body(body: bytes, limit: int) -> str:
    """A body for people: JSON as it is, a pickled value by its repr."""
    if body[:1] == b"\x80":
        try:
            value = heap.loads(body)
            if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
                args = [
                    *map(repr, value[0]),
                    *(f"{name}={arg!r}" for name, arg in value[1].items()),
                ]
                text = f"({', '.join(args)})"
            else:
                text = repr(value)
        except BaseException as error:
            if is_interrupt(error):
                raise
            # A repr of the app may raise anything, also what would end the process.
            text = f"<{len(body)} bytes>"
    else:
        text = body.decode("utf-8", "replace")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
