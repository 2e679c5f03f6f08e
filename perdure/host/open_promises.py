"""Which promises are open, of all objects, asleep or not.

The store has the list as of each object's last checkpoint. What happened since stands in the
log's tail, and is kept here in memory: noted with each turn that opens or settles a promise, found
again in the entries after a crash, and let go when a checkpoint has written it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from perdure.journal.entry import Entry, Promised, Settled
from perdure.ref import parse_address
from perdure.store.base import PromiseFilter, PromiseRow

if TYPE_CHECKING:
    from perdure.host.host import Host


class OpenPromises:
    """What the tail says of promises, over what the store says."""

    def __init__(self) -> None:
        self._tail: dict[int, list[tuple[int, str, PromiseRow | None]]] = {}
        """By object: (turn, token, its row or None where it was settled), in their order."""

    def note(self, oid: int, seq: int, time_ns: int, command: Promised | Settled) -> None:
        """A turn has opened or settled a promise."""
        row = None
        if type(command) is Promised:
            kind, key = parse_address(command.address)
            row = PromiseRow(time_ns, command.token, oid, kind, key, command.of, command.until_ns)
        self._tail.setdefault(oid, []).append((seq, command.token, row))

    def recover(self, oid: int, entry: Entry) -> None:
        """An entry that an earlier owner left in the tail."""
        for command in entry.commands:
            if type(command) is Promised or type(command) is Settled:
                self.note(oid, entry.seq, entry.time, command)

    def take_back(self, oid: int, last: int) -> None:
        """The object's turns behind `last` were not written."""
        self._keep(oid, [one for one in self._tail.get(oid, ()) if one[0] <= last])

    # --- at a checkpoint

    def upto(self, lasts: Mapping[int, int]) -> tuple[list[PromiseRow], list[str]]:
        """What becomes of the store's list with the turns of these objects, up to one of each:
        rows that are there then, and tokens that are not."""
        ends: dict[str, PromiseRow | None] = {}
        for oid, last in lasts.items():
            for seq, token, row in self._tail.get(oid, ()):
                if seq <= last:
                    ends[token] = row
        rows = [row for row in ends.values() if row is not None]
        return rows, [token for token, row in ends.items() if row is None]

    def written(self, lasts: Mapping[int, int]) -> None:
        """What `upto` gave is in the store."""
        for oid, last in lasts.items():
            self._keep(oid, [one for one in self._tail.get(oid, ()) if one[0] > last])

    def _keep(self, oid: int, left: list[tuple[int, str, PromiseRow | None]]) -> None:
        if left:
            self._tail[oid] = left
        else:
            self._tail.pop(oid, None)

    # --- the list

    async def page(
        self,
        host: Host,
        wanted: PromiseFilter,
        after: tuple[int, str] | None,
        limit: int,
    ) -> list[PromiseRow]:
        """Open promises that fit, in the order of (since, token) behind `after`."""
        # What is told must not be taken back by a crash.
        lsn = host.log.appended_lsn
        found: list[PromiseRow] = []
        position = after
        while True:
            rows = await host.store.promises(wanted, position, limit)
            settled = self._settled()
            found += [row for row in rows if row.token not in settled]
            if len(rows) < limit or len(found) >= limit:
                break
            position = (rows[-1].since, rows[-1].token)
        known = {row.token for row in found}
        for row in self._opened():
            behind = after is None or (row.since, row.token) > after
            if wanted.fits(row) and behind and row.token not in known:
                found.append(row)
        await host.log.durable(lsn)
        return sorted(found)[:limit]

    def _opened(self) -> list[PromiseRow]:
        ends = {token: row for noted in self._tail.values() for _, token, row in noted}
        return [row for row in ends.values() if row is not None]

    def _settled(self) -> set[str]:
        ends = {token: row for noted in self._tail.values() for _, token, row in noted}
        return {token for token, row in ends.items() if row is None}
