"""The journal of an object for people: its turns and its calls, filtered, page by page.

What is shown is on disk: nobody hears of a turn that a crash could still undo.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.clock import iso
from perdure.errors import BadArguments, UnknownObject
from perdure.host.replay import short_body, tell_command
from perdure.journal.entry import Answered, Call, Ended, Entry, Forked, Reply, Sent
from perdure.journal.identity import call_id, oid_of
from perdure.past.record import Record, record_of
from perdure.ref import parse_address
from perdure.sight.look import event_of, told

if TYPE_CHECKING:
    from perdure.host.host import Host

FOLLOW_S = 0.1
"""Between two looks at an object that is followed."""


class Filter(msgspec.Struct, frozen=True):
    """Which turns are wanted; what is None leaves all through."""

    kinds: frozenset[str] | None = None
    """As in the column `kind`: call, send, timer, step …"""
    handlers: frozenset[str] | None = None
    """Calls of these handlers."""
    since_ns: int | None = None
    until_ns: int | None = None
    failed: bool = False
    """Turns in which a call failed."""

    def passes(self, entry: Entry) -> bool:
        """Whether a turn is wanted."""
        if self.since_ns is not None and entry.time < self.since_ns:
            return False
        if self.handlers is not None and (
            type(entry.event) is not Call or entry.event.handler not in self.handlers
        ):
            return False
        if self.failed and not failed(entry):
            return False
        return self.kinds is None or event_of(entry)[0] in self.kinds


EVERYTHING = Filter()


def failed(entry: Entry) -> bool:
    """Whether a call failed in this turn."""
    return any(
        (type(command) is Answered and not command.ok)
        or (type(command) is Sent and type(command.event) is Reply and not command.event.ok)
        for command in entry.commands
    )


async def page(
    record: Record, after: int, limit: int, wanted: Filter = EVERYTHING
) -> list[dict[str, Any]]:
    """Turns behind `after` that pass, at most `limit`, as JSON."""
    if wanted.since_ns is not None:
        after = max(after, await seq_at(record, wanted.since_ns - 1))
    found: list[dict[str, Any]] = []
    async for entries in record.pages(after, record.last):
        for entry in entries:
            if wanted.until_ns is not None and entry.time > wanted.until_ns:
                return found
            if wanted.passes(entry):
                found.append(told(entry))
                if len(found) >= limit:
                    return found
        await asyncio.sleep(0)
    return found


async def follow(
    host: Host, address: str, after: int, limit: int, wanted: Filter, wait_s: float
) -> list[dict[str, Any]]:
    """`page` of an object of a host, which waits for the next turn where there is none yet."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s
    oid = oid_of(*parse_address(address))
    while True:
        checkpoints = host.checkpointer.done
        unknown: UnknownObject | None = None
        try:
            record = await record_of(host, address)
            found = await page(record, after, limit, wanted)
            if found:
                return found
            after = max(after, record.last)
        except UnknownObject as error:
            # Its first turn may be what is waited for.
            unknown = error
        # A turn is in the tail until a checkpoint moves it.
        while (
            (newest := host.log.last_entry(oid)) is None or newest.seq <= after
        ) and checkpoints == host.checkpointer.done:
            if loop.time() >= until_s:
                if unknown is not None:
                    raise unknown
                return []
            await asyncio.sleep(FOLLOW_S)


async def seq_at(record: Record, time_ns: int) -> int:
    """The last turn at or before a time; 0 if there is none."""
    low, high = 0, record.last  # `low` is before or at the time, what is behind `high` is after.
    while low < high:
        middle = (low + high + 1) // 2
        entry = await record.probe(middle)
        if entry is None:
            high = middle - 1
        elif entry.time <= time_ns:
            low = max(entry.seq, low) if entry.seq <= high else high
        else:
            high = middle - 1
    return low


# --- calls


async def calls(record: Record, after: int, limit: int, wanted: Filter) -> list[dict[str, Any]]:
    """Calls that came in behind turn `after`, with their ends, at most `limit`."""
    begun: dict[Any, dict[str, Any]] = {}
    shown: list[dict[str, Any]] = []
    open_ = 0
    async for entries in record.pages(after, record.last):
        for entry in entries:
            event = entry.event
            if type(event) is Call and len(shown) < limit and wanted.passes(entry):
                shown.append(_call(event, entry))
                open_ += 1
                begun[event.id] = shown[-1]
                if event.answer_to:
                    begun[event.caller, event.answer_to] = shown[-1]
            for command in entry.commands:
                open_ -= _ends(begun, command, entry)
            if type(event) is Forked:
                begun = _renamed(begun, event)
            if type(event) is Ended:
                for call in shown:
                    if call["status"] == "running":
                        call |= {"status": "dropped", "ended": iso(entry.time)}
                        call["ended_seq"] = entry.seq
                begun.clear()
                open_ = 0
            if len(shown) >= limit and open_ <= 0:
                return shown
        await asyncio.sleep(0)
    return shown


def _renamed(begun: dict[Any, dict[str, Any]], event: Forked) -> dict[Any, dict[str, Any]]:
    """Calls that run on in a copy, by the ids that they have there."""
    oid = oid_of(*parse_address(event.address))
    renamed: dict[Any, dict[str, Any]] = {}
    for id_, call in begun.items():
        if isinstance(id_, str):
            call["id"] = call_id(oid, id_.partition("-")[2])
            renamed[call["id"]] = call
    return renamed


def _call(event: Call, entry: Entry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "id": event.id,
        "handler": event.handler,
        "arguments": short_body(event.body, 400),
        "caller": event.caller or None,
        "began": iso(entry.time),
        "status": "running",
        "ended": None,
        "ended_seq": None,
        "answer": None,
    }


def _ends(begun: dict[Any, dict[str, Any]], command: Any, entry: Entry) -> bool:
    if type(command) is Answered:
        call, ok = begun.pop(command.id, None), command.ok
    elif type(command) is Sent and type(command.event) is Reply:
        call, ok = begun.pop((command.to, command.event.number), None), command.event.ok
    else:
        return False
    if call is None:
        return False
    begun.pop(call["id"], None)
    call |= {
        "status": "done" if ok else "failed",
        "ended": iso(entry.time),
        "ended_seq": entry.seq,
        "answer": tell_command(command),
    }
    return True


def read_filter(given: dict[str, str], now_ns: int) -> Filter:
    """A filter from text, as it comes in a URL. Raises BadArguments."""
    from perdure.past.moment import read_time

    def names(name: str) -> frozenset[str] | None:
        text = given.get(name)
        return frozenset(text.split(",")) if text else None

    def when(name: str) -> int | None:
        text = given.get(name)
        return read_time(text, now_ns, end=name == "until") if text else None

    text = given.get("failed", "0")
    if text not in ("0", "1", "false", "true", ""):
        raise BadArguments(f"failed is 1 or 0, not {text[:50]!r}")
    return Filter(
        names("kind"), names("handler"), when("since"), when("until"), text in ("1", "true", "")
    )
