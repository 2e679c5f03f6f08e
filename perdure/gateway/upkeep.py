"""Repairs, erasure and pruning over HTTP; each says who and why, and changes one thing.

POST objects/{Class}/{key}/repair   {"step": ID, "value": …} | {"step": ID, "fail": TEXT}
                                    | {"attribute": NAME, "value": …};  "by", "why"
POST objects/{Class}/{key}/erase    {"name": false, "compact": false}
POST calls/{id}/again               {"by": …, "why": …}
POST prune                          {"older": {"Class": seconds}, "apply": false}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.clock import NS
from perdure.errors import BadArguments
from perdure.gateway.problem import Reply, problem_of_failure
from perdure.gateway.reply import JSON, json_reply, nothing
from perdure.host import repairing, retention
from perdure.serde import from_json

if TYPE_CHECKING:
    from perdure.host.host import Host


class Repair(msgspec.Struct, forbid_unknown_fields=True):
    """One of: a step with a value or a failure, or an attribute with a value."""

    step: str = ""
    attribute: str = ""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fail: str | None = None
    by: str = ""
    why: str = ""


class Erase(msgspec.Struct, forbid_unknown_fields=True):
    name: bool = False
    compact: bool = False


class Again(msgspec.Struct, forbid_unknown_fields=True):
    by: str = ""
    why: str = ""


class Prune(msgspec.Struct, forbid_unknown_fields=True):
    older: dict[str, float] = {}
    """By class, in seconds; without this and `over`, what the settings say."""
    over: dict[str, int] = {}
    """By class, how many bytes of its newest history each object keeps."""
    apply: bool = False


async def repair(host: Host, address: str, body: bytes) -> Reply:
    """Change an object by hand."""
    asked: Repair = _read(body, Repair)
    if bool(asked.step) == bool(asked.attribute) or not asked.why:
        raise BadArguments(
            "a repair names a `step` or an `attribute`, and says `why`",
            errors=[("$.why" if not asked.why else "$.step", "is missing")],
        )
    value = asked.value
    if asked.attribute:
        if isinstance(value, msgspec.UnsetType):
            raise BadArguments("the new value is missing", errors=[("$.value", "is missing")])
        await repairing.set_attribute(
            host, address, asked.attribute, bytes(value), asked.by, asked.why
        )
    elif asked.fail is not None:
        await repairing.fail_step(host, address, asked.step, asked.fail, asked.by, asked.why)
    else:
        result = None if isinstance(value, msgspec.UnsetType) else msgspec.json.decode(value)
        await repairing.resolve_step(host, address, asked.step, result, asked.by, asked.why)
    return nothing()


async def again(host: Host, call_id: str, body: bytes) -> Reply:
    """Begin a call anew; its answer is the answer."""
    asked: Again = _read(body, Again)
    if not asked.why:
        raise BadArguments("say `why`", errors=[("$.why", "is missing")])
    answer = await repairing.drive_again(host, call_id, asked.by, asked.why)
    if answer.failure is not None:
        return problem_of_failure(answer.failure)
    return Reply(200, JSON, answer.body if answer.body[:1] != b"\x80" else b"null")


async def erase(host: Host, address: str, body: bytes) -> Reply:
    """End an object and remove what is stored of it."""
    asked: Erase = _read(body, Erase)
    turns = await retention.erase(host, address, name=asked.name, compact=asked.compact)
    return json_reply({"address": address, "turns": turns})


async def prune(host: Host, body: bytes) -> Reply:
    """Remove old history, or say what would go."""
    asked: Prune = _read(body, Prune)
    now = host.clock.now_ns()
    before = {name: now - int(age * NS) for name, age in asked.older.items()}
    if not (before or asked.over):
        before = retention.cutoffs(host)
    pruned = await retention.prune(host, before, apply=asked.apply, over=asked.over)
    return json_reply({**pruned._asdict(), "applied": asked.apply})


def _read(body: bytes, shape: Any) -> Any:
    return from_json(body or b"{}", shape)
