"""What an object's own `authorize` is asked: who may do what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure.ref import Ref

ActionKind = Literal["call", "query", "connect", "request", "admin"]


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody is about to do.

    Override `async def authorize(self, principal, action)` in a class to decide for each object:
    raise Unauthorized or Forbidden to refuse. It runs as a query does, before the call, and
    changes nothing.
    """

    kind: ActionKind
    object: Ref | None
    """None where no single object is meant."""
    handler: str | None
    """The name of the handler, for `call` and `query`."""
