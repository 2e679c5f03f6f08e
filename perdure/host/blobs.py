"""What is too large for the journal rests beside it: results and items of steps.

A blob is on disk before the event that names it becomes an entry, so an entry never names what is
not there. After a crash in between nobody names it; the next start removes it. Named, it goes when
the history that names it goes.

A turn reads a blob where it stands, in the middle of a replay too. The embedded store answers at
once; where a store does not, the load is given up, what it needs is fetched, and it begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from perdure.errors import JournalCorrupt, OperatorError, PerdureError
from perdure.journal import codec
from perdure.journal.entry import Entry, StepDone, StepItem
from perdure.logs import logger
from perdure.store.base import Segment

if TYPE_CHECKING:
    from perdure.host.host import Host


BLOB_FROM = 64 * 1024
"""A body longer than this does not go into the journal."""

_RETRY_S = 0.5


class BlobElsewhere(PerdureError):
    """A turn needs a blob that the store does not give at once."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the blob {name} is not at hand")
        self.name = name


class Fenced(Exception):
    """Another process has the partition: nothing is written here any more, and the host knows."""


class Blobs:
    """The blobs of this node's partition."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._held: dict[int, dict[str, bytes]] = {}
        """Those at hand, by object and name: on their way to an entry, or fetched for a load."""
        self.elsewhere = False
        """Whether the store takes its time, so that what a replay needs is fetched before."""

    async def start(self) -> None:
        """Remove what a crash has left between a blob and the entry that was to name it."""
        store, log = self._host.store, self._host.log
        probe = store.get_blob(log.part, 0, "")
        self.elsewhere = not probe.done()
        await probe
        orphans = [
            (oid, name)
            for oid, name in await store.unnamed_blobs(log.part)
            if name not in log.blobs.get(oid, ())
        ]
        if orphans:
            await store.drop_blobs(log.part, log.epoch, orphans)

    async def put(self, oid: int, name: str, body: bytes) -> None:
        """Returns when it is on disk; for that it waits as long as the disk is full.

        Raises Fenced, and tells the host: as a commit that finds the fence, it is not tried again.
        """
        store, log = self._host.store, self._host.log
        sealed = codec.write_blob(body)
        while True:
            try:
                accepted = await store.put_blob(log.part, log.epoch, oid, name, sealed)
            except OperatorError as error:
                logger.warning("a large value is not written yet; trying again", why=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            if not accepted:
                self._host.lost(log.fenced())
                raise Fenced
            self._held.setdefault(oid, {})[name] = body
            return

    def read(self, oid: int, name: str) -> bytes:
        """What rests under a name. Raises BlobElsewhere; JournalCorrupt if nothing is there."""
        held = self._held.get(oid)
        if held is not None and name in held:
            return held[name]
        # The store works on the loop outside, and this is asked for in the middle of a turn.
        turn = asyncio._get_running_loop()
        asyncio._set_running_loop(self._host.surroundings.outer)
        try:
            future = self._host.store.get_blob(self._host.log.part, oid, name)
        finally:
            asyncio._set_running_loop(turn)
        if not future.done():
            future.cancel()
            raise BlobElsewhere(name)
        return _opened(oid, name, future.result())

    async def fetch(self, oid: int, names: Iterable[str]) -> None:
        """Have blobs at hand."""
        for name in names:
            held = self._held.setdefault(oid, {})
            if name not in held:
                found = await self._host.store.get_blob(self._host.log.part, oid, name)
                held[name] = _opened(oid, name, found)

    async def fetch_for(self, oid: int, segments: Sequence[Segment]) -> None:
        """Have at hand what a replay of these turns needs, if the store takes its time."""
        if self.elsewhere:
            await self.fetch(oid, named_in_segments(segments))

    def let_go(self, oid: int, name: str) -> None:
        """It need not be at hand any more, where the store gives it at once.

        Elsewhere a turn to come may read it; then it stays until its object leaves memory.
        """
        if self.elsewhere:
            return
        held = self._held.get(oid)
        if held is not None:
            held.pop(name, None)
            if not held:
                del self._held[oid]

    def let_go_of(self, oid: int) -> None:
        """The object has left memory."""
        self._held.pop(oid, None)


def named_in_segments(segments: Sequence[Segment]) -> set[str]:
    """The blobs that turns of history name."""
    names = {
        named_in(entry)
        for segment in segments
        for _, entry in codec.read_entries(segment.body, f"history of {segment.oid:016x}")
    }
    return names - {""}


def named_in(entry: Entry) -> str:
    """The blob that an entry names, or an empty text."""
    event = entry.event
    return event.blob if isinstance(event, StepDone | StepItem) else ""


def _opened(oid: int, name: str, sealed: bytes | None) -> bytes:
    place = f"blob {name} of object {oid:016x}"
    if sealed is None:
        raise JournalCorrupt(
            f"the {place} is not there, and the journal names it",
            hint="Restore the data directory from a backup.",
        )
    return codec.read_blob(sealed, place)
