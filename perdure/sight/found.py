"""Objects by their Indexed attributes, as CLI and admin HTTP see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perdure.errors import BadArguments, UnknownKind
from perdure.indexed import read_condition
from perdure.sight.look import line

if TYPE_CHECKING:
    from perdure.host.host import Host


async def find_objects(
    host: Host, kind: str, conditions: Sequence[str], limit: int, after: str | None
) -> list[dict[str, Any]]:
    """Objects of a class that meet all conditions (`status=open`), behind the key `after`.

    Raises UnknownKind, BadArguments.
    """
    if kind not in host.kinds:
        raise UnknownKind(f"no class {kind!r} is served here")
    where: dict[str, Any] = {}
    for text in conditions:
        name, value = read_condition(text, host.kinds[kind].indexed)
        # Not compared with itself, which NaN is not equal to.
        if name in where and where[name] != value:
            raise BadArguments(f"{text!r}: there is another condition of that kind")
        where[name] = value
    rows = await host.index.find(kind, where, limit, after)
    return [line(host, (row.kind, row.key), row.last, row.updated) for row in rows]
