"""Writes the golden files of bodies that come in pieces, by hand and once:
`python -m tests.golden.make_uploads DIR`; for another Python `… DIR --snapshots`.

They are what a release has on disk that reads long bodies while they come; make_schema2.py says
what holds for all golden files. In it are

    chunk.bin, journal.json   a Call whose body comes in pieces, and Pieces, all fields set
    data.sql, data.json       a data directory, and the past of its objects, turn by turn
    snapshots-3.11.sql        what its objects held when they waited: one file a Python
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure.clock import NS
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.raw_requests import RawRequest, pack
from perdure.host.uploads import Upload
from perdure.journal import codec
from perdure.journal.entry import UPLOAD, Call, Piece
from perdure.node import Node
from perdure.past.record import record_of
from perdure.past.walk import walk
from perdure.store.sqlite import SqliteStore
from perdure.suspend import heap
from perdure.testing.virtual import VirtualClock, VirtualLoop, run_virtual
from tests.golden.kinds import entries
from tests.golden.make import plain, write_json
from tests.golden.make_schema2 import (
    PYTHON,
    data_directory,
    dump_of,
    kept_turns,
    last_turns,
    past_of,
)
from tests.host.deploys import Deploys
from tests.host.stage import Stage

TEXT = Path(__file__).with_name("inbox.py")
AHEAD_S = 600.0
"""When it is started again: a little later than it ended."""


class Desk(Stage):
    """The app on a data directory, in virtual time that begins `ahead_s` late."""

    store: SqliteStore

    def __init__(self, app: Deploys, directory: Path, ahead_s: float = 0.0) -> None:
        # Commits in a thread would let virtual time run ahead of them.
        store = SqliteStore(
            directory, commit_inline_ms=1e6, random_bytes=random.Random(1).randbytes
        )
        super().__init__(*app.classes(), store=store, debug=False)
        self.app = app
        self.clock = VirtualClock(asyncio.get_running_loop(), seed=2)
        self.clock.jump_ns = round(ahead_s * NS)

    async def start(self) -> None:
        self.node = Node(self.classes, self.settings, clock=self.clock, store=self.store)
        await self.node.start()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        # What the store does in its thread takes no virtual time.
        loop.working = lambda: not self.store._lane.empty

    async def leave(self) -> None:
        """As if killed; but the file is closed."""
        await self.crash()
        await self.store.close()

    async def read(self, address: str) -> list[str]:
        kind, _, key = address.partition("/")
        return await self.app.at(kind, key).read()  # type: ignore[no-any-return]


@asynccontextmanager
async def desk(folder: Path, directory: Path, ahead_s: float = 0.0) -> AsyncIterator[Desk]:
    """The app, imported as `inbox` from a folder of its own, on a data directory."""
    folder.mkdir(exist_ok=True)
    async with Deploys(folder) as app:
        app.write({"inbox.py": TEXT.read_text(encoding="utf-8")}, "inbox")
        stage = Desk(app, directory, ahead_s)
        try:
            await stage.start()
        except BaseException:
            await stage.store.close()
            raise
        try:
            yield stage
        finally:
            await stage.leave()


class Client:
    """Sends a body in pieces."""

    def __init__(self, stage: Desk, address: str, first: bytes) -> None:
        kind, _, key = address.partition("/")
        self.upload = Upload(stage.host, 1 << 20, self, first, paused=False)
        self.answered = asyncio.get_running_loop().create_future()
        served = stage.host.kinds[kind]
        raw = RawRequest(
            "PUT", "http", "1.1", f"/{address}/x", b"/x", b"", "", "x", [], None, None, first
        )
        stage.host.call(
            IncomingCall(
                *(served, key, served.on_request, ((), {}), pack(raw), self._answered),
                format=UPLOAD,
                on_accepted=self.upload.begin,
            )
        )

    def _answered(self, answer: Answer) -> None:
        self.upload.stop()
        self.answered.set_result(answer)

    async def send(self, *pieces: bytes) -> Client:
        for piece in pieces:
            await asyncio.sleep(1)
            self.upload.feed(piece)
        await asyncio.sleep(1)
        return self

    def pause(self) -> None: ...

    def go_on(self) -> None: ...


async def fill(stage: Desk) -> None:
    whole = await Client(stage, "Inbox/whole", b"first").send(b"second")
    whole.upload.end()
    await whole.answered
    left = await Client(stage, "Inbox/left", b"first").send(b"second")
    left.upload.gone()
    await left.answered
    # Under way at the end: code that waits for more, code that has some unread, a request that
    # waits for the one before it, and one whose body is there as a whole and not read.
    await Client(stage, "Inbox/waits", b"").send(b"first", b"second")
    await Client(stage, "Inbox/unread", b"nap").send(b"second", b"third")
    await Client(stage, "Queue/queued", b"nap").send()
    await Client(stage, "Queue/queued", b"behind").send(b"it")
    (await Client(stage, "Inbox/ended", b"nap").send(b"second")).upload.end()
    await asyncio.sleep(1)


async def make_data(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "data"
        directory.mkdir()
        async with desk(Path(place) / "app", directory) as stage:
            await fill(stage)
            await stage.host.checkpointer.run()
        (folder / "data.sql").write_text(dump_of(directory) + "\n", encoding="utf-8")


async def make_past(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = data_directory(folder, Path(place) / "data")
        there = await last_turns(folder)
        async with desk(Path(place) / "app", directory, AHEAD_S) as stage:
            write_json(folder / "data.json", await past_of(stage, there))


async def make_snapshots(folder: Path) -> None:
    """What waits, as this Python keeps it."""
    lines = []
    with tempfile.TemporaryDirectory() as place:
        directory = data_directory(folder, Path(place) / "data")
        async with desk(Path(place) / "app", directory, AHEAD_S) as stage:
            for address, seq in kept_turns(folder).items():
                machine = await walk(await record_of(stage.host, address), seq)
                try:
                    body = heap.dump_heap(machine)
                finally:
                    machine.discard()
                if heap.is_suspended(body):
                    lines.append(
                        f"INSERT INTO suspended VALUES({machine.oid},{seq},X'{body.hex()}');"
                        f" -- {address}\n"
                    )
    (folder / f"snapshots-{PYTHON}.sql").write_text("".join(lines), encoding="utf-8")


def of_uploads(one: Any) -> bool:
    event = one.event
    return isinstance(event, Piece) or (isinstance(event, Call) and event.format == UPLOAD)


def make_journal(folder: Path) -> None:
    frames = [(5, one) for one in entries() if of_uploads(one)]
    sealed = codec.write_chunk(codec.frame(o, codec.encode_entry(one)) for o, one in frames)
    (folder / "chunk.bin").write_bytes(sealed)
    write_json(folder / "journal.json", {"chunk": plain(frames)})


def main() -> None:
    folder = Path(sys.argv[1])
    if "--snapshots" not in sys.argv:
        folder.mkdir()
        make_journal(folder)
        run_virtual(make_data(folder))
        run_virtual(make_past(folder))
    run_virtual(make_snapshots(folder))
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:8} {path.name}")


if __name__ == "__main__":
    main()
