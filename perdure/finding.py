"""`Order.find(...)`: objects by their Indexed attributes.

Inside an object it is a step: what is found is the world outside, so it is recorded once, and a
replay finds the same.
"""

from __future__ import annotations

from typing import Any

from perdure.inside import inside
from perdure.ref import Ref, outside
from perdure.steps import step


@step
async def _find(kind: str, where: dict[str, Any], limit: int, after: str | None) -> list[str]:
    return await outside().find(kind, where, limit, after)


async def find(kind: str, where: dict[str, Any], limit: int, after: object) -> list[Ref]:
    """Refs of the objects of a class that meet all conditions, in the order of their keys."""
    key = None if after is None else after if isinstance(after, str) else getattr(after, "key", "")
    if inside() is not None:
        keys = await _find(kind, where, limit, key)
    else:
        keys = await outside().find(kind, where, limit, key)
    return [Ref(kind, key) for key in keys]
