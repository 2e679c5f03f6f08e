"""Which objects could not be loaded under this interpreter and this code.

Every stored snapshot is loaded once, into a machine that is then thrown away; no object is woken
and nothing is written. What a replay would come to is not tried here, only what it begins from.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from perdure.clock import perf_ns
from perdure.errors import PerdureError, UnknownKind
from perdure.failure import described
from perdure.host.load import REBUILD, rests_on_code
from perdure.host.machine import Machine
from perdure.host.upgrades import having
from perdure.journal import codec
from perdure.journal.identity import oid_of
from perdure.ref import format_address, parse_address
from perdure.store.base import ObjectFilter, Stored
from perdure.suspend import heap, probe

if TYPE_CHECKING:
    from perdure.host.host import Host

_BREATH_NS = 5_000_000
"""After so much work, the calls have their turn."""


async def examine(host: Host, kind: str | None, after: str | None, limit: int) -> dict[str, Any]:
    """One page of objects behind the address `after`: how many were checked, and what is wrong.

    `next` is the address to go on behind, or None. `kind` may be a class that is not served.
    """
    begin = parse_address(after) if after else None
    rows = await host.store.scan(ObjectFilter(kind), begin, limit)
    names = [(row.kind, row.key) for row in rows]
    if len(rows) < limit:
        names += _without_row(host, kind)
    if kind is not None and not names and after is None and kind not in host.kinds:
        # A name that was mistyped must not pass for a class of which all is well.
        raise UnknownKind(f"no class {kind!r} is served here, and the store has no object of one")
    problems: list[dict[str, Any]] = []
    began = perf_ns()
    for name in names:
        problems += await _examine(host, *name)
        if perf_ns() - began > _BREATH_NS:
            await asyncio.sleep(0)
            began = perf_ns()
    why = probe.unfit()
    return {
        "checked": len(names),
        "problems": problems,
        "next": format_address(*names[-1]) if len(rows) == limit else None,
        "interpreter": f"{platform.python_implementation()} {platform.python_version()}",
        "suspended_code": {"kept": not why, "why": why or None},
    }


def _without_row(host: Host, kind: str | None) -> Iterator[tuple[str, str]]:
    """Objects that are younger than the last checkpoint: they have entries and nothing else."""
    for oid in host.log.dirty():
        address = host.log.first_address(oid)
        if address is not None and kind in (None, parse_address(address)[0]):
            yield parse_address(address)


async def _examine(host: Host, kind: str, key: str) -> list[dict[str, Any]]:
    address = format_address(kind, key)
    oid = oid_of(kind, key)
    refusal = host.quarantine.refusal(oid)
    if refusal is not None:
        return [_problem(address, "quarantined", refusal.message)]
    if kind not in host.kinds:
        return [_problem(address, "class not served", f"no class {kind!r} is served here")]
    stored = await host.store.load(host.log.part, oid)
    if stored is None:
        return []
    base, cache = stored.row, stored.suspended
    base_why = await _why_not(host, stored, base.snapshot)
    cache_why = await _why_not(host, stored, cache.body) if cache is not None else ""
    first = 1 if base_why or base.snapshot is None else base.seq + 1
    newest = host.log.last_entry(oid)
    replay = await _replay(host, oid, first, newest.seq if newest is not None else base.last)
    problems: list[dict[str, Any]] = []
    if cache_why:
        problems.append(_problem(address, "suspended snapshot", cache_why, replay))
    if base_why:
        if cache is not None and not cache_why:
            replay = f"nothing, while the snapshot of turn {cache.seq} loads"
        elif not rests_on_code(stored):
            replay = ""
        problems.append(_problem(address, "base snapshot", base_why, replay))
    return problems


async def _why_not(host: Host, stored: Stored, snapshot: bytes | None) -> str:
    """Why a snapshot does not load; empty if it does, or is none."""
    if snapshot is None:
        return ""
    row = stored.row
    scratch = Machine(host.kinds[row.kind], row.key, row.oid, host.surroundings)
    if host.slot is not None:
        host.slot.begin(scratch.address, REBUILD)
    try:
        row_version = row.version if row.seq == row.last else ""
        await having(scratch, lambda: heap.load_heap(scratch, snapshot, row_version))
    except PerdureError as error:
        return error.message
    except Exception as error:
        return described(error)
    finally:
        scratch.discard()
        if host.slot is not None:
            host.slot.end()
    return ""


async def _replay(host: Host, oid: int, first: int, last: int) -> str:
    """The replay that takes a snapshot's place; empty if the journal does not reach back so far."""
    segments = await host.store.history(host.log.part, oid, first - 1, 1)
    if segments:
        begins = segments[0].first
    else:
        entries = host.log.entries_of(oid)
        begins = codec.decode_entry(entries[0]).seq if entries else first
    if begins > first:
        return ""
    turns = last - first + 1
    return f"replay of {turns} turn{'' if turns == 1 else 's'} from turn {first}"


def _problem(address: str, what: str, why: str, replay: str = "") -> dict[str, Any]:
    return {
        "address": address,
        "what": what,
        "why": why,
        "follows": replay or "cannot be loaded",
        "loadable": bool(replay),
    }
