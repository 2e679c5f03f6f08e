"""Bodies that come while their calls run: through bytes, crashes, lost commits and copies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from perdure import Object, query, sleep
from perdure.host.cancelling import cancel_call
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.raw_requests import PIECE_BYTES_MAX, RawRequest, pack, unpack_response
from perdure.host.uploads import UNREAD_BYTES_MAX, Upload
from perdure.journal.entry import UPLOAD, Entry, Piece
from perdure.journal.identity import oid_of
from perdure.past import planting
from perdure.past.record import record_of
from perdure.past.what_if import what_if
from perdure.sight import look, stuck, why
from perdure.store.memory import MemoryStore
from perdure.suspend import heap
from perdure.testing.faults import FaultyStore
from perdure.testing.virtual import run_virtual
from tests.host.stage import Stage, eventually, seeded


class Inbox(Object):
    """Writes down what it reads, and naps after a piece that asks for it."""

    got: list[str] = []

    async def on_request(self, request: Request) -> Response:
        try:
            async for piece in request.stream():
                self.got.append(piece.decode() if len(piece) < 10 else str(len(piece)))
                if piece == b"nap":
                    await sleep(100)
        except ClientDisconnect:
            self.got.append("gone")
            await sleep(1)
            self.got.append("tidied up")
            raise
        return PlainTextResponse(f"{len(self.got)}")

    @query
    def all(self) -> list[str]:
        return self.got


class Strict(Inbox, reentrant=False):
    """One request at a time."""


class Sender:
    """A client of an Inbox, as a face is for it."""

    def __init__(self, stage: Stage, first: bytes = b"", kind: str = "") -> None:
        kind = kind or next(iter(stage.host.kinds))
        self.stage = stage
        self.answer: Answer | None = None
        self.flowing = True
        self.upload = Upload(stage.host, 1 << 30, self, first, paused=False)
        served = stage.host.kinds[kind]
        raw = RawRequest(
            "POST", "http", "1.1", f"/{kind}/i/x", b"/x", b"", "", "x", [], None, None, first
        )
        stage.host.call(
            IncomingCall(
                served,
                "i",
                served.on_request,
                ((), {}),
                pack(raw),
                self._answered,
                format=UPLOAD,
                on_accepted=self.upload.begin,
            )
        )

    def _answered(self, answer: Answer) -> None:
        self.upload.stop()
        self.answer = answer

    def pause(self) -> None:
        self.flowing = False

    def go_on(self) -> None:
        self.flowing = True

    async def send(self, data: bytes) -> None:
        """Some bytes, which make a piece of their own."""
        assert self.upload.feed(data)
        await asyncio.sleep(1)

    async def text(self) -> bytes:
        await eventually(lambda: self.answer is not None)
        assert self.answer is not None
        assert self.answer.failure is None, self.answer.failure
        return unpack_response(self.answer.body).body


async def entries_of(stage: Stage, address: str = "Inbox/i") -> list[Entry]:
    record = await record_of(stage.host, address)
    return [entry async for page in record.pages(0, record.last) for entry in page]


def scene(
    body: Callable[[Stage], Awaitable[None]], *classes: type[Object], **settings: Any
) -> None:
    async def main() -> None:
        async with Stage(*(classes or (Inbox,)), **settings) as stage:
            await body(stage)

    run_virtual(main())


inbox = Inbox.at("i")


def test_pieces_are_turns_and_a_replay_reads_the_same() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage, b"first")
        await sender.send(b"a")
        await sender.send(b"b")
        sender.upload.end()
        assert await sender.text() == b"4"
        turns = await entries_of(stage)
        events = [turn.event for turn in turns]
        pieces = [(one.body, one.number, one.end) for one in events if type(one) is Piece]
        assert pieces == [(b"a", 1, ""), (b"b", 2, ""), (b"", 3, "whole")]
        assert [turn.connections for turn in turns] == [1, 1, 1, 0]
        await stage.restart()
        assert await inbox.all() == ["first", "a", "b", ""]

    scene(body)


def test_small_bits_are_gathered() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await asyncio.sleep(1)
        for _ in range(9):
            assert sender.upload.feed(b".")
        await asyncio.sleep(1)
        assert await inbox.all() == ["." * 9]
        sender.upload.end()
        assert await sender.text() == b"2"

    scene(body)


@pytest.mark.parametrize("napping", [False, True], ids=["waits for more", "waits with some unread"])
def test_it_hibernates_in_the_middle(napping: bool) -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"nap" if napping else b"a")
        await sender.send(b"b")
        await stage.hibernate()
        assert stage.host.live() == []
        turns = len(await entries_of(stage))
        snapshot = stage.host.stash[oid_of("Inbox", "i")]
        assert heap.is_suspended(snapshot.suspended.body)
        await sender.send(b"c")
        # It was woken by the piece, which came once.
        assert len(await entries_of(stage)) == turns + 1
        if napping:
            await asyncio.sleep(100)
        sender.upload.end()
        assert await sender.text() == b"4"
        assert await inbox.all() == ["nap" if napping else "a", "b", "c", ""]

    scene(body)


@pytest.mark.parametrize("cached", [False, True], ids=["by replay", "from a snapshot"])
@pytest.mark.parametrize("napping", [False, True])
def test_after_a_crash_the_handler_is_told_once(cached: bool, napping: bool) -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"nap" if napping else b"a")
        await sender.send(b"b")
        if cached:
            await stage.hibernate()
            await stage.host.checkpointer.run()
        # Nobody calls it: it is woken since it has lost somebody.
        for _ in range(3):
            await stage.restart()
            await asyncio.sleep(200 if napping else 5)
        said = ["nap" if napping else "a", "b", "gone", "tidied up"]
        assert await inbox.all() == said
        ends = [one.event.end for one in await entries_of(stage) if type(one.event) is Piece]
        assert ends == ["", "", "gone"]
        assert stage.host.find(oid_of("Inbox", "i")).connected == 0

    scene(body)


def test_a_client_that_has_left_is_told_behind_what_it_sent() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"a")
        assert sender.upload.feed(b"b")
        sender.upload.gone()
        sender.upload.gone()
        await asyncio.sleep(5)
        assert await inbox.all() == ["a", "b", "gone", "tidied up"]
        assert sender.answer is not None
        assert sender.answer.failure is not None
        assert sender.answer.failure.error == "ClientDisconnect"
        assert stage.host.uploads.open == {}

    scene(body)


def test_a_client_that_leaves_before_its_call_is_on_disk() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        sender.upload.gone()
        await asyncio.sleep(5)
        assert await inbox.all() == ["gone", "tidied up"]

    scene(body)


def test_the_client_is_held_back_by_what_is_unread() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"nap")
        sent = 0
        while sender.flowing:
            assert sender.upload.feed(b"x" * PIECE_BYTES_MAX)
            sent += PIECE_BYTES_MAX
            await asyncio.sleep(0.001)
        await asyncio.sleep(10)
        machine = stage.host.find(oid_of("Inbox", "i")).machine
        (waiting,) = machine.uploads.values()
        assert waiting.unread == UNREAD_BYTES_MAX
        assert sent <= UNREAD_BYTES_MAX + 2 * PIECE_BYTES_MAX
        assert not sender.flowing
        await asyncio.sleep(100)
        assert sender.flowing
        sender.upload.end()
        assert int(await sender.text()) == 1 + sent // PIECE_BYTES_MAX + 1

    scene(body)


def test_a_request_that_waits_for_the_object_keeps_its_pieces() -> None:
    async def body(stage: Stage) -> None:
        first = Sender(stage, b"nap", "Strict")
        await asyncio.sleep(1)
        second = Sender(stage, b"2", "Strict")
        await second.send(b"more")
        await stage.hibernate()
        await second.send(b"and more")
        second.upload.end()
        first.upload.end()
        await asyncio.sleep(200)
        assert await Strict.at("i").all() == ["nap", "", "2", "more", "and more", ""]
        assert (await first.text(), await second.text()) == (b"2", b"6")

    scene(body, Strict)


def test_one_that_is_cancelled_in_the_queue_leaves_nothing() -> None:
    async def body(stage: Stage) -> None:
        first = Sender(stage, b"nap", "Strict")
        await asyncio.sleep(1)
        second = Sender(stage, b"2", "Strict")
        await asyncio.sleep(1)
        machine = stage.host.find(oid_of("Strict", "i")).machine
        await cancel_call(stage.host, machine.queue[0].id)
        assert list(machine.uploads) == list(machine.running)
        assert second.answer is not None
        await second.send(b"more")
        first.upload.end()
        assert await first.text() == b"2"
        assert stage.host.find(oid_of("Strict", "i")).machine.uploads is None

    scene(body, Strict)


@pytest.mark.parametrize("end", [False, True], ids=["a piece", "the last piece"])
def test_what_a_commit_loses_comes_again(end: bool) -> None:
    async def body(stage: Stage) -> None:
        store = stage.store
        assert isinstance(store, FaultyStore)
        sender = Sender(stage)
        await sender.send(b"a")
        store.full = True
        assert sender.upload.feed(b"b")
        if end:
            sender.upload.end()
        await asyncio.sleep(5)
        store.full = False
        await asyncio.sleep(5)
        sender.upload.end()
        assert await sender.text() in (b"2", b"3")
        assert [one for one in await inbox.all() if one] == ["a", "b"]
        numbers = [one.event.number for one in await entries_of(stage) if type(one.event) is Piece]
        assert numbers == sorted(set(numbers))

    scene(body, store=FaultyStore(MemoryStore()))


def test_a_call_that_is_lost_with_its_commit_takes_no_pieces() -> None:
    async def body(stage: Stage) -> None:
        store = stage.store
        assert isinstance(store, FaultyStore)
        store.full = True
        sender = Sender(stage, b"a")
        assert sender.upload.feed(b"b")
        await asyncio.sleep(5)
        store.full = False
        await asyncio.sleep(5)
        assert sender.answer is not None
        assert sender.answer.failure is not None
        assert await inbox.all() == []
        assert stage.host.uploads.open == {}

    scene(body, store=FaultyStore(MemoryStore()))


def test_a_copy_has_no_client() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"a")
        await planting.fork(stage.host, "Inbox/i", "copy", None)
        copy = Inbox.at("copy")
        await stage.restart()
        await asyncio.sleep(5)
        # Only looked at, it stays as it was; the origin has been told meanwhile.
        assert await copy.all() == ["a"]
        assert await inbox.all() == ["a", "gone", "tidied up"]
        await planting.release(stage.host, "Inbox/copy")
        await asyncio.sleep(5)
        assert await copy.all() == ["a", "gone", "tidied up"]
        await stage.restart()
        await asyncio.sleep(5)
        assert await copy.all() == ["a", "gone", "tidied up"]

    scene(body)


def test_without_the_request_its_pieces_are_left_out() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"a")
        sender.upload.end()
        await sender.text()
        record = await record_of(stage.host, "Inbox/i")
        told = await what_if(record, 1, None)
        why = {one["kind"]: one["why"] for one in told["left_out"]}
        assert why == {"call": "it was left out", "piece": "its request is not read"}

    scene(body)


def test_the_past_tells_of_pieces() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"abc")
        sender.upload.gone()
        await asyncio.sleep(5)
        told = await look.history(stage.host, "Inbox/i", 0, 10)
        pieces = [one["input"] for one in told if one["kind"] == "piece"]
        assert [line.partition(" of the body")[0] for line in pieces] == ["3 bytes", "0 bytes"]
        assert pieces[1].endswith(", the client has gone")

    scene(body)


def test_what_it_waits_for_is_told_in_words() -> None:
    async def body(stage: Stage) -> None:
        sender = Sender(stage)
        await sender.send(b"a")
        (line,) = await why.why(stage.host, "Inbox/i")
        assert (line["waiting_on"], line["end"]) == ("more of the body of its request", "body")
        assert [
            one for one in await stuck.stuck(stage.host, 0, 10) if one["what"] == "waiting"
        ] == []
        sender.upload.end()
        await sender.text()

    scene(body)


# --- anything at any moment


async def one_life(stage: Stage, bodies: dict[str, Sender], rng: random.Random) -> None:
    """Bodies begin, go on and end while the object comes and goes and the disk fills up."""
    store = stage.store
    assert isinstance(store, FaultyStore)
    senders: list[tuple[Sender, list[bytes]]] = []
    for _ in range(rng.randrange(20, 40)):
        match rng.randrange(9):
            case 0 | 1:
                name = f"<{len(bodies)}>"
                sender = Sender(stage, name.encode())
                bodies[name] = sender
                senders.append((sender, []))
            case 2 | 3 | 4 if senders:
                sender, sent = rng.choice(senders)
                name = next(name for name, one in bodies.items() if one is sender)
                sender.upload.feed(f"{name}{len(sent)} ".encode())
                sent.append(b"")
            case 5 if senders:
                senders.pop(rng.randrange(len(senders)))[0].upload.end()
            case 6 if senders:
                senders.pop(rng.randrange(len(senders)))[0].upload.gone()
            case 7:
                await stage.hibernate()
            case 8:
                store.full = not store.full
        await asyncio.sleep(rng.choice([0, 0.01, 0.2, 3]))
    store.full = False
    await asyncio.sleep(rng.choice([0, 0.15, 5]))


class Ledger(Object):
    """What it read of each body, by the name that stands in front, and how each ended."""

    read: dict[str, str] = {}
    ends: list[str] = []

    async def on_request(self, request: Request) -> Response:
        name = ""
        try:
            async for piece in request.stream():
                text = piece.decode()
                name = name or text.partition(">")[0] + ">"
                self.read[name] = self.read.get(name, "") + text
                if text and ord(text[-2:][0]) % 3 == 0:
                    await sleep(1)
        except ClientDisconnect:
            self.ends.append(f"{name} gone")
            raise
        self.ends.append(f"{name} whole")
        return PlainTextResponse(name)

    @query
    def all(self) -> tuple[dict[str, str], list[str]]:
        return self.read, self.ends


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_a_body_is_read_in_order_and_ends_once(seed: int) -> None:
    rng = seeded(seed)

    async def body(stage: Stage) -> None:
        bodies: dict[str, Sender] = {}
        for _ in range(4):
            await one_life(stage, bodies, rng)
            if rng.random() < 0.5:
                await stage.host.checkpointer.run()
            await stage.restart()
        await asyncio.sleep(60)
        read, ends = await Ledger.at("i").all()
        assert sorted(one.partition(" ")[0] for one in ends) == sorted(read)
        for name, text in read.items():
            # A part of what was sent, from its beginning and without a gap; all of it, if whole.
            count = len(text.split(" ")) - 1
            assert text == name + "".join(f"{name}{n} " for n in range(count))
            sender = bodies[name]
            if sender.answer is not None and sender.answer.failure is None:
                assert f"{name} whole" in ends
            if f"{name} whole" in ends:
                assert len(text) == sender.upload.size
        assert stage.host.uploads.open == {}
        machine = stage.host.find(oid_of("Ledger", "i")).machine
        assert machine.uploads is None

    scene(body, Ledger, store=FaultyStore(MemoryStore()))
