"""Looks at a record: the state at a moment, what differs between two, errors. CLI, HTTP and Python
all come to these."""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.past.failures import errors_of
from perdure.past.history import Filter, page, seq_at
from perdure.past.moment import Moment
from perdure.past.record import Record
from perdure.past.state import changes, state_of, told
from perdure.past.walk import walk
from perdure.ref import format_address


def address_of(record: Record) -> str:
    return format_address(record.kind.name, record.key)


async def turn_at(record: Record, moment: Moment | None) -> int:
    """The turn that a moment means; None is the newest."""
    if moment is None:
        return record.last
    if moment.seq is not None:
        return moment.seq
    assert moment.time_ns is not None
    return await seq_at(record, moment.time_ns)


async def state_at(record: Record, moment: Moment | None) -> dict[str, Any]:
    """The state as it was: `address, seq, time, state`. Raises UnknownTurn, DivergenceError."""
    machine = await walk(record, await turn_at(record, moment))
    try:
        return told(machine, address_of(record))
    finally:
        machine.discard()


async def diff(record: Record, a: Moment, b: Moment) -> dict[str, Any]:
    """What differs between two moments: `address, from, to, changes`."""
    states: list[Any] = []
    turns = [await turn_at(record, a), await turn_at(record, b)]
    for seq in turns:
        # Each from its own copy: a look may run reprs of the app, which a walk must not go on from.
        machine = await walk(record, seq)
        try:
            states.append(state_of(machine))
        finally:
            machine.discard()
    return {
        "address": address_of(record),
        "from": turns[0],
        "to": turns[1],
        "changes": [
            msgspec.structs.asdict(change) | {"text": str(change)} for change in changes(*states)
        ],
    }


async def errors(record: Record, at: int | None, after: int, limit: int) -> list[dict[str, Any]]:
    """Errors of one turn, or of each turn behind `after` in which a call failed."""
    if at is not None:
        return await errors_of(record, at)
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        turns = await page(record, after, limit - len(found), Filter(failed=True))
        for turn in turns:
            after = turn["seq"]
            found += await errors_of(record, after)
        if not turns:
            break
    return found[:limit]
