"""Steps of an object as people see them: what runs, what waits for a place or its next attempt,
what failed. The journal says what is asked for; what an attempt is doing only this process knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.clock import NS, iso
from perdure.host.replay import short_body

if TYPE_CHECKING:
    from perdure.host.effects import Effects
    from perdure.host.machine import Machine
    from perdure.host.records import Failed, Waited


def tell_steps(machine: Machine, effects: Effects) -> list[dict[str, Any]]:
    """Steps that are under way, in the order of their asking, then those between two attempts."""
    notes = machine.step_notes
    retrying = dict(notes.retrying) if notes is not None else {}
    told = []
    for waited in (machine.steps or {}).values():
        failed = retrying.pop(waited.asked.id, None)
        told.append(_under_way(machine, effects, waited, failed))
    return told + [_between(failed) for failed in retrying.values()]


def tell_failed(machine: Machine) -> list[dict[str, Any]]:
    """The last steps that failed for good, the newest last."""
    notes = machine.step_notes
    return [
        {
            "name": failed.name,
            "id": failed.id,
            "attempt": failed.attempt,
            "at": iso(failed.at),
            "error": failed.error,
        }
        for failed in (notes.failed if notes is not None else ())
    ]


def _under_way(
    machine: Machine, effects: Effects, waited: Waited, failed: Failed | None
) -> dict[str, Any]:
    asked = waited.asked
    attempt = effects.find(machine.oid, asked.number)
    facts: dict[str, Any] = {
        "name": asked.name,
        "arguments": short_body(asked.body, 200),
        "id": asked.id,
        "attempt": asked.attempt,
        "since": iso(waited.since),
        "status": attempt.phase.value if attempt is not None else "asked for",
        "last_error": failed.error if failed is not None else None,
        "next_try": None,
        "progress": attempt.progress if attempt is not None else None,
    }
    if attempt is not None and attempt.beat_s:
        quiet_s = attempt.monotonic() - attempt.beat_s
        facts["heartbeat"] = iso(effects.clock.now_ns() - round(quiet_s * NS))
    if waited.stream is not None:
        facts["items"] = len(waited.stream.items)
    return facts


def _between(failed: Failed) -> dict[str, Any]:
    return {
        "name": failed.name,
        "arguments": None,
        "id": failed.id,
        "attempt": failed.attempt,
        "since": iso(failed.at),
        "status": "waiting for the next attempt",
        "last_error": failed.error,
        "next_try": iso(failed.again_at),
        "progress": None,
    }
