"""Which version of the code each object is on, and why it is not on the newest; what is kept of old
versions, and which of them nobody needs any more. Wakes nobody and changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from perdure.clock import iso, perf_ns
from perdure.errors import UnknownVersion
from perdure.host.activation import Activation, State
from perdure.host.upgrades import told_stayed
from perdure.journal import codec
from perdure.journal.identity import first_name, oid_of
from perdure.ref import format_address, parse_address
from perdure.store.base import ObjectFilter
from perdure.suspend import bundles, heap

if TYPE_CHECKING:
    from perdure.host.host import Host

_BREATH_NS = 5_000_000
_PAGE = 16


async def versions(host: Host) -> dict[str, Any]:
    """What versions there are, the newest put last: `current`, and a list of `version, created,
    bytes`."""
    return {
        "current": host.version,
        "versions": [
            {"version": version, "created": iso(created), "bytes": size}
            for version, created, size in await host.store.versions()
        ],
    }


async def bundle(host: Host, version: str) -> dict[str, Any]:
    """The source of a version: `version, classes, modules`. Raises UnknownVersion."""
    known = [name for name, _, _ in await host.store.versions()]
    found = [name for name in known if name.startswith(version)]
    if len(found) != 1:
        raise UnknownVersion(
            f"no version {version!r} is known" if not found else f"{version!r} is not the only one",
            hint=f"There are: {', '.join(known[-10:])}.",
        )
    data = await host.store.get_version(found[0])
    if not data:
        return {"version": found[0], "classes": {}, "modules": {}}
    read = bundles.read(found[0], data)
    return {"version": found[0], "classes": read.classes, "modules": read.modules}


async def holders(
    host: Host, kind: str | None, after: str | None, limit: int, *, past: bool
) -> dict[str, Any]:
    """One page of objects behind the address `after`.

    `objects` are those that are not on the newest version, or have code in an older one: with
    `address, version, why` and `stays`. `on` counts objects by version, `code` those whose waiting
    code is in one, `past` (if asked for, since it reads all history) those that have turns in one.
    """
    begin = parse_address(after) if after else None
    rows = await host.store.scan(ObjectFilter(first_name(kind) if kind else None), begin, limit)
    names = [(row.kind, row.key) for row in rows]
    if len(rows) < limit:
        names += _without_row(host, kind, {oid_of(*name) for name in names})
    on: Counter[str] = Counter()
    code: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    told: list[dict[str, Any]] = []
    began = perf_ns()
    for name in names:
        oid = oid_of(*name)
        facts = await _holds(host, oid, *name)
        if facts is not None:
            on[facts["version"]] += 1
            code.update({one["version"] for one in facts["stays"]})
            if facts["why"] or facts["stays"]:
                told.append(facts)
        if past:
            turns.update(await _versions_in_past(host, oid))
        if perf_ns() - began > _BREATH_NS:
            await asyncio.sleep(0)
            began = perf_ns()
    return {
        "objects": told,
        "on": dict(on),
        "code": dict(code),
        "past": dict(turns) if past else None,
        "next": format_address(*names[-1]) if len(rows) == limit else None,
    }


def _without_row(host: Host, kind: str | None, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Objects that are younger than the last checkpoint."""
    for oid in host.log.dirty() - seen:
        address = host.log.first_address(oid)
        if address is not None:
            name = parse_address(address)
            if kind is None or first_name(name[0]) == first_name(kind):
                yield name


async def _holds(host: Host, oid: int, kind: str, key: str) -> dict[str, Any] | None:
    served = host.kinds.find(kind)
    facts: dict[str, Any] = {
        "address": format_address(served.name if served is not None else kind, key),
        "version": host.version,
        "why": "",
        "stays": [],
    }
    activation = host.find(oid)
    if activation is not None and activation.state is State.ACTIVE:
        return facts | _of_active(activation)
    last = host.log.last_entry(oid)
    stored = host.stash.get(oid) or await host.store.load(host.log.part, oid)
    if last is None and (stored is None or stored.row.status == "deleted"):
        return None
    facts["version"] = last.version if last is not None else stored.row.version  # type: ignore[union-attr]
    if stored is not None:
        body = stored.suspended.body if stored.suspended is not None else stored.row.snapshot
        facts["stays"] = [
            {"version": version, "function": "", "module": ""}
            for version in heap.versions_of(body or b"")[1:]
        ]
    if served is None:
        facts["why"] = f"its class {kind} is not served"
    elif oid in host.quarantine.objects:
        facts["why"] = json.loads(host.quarantine.objects[oid])["reason"]
    elif facts["version"] != host.version:
        facts["why"] = "it sleeps, and goes over when it is next loaded"
    return facts


def _of_active(activation: Activation) -> dict[str, Any]:
    machine = activation.machine
    return {
        "version": machine.kind.version or activation.host.version,
        "why": activation.held,
        # As of its load; what has come to its end since then holds nothing.
        "stays": told_stayed(activation.stayed) if machine.tasks else [],
    }


async def _versions_in_past(host: Host, oid: int) -> set[str]:
    found: set[str] = set()
    after = 0
    while segments := await host.store.history(host.log.part, oid, after, _PAGE):
        for segment in segments:
            place = f"history of {oid:016x}"
            found.update(entry.version for _, entry in codec.read_entries(segment.body, place))
        after = segments[-1].last
    found.update(codec.decode_entry(body).version for body in host.log.entries_of(oid))
    return found
