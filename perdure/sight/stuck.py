"""What cannot go on, or does not, found without knowing where to look.

    quarantined   an object that was set aside
    late          a call that runs on behind its deadline: it was told, and has not ended
    retrying      a call whose step fails, and is tried again
    waiting       a call that waits for something which nobody here is going to do
    failed        a send or a schedule's call that failed, so that nobody was told; how often
    not served    a message to, or work of, a class that is not served

What is measured against an age is how long the call has been under way.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from perdure.clock import iso
from perdure.host.register import OPEN
from perdure.journal.entry import Call
from perdure.ref import format_address, parse_address
from perdure.sight.calls import waiting
from perdure.store.base import CallFilter, CallRow

if TYPE_CHECKING:
    from perdure.host.host import Host

LIMIT_MAX = 1000
_LOOKED_AT_MAX = 2000
_PAGE = 200


async def stuck(host: Host, older_ns: int, limit: int) -> list[dict[str, Any]]:
    """What is stuck; of open calls, those that began at least `older_ns` ago."""
    lines = _quarantined(host) + _not_served(host) + await _idle_work(host)
    seen = set()
    for row in await _late(host):
        seen.add(row.id)
        lines.append(_call("late", row, f"its deadline was {iso(row.deadline)}"))
    lines += await _waits(host, older_ns, seen)
    lines += await _failed(host)
    return lines[:limit]


async def count(host: Host) -> int:
    """How much is stuck of what can be counted at no cost: quarantined, late, not served."""
    return len(_quarantined(host)) + len(_not_served(host)) + len(await _late(host))


def _line(what: str, address: str, since: str | None, detail: str, **more: Any) -> dict[str, Any]:
    facts = {"what": what, "object": address, "since": since, "detail": detail}
    return facts | {"call_id": None, "handler": None, "count": 1} | more


def _call(what: str, row: CallRow, detail: str, **more: Any) -> dict[str, Any]:
    address = format_address(row.kind, row.key)
    more = {"call_id": row.id, "handler": row.handler} | more
    return _line(what, address, iso(row.since), detail, **more)


def _quarantined(host: Host) -> list[dict[str, Any]]:
    found = [json.loads(detail) for detail in host.quarantine.objects.values()]
    return [_line("quarantined", one["object"], iso(one["since"]), one["reason"]) for one in found]


def _not_served(host: Host) -> list[dict[str, Any]]:
    found: dict[str, int] = {}
    for _, message in host.log.outbox.values():
        to = message.sent.to
        if to[0] != "#" and parse_address(to)[0] not in host.kinds:
            what = message.sent.event.handler if isinstance(message.sent.event, Call) else ""
            found[f"{to}\t{what}"] = found.get(f"{to}\t{what}", 0) + 1
    lines = []
    for place, number in found.items():
        to, _, handler = place.partition("\t")
        text = "a message waits: the class is not served"
        lines.append(_line("not served", to, None, text, handler=handler or None, count=number))
    return lines


async def _idle_work(host: Host) -> list[dict[str, Any]]:
    rows = await host.store.due([host.log.part], host.clock.now_ns(), _PAGE)
    return [
        _line(
            "not served",
            format_address(row.kind, row.key),
            iso(row.wake_at) if row.wake_at > 1 else None,
            "it has something to do, and its class is not served",
        )
        for row in rows
        if row.kind not in host.kinds
    ]


async def _late(host: Host) -> list[CallRow]:
    wanted = CallFilter(OPEN, late=host.clock.now_ns())
    return await host.register.list(wanted, None, LIMIT_MAX)


async def _waits(host: Host, older_ns: int, seen: set[str]) -> list[dict[str, Any]]:
    """Of the oldest of the open calls, those that wait for nobody, or for a step that fails."""
    lines = []
    before = host.clock.now_ns() - older_ns
    after: tuple[int, str] | None = (before + 1, "")
    looked_at = 0
    while looked_at < _LOOKED_AT_MAX:
        rows = await host.register.list(CallFilter(OPEN), after, _PAGE)
        for row in rows:
            looked_at += 1
            if row.id in seen:
                continue
            end, text = await waiting(host, row)
            if end == "retry":
                lines.append(_call("retrying", row, text or ""))
            elif end == "future" and not row.deadline:
                lines.append(_call("waiting", row, f"{text}: nobody here is going to resolve it"))
        if len(rows) < _PAGE:
            break
        after = rows[-1].since, rows[-1].id
    return lines


async def _failed(host: Host) -> list[dict[str, Any]]:
    """Failures of which nobody was told, a line for each object and handler."""
    rows = await host.register.list(CallFilter(unheard=True), None, LIMIT_MAX)
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        known = found.get((row.oid, row.handler))
        if known is not None:
            known["count"] += 1
        else:
            # The newest comes first.
            found[row.oid, row.handler] = _call("failed", row, row.failure)
    return list(found.values())
