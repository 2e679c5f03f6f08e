"""Writes the golden files of schema 2, by hand and once: `python -m tests.golden.make_schema2 DIR`.

They are what 0.1 has on disk as it was published; those in `v0_1/` were made earlier, and are read
for ever too. As make.py does, this refuses to write into a folder that is there. In it are

    chunk.bin, message-NAME.bin, journal.json   each kind of event and command, all fields set
    data.sql, data.json       a data directory, and the past of its objects, turn by turn
    snapshots-3.11.sql        what its objects held when they waited: code, so one file a Python
    objects.perdure           an export

A file for another Python is made out of data.sql, by that Python: `… DIR --snapshots`.
Code of libraries is in it with the name of its file, so run it where those names may be seen.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure import Promise, send
from perdure import cancel as cancel_call
from perdure.clock import NS
from perdure.host import effects, repairing, retention
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.raw_requests import RawRequest, pack
from perdure.journal import codec
from perdure.journal.codec import Message
from perdure.journal.entry import HTTP
from perdure.journal.identity import oid_of
from perdure.node import Node
from perdure.past import extract, planting
from perdure.past.record import record_of
from perdure.past.state import state_of
from perdure.past.walk import walk
from perdure.ref import format_address, parse_address
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_file import DATABASE
from perdure.suspend import heap
from perdure.testing.virtual import START_NS, VirtualClock, VirtualLoop, run_virtual
from tests.golden.kinds import MESSAGES, SOURCE, entries
from tests.golden.make import plain, write_json
from tests.host.deploys import Deploys
from tests.host.stage import Stage

TEXT = Path(__file__).with_name("workshop.py")
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
EXPORTED = ("Order/a", "Order/p", "Order/old", "Room/r", "Order/copy", "Order/held")
SMALL_BLOB = 300
"""What is longer than this goes into a blob here; the real bound would make a large file."""


def text_of(release: str) -> dict[str, str]:
    """The app as it was `before`, with another `work`, or as it is `now`."""
    text = TEXT.read_text(encoding="utf-8")
    if release == "before":
        text = text.replace('RELEASE = "now"', 'RELEASE = "before"')
        text = text.replace('append("undone")', 'append("undone, before")')
    return {"workshop.py": text}


class Poison:
    """In place of the supervisor's record: events that have ended the process three times."""

    def poisoned(self) -> set[tuple[str, str]]:
        return {(f"Order/{key}", "poison") for key in ("poisoned", "aside")}

    def digest(self, event: bytes) -> str:
        return "poison" if b"poisonous" in event else ""

    def forget(self, address: str) -> None:
        pass


class Shop(Stage):
    """The app on a data directory, in virtual time that begins `ahead_s` late."""

    store: SqliteStore

    def __init__(self, app: Deploys, directory: Path, ahead_s: float = 0.0) -> None:
        # Commits in a thread would let virtual time run ahead of them.
        # Commits in a thread would let virtual time run ahead of them.
        store = SqliteStore(
            directory, commit_inline_ms=1e6, random_bytes=random.Random(1).randbytes
        )
        named = [app.at("Diary", "main")]
        super().__init__(*app.classes(), store=store, debug=False, objects=named)
        self.app = app
        self.clock = VirtualClock(asyncio.get_running_loop(), seed=2)
        self.clock.jump_ns = round(ahead_s * NS)

    async def start(self) -> None:
        self.node = Node(
            self.classes,
            self.settings,
            clock=self.clock,
            store=self.store,
            objects=self.objects,
            deaths=Poison(),
        )
        await self.node.start()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        # What the store does in its thread takes no virtual time.
        loop.working = lambda: not self.store._lane.empty

    async def leave(self) -> None:
        """As if killed; but the file is closed."""
        await self.crash()
        await self.store.close()

    def at(self, address: str) -> Any:
        kind, _, key = address.partition("/")
        return self.app.at(kind, key)

    async def call(self, address: str, handler: str, body: bytes, **more: Any) -> Answer:
        """A call as it comes over HTTP; not through a ref."""
        name, _, key = address.partition("/")
        kind = self.node.kinds[name]
        answers: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        raw = more.get("format") == HTTP
        of = kind.on_request if raw else kind.handlers[handler]
        assert of is not None
        args = ((), {}) if raw else of.signature.decode_json(body)
        self.host.call(IncomingCall(kind, key, of, args, body, answers.set_result, **more))
        return await answers


@asynccontextmanager
async def shop(
    folder: Path, directory: Path, release: str = "now", ahead_s: float = 0.0
) -> AsyncIterator[Shop]:
    """The app, imported as `workshop` from a folder of its own, on a data directory."""
    folder.mkdir(exist_ok=True)
    async with Deploys(folder) as app:
        app.write(text_of(release), "workshop")
        stage = Shop(app, directory, ahead_s)
        try:
            await stage.start()
        except BaseException:
            await stage.store.close()
            raise
        try:
            yield stage
        finally:
            await stage.leave()


# --- a data directory


class Line:
    """A client's socket."""

    def __init__(self, stage: Shop, key: str = "r", *, resumable: bool = False) -> None:
        self.stage = stage
        self.kind = stage.host.kinds["Room"]
        self.key = key
        self.oid = oid_of("Room", key)
        self.id = ""
        self.resumable = resumable
        self.from_seq = 0

    async def join(self, offers: tuple[str, ...] = (), **query: str) -> Line:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        headers = {"user-agent": "golden"}
        self.stage.host.lines.connect(
            self, f"/Room/{self.key}", query, headers, offers, "ada", answered.set_result
        )
        await answered
        return self

    async def say(self, body: bytes, text: bool = True, number: int = 0) -> None:
        self.stage.host.lines.receive(self, body, text, number)
        await self.stage.settle()

    def frame(self, frame: Any) -> None: ...

    def acknowledge(self, number: int) -> None: ...

    def taken(self) -> None: ...

    def settled(self) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


async def failing(call: Awaitable[Any]) -> None:
    """A call that is meant to fail."""
    try:
        await call
    except Exception as error:
        print(f"as meant: {error!r}"[:100])
    else:
        raise AssertionError("it did not fail")


async def step_of(stage: Shop, address: str) -> str:
    """The id of the step that an object waits for."""
    kind, _, key = address.partition("/")
    for _ in range(100):
        activation = await stage.host.wake(oid_of(kind, key))
        for waited in (activation.machine.steps or {}).values():
            return str(waited.asked.id)
        await asyncio.sleep(0.01)
    raise AssertionError(f"{address} waits for no step")


async def steps(stage: Shop) -> None:
    a = stage.at("Order/a")
    await a.put("paid", 7)
    await stage.call("Order/a", "put", b'["sent", 8]', idempotency_key="once", principal="ada")
    await a.fetch(10)
    await a.fetch(3 * SMALL_BLOB)
    await a.model(2, 5)
    await a.model(1, 2 * SMALL_BLOB)
    await a.fly()
    await a.hopeless()
    await a.impatient()
    await failing(a.fail())
    await a.long(2000)
    raw = RawRequest(
        "POST", "http", "1.1", "/Order/a/x", b"/Order/a/x", b"", "", "x", [], None, None, b"body"
    )
    await stage.call("Order/a", "", pack(raw), format=HTTP)


async def repairs(stage: Shop) -> None:
    host = stage.host
    flown = await send(stage.at("Order/m").fly, 5000.0)
    found = await step_of(stage, "Order/m")
    await repairing.resolve_step(host, "Order/m", found, "mended", "ada", "it did fly")
    await asyncio.sleep(0.1)
    await send(stage.at("Order/n").fly, 5000.0)
    found = await step_of(stage, "Order/n")
    await repairing.fail_step(host, "Order/n", found, "never", "ada", "it did not")
    await repairing.set_attribute(host, "Order/n", "status", b'"lost"', "ada", "found so")
    await stage.at("Order/n").note("kept")
    noted = await send(stage.at("Order/n").note, "again")
    await asyncio.sleep(0.1)
    await repairing.drive_again(host, noted, "ada", "once more")
    assert flown


async def promises(stage: Shop) -> None:
    waits = []
    for key in ("p", "q", "s", "t"):
        await stage.at(f"Order/{key}").ask(5.0 if key == "q" else None)
        waits.append(asyncio.ensure_future(stage.at(f"Order/{key}").approved()))
    await asyncio.sleep(0.1)
    token = (await stage.at("Order/p").ask(), await stage.at("Order/s").ask())
    waits += [asyncio.ensure_future(stage.at(f"Order/{key}").approved()) for key in "ps"]
    await asyncio.sleep(0.1)
    await Promise.resolve(token[0], stage.app.module.Approval(True, "ada"))
    await stage.at("Order/decider").decide(token[1], "bob")
    third = stage.host.find(oid_of("Order", "t")).machine.instance.token
    await Promise.reject(third, "no")
    await asyncio.sleep(6)
    for wait in waits:
        wait.cancel()


async def cancellations(stage: Shop) -> None:
    first = await send(stage.at("Order/w").work, 500.0)
    second = await send(stage.at("Order/w").work, 600.0)
    await asyncio.sleep(0.1)
    await cancel_call(first)
    await cancel_call(first, again=True)
    await asyncio.sleep(2)
    await stage.at("Order/c").give_up_on(second)
    await stage.at("Order/c").race("w")
    await failing(stage.at("Order/c").delegate("w", 500.0, 5.0))
    await stage.call("Order/w", "work", b"[0]", keep=True)
    late = stage.clock.now_ns() + 2 * NS
    await stage.call("Order/w", "work", b"[100]", deadline_ns=late)
    await asyncio.sleep(2)


async def streams(stage: Shop) -> None:
    assert await stage.at("Teller/x").listen("y", 3, 1.0) == 3
    assert [one async for one in stage.at("Teller/y").count(2, 0.0)] == [1, 2]
    items: list[bytes] = []
    await stage.call(
        "Teller/y", "count", b"[2, 0.5]", on_item=lambda _, body: items.append(body),
        idempotency_key="twice",
    )  # fmt: skip
    assert items == [b"1", b"2"]


async def sockets(stage: Shop) -> None:
    kept = await Line(stage, resumable=True).join(("chat",), name="ada")
    other = await Line(stage).join(name="bob")
    await Line(stage).join(no="")
    await kept.say(b"hello", number=1)
    await kept.say(b"\x00\x01bytes", text=False, number=2)
    await other.say(b"long")
    await stage.at("Room/r").tell("all of you")
    await other.say(b"close")
    # Nobody could ask for a long message again there: the journal keeps its checksum.
    plain_one = await Line(stage, "s").join()
    await plain_one.say(b"long")
    third = await Line(stage).join()
    stage.host.lines.lost(third, 1001, "gone away")
    await Line(stage).join(name="cid")
    await stage.settle()


async def copies(stage: Shop) -> None:
    host = stage.host
    await send(stage.at("Order/asks").delegate, "w", 5000.0, 9000.0)
    await asyncio.sleep(0.5)
    await planting.fork(host, "Order/asks", "held", None)
    await planting.fork(host, "Order/asks", "copy", None)
    await planting.release(host, "Order/copy")
    await planting.fork(host, "Order/a", "earlier", None, live=True)
    await stage.at("Order/earlier").put("copied", 9)


async def ends(stage: Shop) -> None:
    await stage.at("Order/gone").note("once")
    await stage.at("Order/a").end("gone")
    await stage.at("Order/forgotten").note("a name")
    await retention.erase(stage.host, "Order/forgotten", name=True, compact=False)
    for key in ("poisoned", "aside"):
        await stage.at(f"Order/{key}").note("fine")
        answer = await stage.call(f"Order/{key}", "note", b'["poisonous"]')
        assert answer.failure is not None
    # It cannot arrive, so it is on its way for as long as that is quarantined.
    await stage.at("Order/a").tell("aside", "are you there?")
    stage.host.quarantine.skip("Order", "poisoned")
    await stage.call("Order/poisoned", "note", b'["poisonous"]')
    await stage.at("Order/poisoned").note("fine again")


async def diaries(stage: Shop) -> None:
    d = stage.at("Diary/d")
    for seconds, text in ((10.0, "a"), (20.0, "b"), (5000.0, "late")):
        await d.plan(seconds, text)
    await d.drop("b")
    await d.plan_failing(10.0)
    await d.plan_cron("every morning")
    await asyncio.sleep(30)


async def gates(stage: Shop) -> None:
    await asyncio.gather(*(stage.at("Gate/one").go(name, 1.0) for name in "abc"))
    await stage.at("Gate/x").through("y", "x")


WAITS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("Order/sleeps", "work", (3600.0,)),
    ("Order/promised", "approved", ()),
    ("Order/unpaid", "until_paid", ()),
    ("Order/queues", "consume", ()),
    ("Order/flies", "fly", (5000.0,)),
    ("Teller/ear", "listen", ("mouth", 3, 3000.0)),
    ("Gate/parks", "plan", (10.0, "planned")),
    ("Gate/parks", "go", ("first", 4000.0)),
    ("Slow/s", "hello", ()),
    ("Order/alarmed", "alarms", (4000.0,)),
    ("Gate/one", "go", ("d", 3600.0)),
    ("Gate/one", "go", ("e", 0.0)),
]
"""What is under way at the end."""


async def begin_waits(stage: Shop) -> None:
    await stage.at("Order/promised").ask()
    for address, handler, args in WAITS:
        await send(getattr(stage.at(address), handler), *args)
    stubborn = await send(stage.at("Order/stubborn").stubborn, 4000.0)
    late = stage.clock.now_ns() + 9000 * NS
    stage.host.keep(stage.call("Order/limited", "work", b"[9000]", deadline_ns=late))
    await asyncio.sleep(1)
    await cancel_call(stubborn)
    leaver = await Line(stage, "t").join(name="slow")
    stage.host.lines.lost(leaver)
    await asyncio.sleep(20)


async def behind(stage: Shop) -> None:
    """What stands in the tail alone."""
    await stage.at("Order/a").put("late", 11)
    await stage.at("Order/sleeps").note("while it sleeps")
    await stage.at("Order/unpaid").put("open", 50)
    await stage.at("Order/new").fetch(2 * SMALL_BLOB)
    await stage.at("Order/tail").ask()
    await stage.at("Diary/d").plan(6000.0, "later")


async def past_of(stage: Shop, there: dict[str, int]) -> dict[str, Any]:
    """What each object was after its last turn, and what came in and went out up to there."""
    told: dict[str, Any] = {}
    for address, seq in there.items():
        record = await record_of(stage.host, address)
        machine = await walk(record, seq)
        try:
            state = state_of(machine)
        finally:
            machine.discard()
        turns = [entry async for page in record.pages(0, seq) for entry in page]
        told[address] = {
            "seq": seq,
            "state": state,
            "turns": [
                " ".join(type(one).__name__ for one in (turn.event, *turn.commands))
                for turn in turns
            ],
        }
    return told


async def make_data(folder: Path) -> None:
    setattr(effects, "BLOB_FROM", SMALL_BLOB)  # noqa: B010  its module took it from blobs.py
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "data"
        directory.mkdir()
        async with shop(Path(place) / "app", directory, "before") as stage:
            await send(stage.at("Order/old").work, 60_000.0)
            await send(stage.at("Order/moved").consume)
            await asyncio.sleep(1)
            await stage.host.checkpointer.run()
        async with shop(Path(place) / "app", directory) as stage:
            for part in (
                steps, repairs, promises, cancellations, streams, copies, ends, diaries, gates,
            ):  # fmt: skip
                await part(stage)
            await stage.at("Order/old").note("touched")
            await asyncio.sleep(12 * 3600)
            await begin_waits(stage)
            await sockets(stage)
            await stage.host.checkpointer.run()
            await behind(stage)
            sections = extract.export(stage.host, EXPORTED)
            assert stage.clock.now_ns() < START_NS + AHEAD_S * NS
            exported = b"".join([section async for section in sections])
        (folder / "objects.perdure").write_bytes(exported)
        (folder / "data.sql").write_text(dump_of(directory) + "\n", encoding="utf-8")


def dump_of(directory: Path) -> str:
    connection = sqlite3.connect(directory / DATABASE)
    # Code suspended in a snapshot belongs to one Python; the journal is for all.
    connection.execute("DELETE FROM suspended")
    connection.execute("DELETE FROM waypoint")
    connection.commit()
    dump = "\n".join(connection.iterdump())
    connection.close()
    return dump


def data_directory(folder: Path, directory: Path, *more: str) -> Path:
    """A copy of the data directory in `folder`, after some more statements."""
    directory.mkdir(exist_ok=True)
    connection = sqlite3.connect(directory / DATABASE)
    connection.executescript((folder / "data.sql").read_text(encoding="utf-8"))
    for script in more:
        connection.executescript(script)
    connection.commit()
    connection.close()
    return directory


AHEAD_S = 12.25 * 3600
"""When it is started again: a little later than it ended."""


async def make_past(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = data_directory(folder, Path(place) / "data")
        async with shop(Path(place) / "app", directory, ahead_s=AHEAD_S) as stage:
            there = await last_turns(folder)
            write_json(folder / "data.json", await past_of(stage, there))


async def last_turns(folder: Path) -> dict[str, int]:
    """The last turn of each object, before anything is started on the data."""
    found = kept_turns(folder)
    names = {oid_of(*parse_address(address)): address for address in found}
    with tempfile.TemporaryDirectory() as place:
        store = SqliteStore(data_directory(folder, Path(place)))
        await store.open("look")
        for lsn, chunk in await store.tail(0, 0):
            for oid, one in codec.read_entries(chunk, f"chunk {lsn}"):
                address = names.setdefault(oid, one.address)
                found[address] = max(one.seq, found.get(address, 0))
        await store.close()
    return dict(sorted(found.items()))


# --- snapshots of one Python


async def make_snapshots(folder: Path) -> None:
    """What waits, as this Python keeps it."""
    lines = []
    with tempfile.TemporaryDirectory() as place:
        directory = data_directory(folder, Path(place) / "data")
        async with shop(Path(place) / "app", directory, ahead_s=AHEAD_S) as stage:
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


def kept_turns(folder: Path) -> dict[str, int]:
    """The last turn of each object that is in history, and not in the tail alone."""
    with tempfile.TemporaryDirectory() as place:
        directory = data_directory(folder, Path(place))
        connection = sqlite3.connect(directory / DATABASE)
        rows = connection.execute("SELECT kind, key, last FROM object ORDER BY 1, 2").fetchall()
        connection.close()
    return {format_address(kind, key): last for kind, key, last in rows}


def make_journal(folder: Path) -> None:
    frames = [(5, one) for one in entries()]
    sealed = codec.write_chunk(codec.frame(o, codec.encode_entry(one)) for o, one in frames)
    (folder / "chunk.bin").write_bytes(sealed)
    told: dict[str, Any] = {"chunk": plain(frames)}
    for sent in MESSAGES:
        name = f"message-{type(sent.event).__name__.lower()}"
        message = Message(SOURCE, sent)
        (folder / f"{name}.bin").write_bytes(codec.write_message(message))
        told[name] = plain(message)
    write_json(folder / "journal.json", told)


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
