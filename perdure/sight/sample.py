"""After a deploy: can the new code read the objects that are there? A sample of them is tried.

The answer is a warning and no refusal. Nothing is lost by starting: an object that does not go over
is set aside by itself, as it was, and the others are served. To be told beforehand, there is
`perdure verify`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.errors import OperatorError, PerdureError, UpgradeFailed
from perdure.host.machine import Machine
from perdure.host.upgrades import begin_from, bring_copy_over, having
from perdure.logs import logger
from perdure.store.base import ObjectFilter, ObjectRow

if TYPE_CHECKING:
    from perdure.host.host import Host


SAMPLE = 50
"""Objects of each class."""


async def try_sample(host: Host) -> dict[str, str]:
    """Bring some objects of each class over to the newest code, on copies.

    Gives why, by address, for those that would not go over, and warns of them.
    """
    failed: dict[str, str] = {}
    tried = 0
    for kind in list(host.kinds.values()):
        for name in (kind.name, *kind.aliases):
            for row in await host.store.scan(ObjectFilter(name, status=""), None, SAMPLE):
                if row.version != host.version:
                    tried += 1
                    why = await _why_not(host, row)
                    if why:
                        failed[f"{kind.name}/{row.key}"] = why
                    # Whoever calls has precedence.
                    await asyncio.sleep(0)
    if failed:
        address, why = next(iter(failed.items()))
        logger.warning(
            "objects do not go over to this code, and will be set aside when they are called",
            of_the_sample=f"{len(failed)} of {tried}", one=address, why=why,
        )  # fmt: skip
    return failed


async def _why_not(host: Host, row: ObjectRow) -> str:
    stored = await host.store.load(host.log.part, row.oid)
    if stored is None or host.find(row.oid) is not None:
        return ""
    cache = stored.suspended
    body = cache.body if cache is not None else stored.row.snapshot
    if body is None:
        return ""
    kind = host.kinds[row.kind]
    copy = Machine(kind, row.key, row.oid, host.surroundings)
    try:
        begin_from(copy, body, cache.seq if cache is not None else stored.row.seq, row.version)
        over = await having(copy, lambda: bring_copy_over(copy, kind, host.now_ns))
        if over.machine is not copy:
            over.machine.discard()
    except UpgradeFailed as error:
        return error.message
    except OperatorError as error:
        return error.message
    except PerdureError:
        # Its cache does not load; then its journal decides, which is not read here.
        return ""
    finally:
        copy.discard()
    return ""
