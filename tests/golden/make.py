"""Writes the golden files of a release: `python -m tests.golden.make DIR`. Run by hand, and once.

What stands in a golden file must never change afterwards: it is what users of that release have
on their disks, and test_golden.py proves that it is still read. So the files of 0.1 lie in
`v0_1/` for ever, and this refuses to write into a folder that is there. A release that changes a
format gets a folder of its own, made by running this once before it is published:

    chunk.bin, segment.bin, message.bin   journal bytes with every kind of event and command
    journal.json                          what is in them, field by field
    NAME.snapshot, snapshots.json         heaps of plain data, and what the object tells of itself
    data.sql, data.json                   a data directory, and what its objects answer
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from perdure.clock import NS
from perdure.host.asking import Surroundings
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.machine import Machine
from perdure.journal import codec
from perdure.journal.codec import Message
from perdure.journal.entry import (
    JSON,
    PICKLE,
    Answered,
    Call,
    Command,
    Ended,
    Entry,
    Event,
    Fired,
    MessageId,
    Refused,
    Reply,
    Sent,
    Skipped,
    Started,
    StepAsked,
    StepDone,
    StepDropped,
    shortened,
)
from perdure.journal.identity import oid_of
from perdure.kind import kind_of
from perdure.node import Node
from perdure.sight import look
from perdure.store.sqlite import SqliteStore
from perdure.suspend import heap
from perdure.testing.virtual import START_NS, VirtualClock
from tests.golden.app import Account, Gate, Keeper, Refusal
from tests.host.stage import Stage, eventually

SNAPSHOTS = ("plain", "sets", "long", "waits", "timer")
POISON = b"poisonous"

SOURCE = MessageId(11, 12, 13)
CALL = Call(
    "000000000000000b-1.abc.7",
    "post",
    PICKLE,
    b"\x80\x05args",
    caller="Room/a",
    principal=b"\x80\x05ada",
    keep_ns=24 * 3600 * NS,
    digest=2**64 - 1,
    answer_to=21,
    source=SOURCE,
)
EVENTS: list[Event] = [
    Call("000000000000000b-1.abc.6", "post", JSON, b'{"text": "hi"}'),
    CALL,
    Started("000000000000000b-1.abc.7"),
    Reply(21, True, b"\x80\x05result", SOURCE),
    Reply(22, False, b'{"code": "handler-error"}'),
    Fired(),
    StepDone(3, True, b"\x80\x05done"),
    Refused("000000000000000b-1.abc.7", b'{"code": "deadlock"}'),
    Ended(23, "Room/a", SOURCE),
    Ended(),
    Skipped("call", SOURCE, 24, "Room/a"),
    Skipped("timer"),
]
COMMANDS: list[Command] = [
    Answered("000000000000000b-1.abc.6", True, b"17"),
    shortened(Answered("000000000000000b-1.abc.8", True, b"x" * 5000)),
    Answered("000000000000000b-1.abc.9", False, b'{"code": "bad-arguments"}'),
    Sent("Room/b", CALL),
    Sent("Room/a", Reply(21, True, b"\x80\x05result")),
    Sent("Room/ä b%2F", Ended(23, "Room/a")),
    StepAsked(3, "app:fetch", b"\x80\x05args", "000000000000000b-5-1", 2, 2.5),
    StepDropped(3),
]


def entries() -> list[Entry]:
    """One with each event, the last with all commands."""
    made = [
        Entry(seq, START_NS + seq, "0123456789ab", event, []) for seq, event in enumerate(EVENTS, 1)
    ]
    made[0] = msgspec.structs.replace(made[0], address="Room/a", wake_at=1)
    full = Entry(
        len(made) + 1,
        START_NS + 99,
        "0123456789ab",
        Fired(),
        COMMANDS,
        wake_at=START_NS + 60 * NS,
        duration_us=1234,
        undone=True,
        reloaded=True,
    )
    return [*made, full]


def plain(value: Any) -> Any:
    """A value as JSON, with the names of fields: not in the words of the codec under test."""
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# --- journal bytes


def make_journal(folder: Path) -> None:
    chunk = [(oid, entry) for entry in entries() for oid in (2**63 - 1, 5)]
    segment = [(5, entry) for entry in entries()]
    for name, frames in (("chunk", chunk), ("segment", segment)):
        sealed = codec.write_chunk(codec.frame(o, codec.encode_entry(e)) for o, e in frames)
        (folder / f"{name}.bin").write_bytes(sealed)
    message = Message(SOURCE, Sent("Room/b", CALL))
    (folder / "message.bin").write_bytes(codec.write_message(message))
    write_json(
        folder / "journal.json",
        {"chunk": plain(chunk), "segment": plain(segment), "message": plain(message)},
    )


# --- snapshots


def keeper() -> Machine:
    kind = kind_of(Keeper)
    heap.resolve_kind = {"Keeper": Keeper}.__getitem__
    return Machine(kind, "k", oid_of(kind.name, "k"), Surroundings(b"s" * 32, None))


def ask(machine: Machine, handler: str, *args: Any, time_ns: int = START_NS) -> Any:
    """A call in a machine by itself; gives its result."""
    body = json.dumps(args).encode()
    commands = machine.turn(Call("id", handler, JSON, body), time_ns)
    assert isinstance(commands[-1], Answered), commands
    assert commands[-1].ok, commands
    return json.loads(commands[-1].body or b"null")


def make_snapshots(folder: Path) -> None:
    told = {}
    for name in SNAPSHOTS:
        machine = keeper()
        ask(machine, "keep", name)
        (folder / f"{name}.snapshot").write_bytes(heap.dump_heap(machine))
        told[name] = ask(machine, "tell")
    write_json(folder / "snapshots.json", told)


# --- a data directory


class Poison:
    """In place of the supervisor's record: one event has ended the process three times."""

    def poisoned(self) -> set[tuple[str, str]]:
        return {("Account/poisoned", "poison")}

    def digest(self, event: bytes) -> str:
        return "poison" if POISON in event else ""

    def forget(self, address: str) -> None:
        pass


class DataStage(Stage):
    """A node on a data directory, in real time that begins where virtual worlds do."""

    def __init__(self, directory: Path, *, ahead_s: float = 0.0) -> None:
        secrets = random.Random(1)
        store = SqliteStore(directory, random_bytes=secrets.randbytes)
        super().__init__(Account, Gate, store=store, debug=False)
        self.clock = VirtualClock(asyncio.get_running_loop(), seed=2)
        self.clock.jump_ns = round((ahead_s - asyncio.get_running_loop().time()) * NS)

    async def start(self) -> None:
        self.node = Node(
            self.classes, self.settings, clock=self.clock, store=self.store, deaths=Poison()
        )
        await self.node.start()

    async def leave(self) -> None:
        """As if killed; but the file is closed."""
        await self.crash()
        await self.store.close()

    async def call(self, address: str, handler: str, body: str, **more: Any) -> Answer:
        """A call as it comes over HTTP."""
        name, _, key = address.partition("/")
        kind = self.node.kinds[name]
        args = kind.handlers[handler].signature.decode_json(body.encode())
        answers: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.host.call(
            IncomingCall(
                kind, key, kind.handlers[handler], args, body.encode(), answers.set_result, **more
            )
        )
        return await answers


async def live(stage: DataStage) -> None:
    """What has happened to the objects up to the checkpoint."""
    ada, bob = Account.at("ada"), Account.at("bob")
    await ada.deposit(500)
    await stage.call("Account/ada", "deposit", '{"amount": 20}', idempotency_key="once")
    await ada.transfer("bob", 70)
    await ada.transfer("bob", 200)
    for amount in (1000, 30):
        try:
            await ada.withdraw(amount)
        except Refusal:
            pass
    await ada.tell("bob", "hello")
    await ada.convert("EUR")
    await ada.tag([7919, 3, 1009, 64, 8])
    await ada.draw()
    await ada.long(3000)
    await stage.call("Account/ada", "long", '{"size": 2000}', keep=True)
    await bob.nap(0.01)
    await stage.call("Account/bob", "withdraw", '{"amount": 9000}')
    await Account.at("gone").deposit(1)
    await ada.close("gone")
    await Account.at("again").deposit(1)
    await ada.close("again")
    await Account.at("again").deposit(2)
    await asyncio.gather(*(Gate.at("one").go(name, 0.01) for name in "abc"))
    await Gate.at("x").through("y", "x")


async def skip_one(stage: DataStage) -> None:
    poisoned = Account.at("poisoned")
    await poisoned.note("fine")
    answer = await stage.call("Account/poisoned", "note", '{"text": "poisonous"}')
    assert answer.failure is not None
    stage.host.quarantine.skip("Account", "poisoned")
    await stage.call("Account/poisoned", "note", '{"text": "poisonous"}')
    await poisoned.note("fine again")


async def behind(stage: DataStage) -> None:
    """What stands in the tail alone, and what is still under way at the end."""
    await Account.at("ada").transfer("bob", 5)
    await Account.at("ada").tag([5, 12345])
    await Account.at("new").deposit(9)
    await Account.at("ada").remind(3600)
    before = stage.host.log.entries
    naps = [
        asyncio.ensure_future(Account.at("sleeper").nap(3600)),
        asyncio.ensure_future(Gate.at("one").go("d", 3600)),
        asyncio.ensure_future(Gate.at("one").go("e", 0)),
    ]
    await eventually(lambda: stage.host.log.entries == before + 3 and stage.host.log.idle())
    for nap in naps:
        nap.cancel()


async def answers(stage: DataStage) -> dict[str, Any]:
    """What each object says of itself, and how many turns of which kind it has had."""
    keys = ("ada", "bob", "gone", "again", "poisoned", "new", "sleeper")
    told: dict[str, Any] = {f"Account/{key}": await Account.at(key).read() for key in keys}
    told |= {f"Gate/{key}": await Gate.at(key).read() for key in ("one", "x", "y")}
    for address in list(told):
        past = await look.history(stage.host, address, 0, 1000)
        told[f"turns of {address}"] = [
            f"{turn['kind']} undone" if turn["output"].endswith("(undone)") else turn["kind"]
            for turn in past
            # It goes over to the code of these tests as they are now.
            if turn["kind"] != "upgrade"
        ]
    return told


async def make_data(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stage = DataStage(Path(directory))
        await stage.start()
        await live(stage)
        await skip_one(stage)
        await stage.host.checkpointer.run()
        await behind(stage)
        write_json(folder / "data.json", await answers(stage))
        await stage.leave()
        connection = sqlite3.connect(Path(directory) / "perdure.db")
        # Code suspended in a snapshot belongs to one Python; the journal is for all.
        connection.execute("DELETE FROM suspended")
        connection.commit()
        dump = "\n".join(connection.iterdump())
        connection.close()
    (folder / "data.sql").write_text(dump + "\n", encoding="utf-8")


def main() -> None:
    folder = Path(sys.argv[1])
    os.mkdir(folder)
    make_journal(folder)
    make_snapshots(folder)
    asyncio.run(make_data(folder))
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:8} {path.name}")


if __name__ == "__main__":
    main()
