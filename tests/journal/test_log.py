"""The partition log: chunks, the output gate, a full disk, the outbox, checkpoints, recovery."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.errors import (
    JournalCorrupt,
    OperatorError,
    OutcomeUnknown,
    PerdureError,
    StoreFull,
    StoreUnavailable,
    Unavailable,
)
from perdure.journal import codec
from perdure.journal.codec import Message
from perdure.journal.entry import (
    JSON,
    Answered,
    Call,
    Ended,
    Entry,
    Fired,
    MessageId,
    Reply,
    Sent,
    Skipped,
)
from perdure.journal.log import RETRY_AFTER_FULL_S, PartitionLog, source_of
from perdure.store.base import Batch, Checkpoint
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from perdure.testing.virtual import VirtualClock


class Desk:
    """A log on a faulty store, and the book of what it did, in order."""

    def __init__(self, store: FaultyStore, clock: VirtualClock) -> None:
        self.store = store
        self.clock = clock
        self.book: list[Any] = []
        self.seqs: dict[int, int] = {}
        self.log: PartitionLog

    async def claim(self) -> PartitionLog:
        await self.store.open("node")
        (claim,) = await self.store.claim([0])
        self.log = PartitionLog(
            self.store,
            claim,
            self.clock,
            lambda error: self.book.append(("broken", type(error))),
            lambda error: self.book.append(("lost", type(error))),
        )
        return self.log

    def append(
        self, oid: int, *names: str, sends: bool = False, source: MessageId | None = None
    ) -> int:
        """A turn with outputs of these names; gives its chunk."""
        seq = self.seqs[oid] = self.seqs.get(oid, 0) + 1
        entry = Entry(
            seq,
            self.clock.now_ns(),
            "v",
            Call("id", "f", JSON, b"", source=source),
            [sent(seq)] if sends else [],
            address=f"Room/{oid}" if seq == 1 else "",
        )
        if sends:
            self.log.send(Message(MessageId(oid, seq, 0), sent(seq)))
        outputs = [self.output(name) for name in names]
        return self.log.append(oid, codec.encode_entry(entry), outputs, source)

    def output(self, name: str) -> Output:
        return Output(name, self.book)

    async def chunks(self) -> list[list[tuple[int, int]]]:
        """(object, turn) of each entry of each chunk that is on disk."""
        return [
            [(oid, entry.seq) for oid, entry in codec.read_entries(chunk, f"chunk {lsn}")]
            for lsn, chunk in await self.store.tail(0, 0)
        ]

    def seqs_of(self, oid: int) -> list[int]:
        return [codec.decode_entry(body).seq for body in self.log.entries_of(oid)]


class Output:
    """Writes into the book when and how it left."""

    def __init__(self, name: str, book: list[Any]) -> None:
        self.name = name
        self.book = book

    def release(self, error: PerdureError | None) -> None:
        self.book.append(self.name if error is None else (self.name, type(error)))
        if self.name == "bad":
            raise ValueError("the socket is gone")


def sent(number: int) -> Sent:
    return Sent("Room/x", Call(f"call {number}", "f", JSON, b"", answer_to=number))


async def a_desk() -> Desk:
    desk = Desk(FaultyStore(MemoryStore()), VirtualClock(asyncio.get_running_loop()))
    await desk.claim()
    return desk


async def passes(count: int = 3) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- chunks and the gate


async def test_the_entries_of_a_pass_are_one_commit_and_outputs_leave_in_order() -> None:
    desk = await a_desk()
    assert desk.append(1, "a") == 1
    assert desk.append(2, "b", "c") == 1
    assert desk.append(1) == 1
    assert desk.append(1, "d") == 1
    assert desk.book == []
    assert not desk.log.idle()
    await passes()
    assert desk.book == ["a", "b", "c", "d"]
    assert await desk.chunks() == [[(1, 1), (2, 1), (1, 2), (1, 3)]]
    assert (desk.log.commits, desk.log.entries, desk.log.tail) == (1, 4, 1)
    assert desk.log.idle()
    assert desk.append(2, "e") == 2
    await passes()
    assert await desk.chunks() == [[(1, 1), (2, 1), (1, 2), (1, 3)], [(2, 2)]]


async def test_nothing_leaves_before_its_chunk_is_on_disk() -> None:
    desk = await a_desk()
    desk.store.hold()
    desk.append(1, "a")
    await passes()
    assert desk.store.held == 1
    assert desk.book == []
    assert await desk.chunks() == []
    desk.store.release()
    await passes()
    assert desk.book == ["a"]


async def test_what_comes_during_a_commit_gathers_into_one_chunk() -> None:
    desk = await a_desk()
    desk.store.hold()
    desk.append(1, "a")
    await passes()
    for name in ("b", "c", "d"):
        assert desk.append(2, name) == 2
        assert desk.log.appended_lsn == desk.log.gathering_lsn == 2
        await passes()
    assert desk.store.held == 1
    desk.store.release()
    await passes()
    assert desk.book == ["a", "b", "c", "d"]
    assert await desk.chunks() == [[(1, 1)], [(2, 1), (2, 2), (2, 3)]]


async def test_an_output_waits_for_the_chunk_it_rests_on_and_for_no_later_one() -> None:
    desk = await a_desk()
    desk.log.after(0, desk.output("at once"))
    assert desk.book == ["at once"]
    desk.store.hold()
    desk.append(1, "a")
    await passes()
    desk.append(1, "c")
    desk.log.after(1, desk.output("b"))
    desk.log.after(2, desk.output("d"))
    desk.log.after(0, desk.output("old"))
    assert desk.book == ["at once", "old"]
    desk.store.release()
    await passes()
    assert desk.book == ["at once", "old", "a", "b", "c", "d"]


async def test_one_that_fails_does_not_stop_the_others() -> None:
    desk = await a_desk()
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    desk.append(1, "a", "bad", "b")
    desk.append(2, "c")
    await passes()
    assert desk.book == ["a", "bad", "b", "c"]
    assert [type(context["exception"]) for context in told] == [ValueError]
    assert desk.log.tail == 1


async def test_durable_waits_for_its_chunk() -> None:
    desk = await a_desk()
    await desk.log.durable(0)
    desk.store.hold()
    desk.append(1)
    await passes()
    desk.append(1)
    first, second = (asyncio.ensure_future(desk.log.durable(lsn)) for lsn in (1, 2))
    await passes()
    assert not first.done()
    desk.store.release()
    await first
    await second
    assert desk.log.tail == 2


# --- a disk that fails


async def test_a_full_disk_takes_the_entries_back_and_refuses_their_outputs() -> None:
    desk = await a_desk()
    desk.append(1, "a", sends=True)
    await passes()
    desk.store.full = True
    desk.append(1, "b", sends=True, source=MessageId(1, 1, 0))
    desk.append(2, "c", sends=True)
    with pytest.raises(StoreFull):
        await desk.log.durable(2)
    # First the host drops the memory that is ahead of the disk, then callers hear of it.
    assert desk.book == ["a", ("broken", Unavailable), ("b", Unavailable), ("c", Unavailable)]
    assert desk.seqs_of(1) == [1]
    assert desk.seqs_of(2) == []
    assert desk.log.dirty() == {1}
    assert desk.log.last_entry(2) is None
    assert list(desk.log.outbox) == [MessageId(1, 1, 0)]  # neither sent nor delivered
    assert desk.log.idle()


async def test_what_gathered_behind_the_commit_that_failed_is_taken_back_too() -> None:
    desk = await a_desk()
    # After it took effect, as far as the fault goes: only so is it held first.
    desk.store.fail(len(desk.store.operations) + 1, StoreFull("no room"), after=True)
    desk.store.hold()
    desk.append(1, "a")
    desk.append(1, "b")
    await passes()
    assert desk.store.held == 1
    desk.append(1, "c", sends=True)
    desk.log.after(2, desk.output("d"))
    desk.store.release()
    await passes()
    refused = [(name, Unavailable) for name in "abcd"]
    assert desk.book == [("broken", Unavailable), *refused]
    assert desk.seqs_of(1) == []
    assert desk.log.outbox == {}
    assert (desk.log.tail, desk.log.gathering_lsn) == (0, 1)


async def test_after_a_full_disk_it_refuses_for_a_while_and_then_works() -> None:
    desk = await a_desk()
    desk.store.full = True
    desk.append(1, "a")
    assert not desk.log.refusing
    await passes()
    assert desk.log.refusing
    await asyncio.sleep(RETRY_AFTER_FULL_S * 0.99)
    assert desk.log.refusing
    await asyncio.sleep(RETRY_AFTER_FULL_S * 0.02)
    assert not desk.log.refusing
    desk.store.full = False
    desk.seqs.clear()
    assert desk.append(1, "b") == 1
    await passes()
    assert desk.book[-1] == "b"
    assert await desk.chunks() == [[(1, 1)]]


async def test_a_commit_that_succeeds_ends_the_refusal() -> None:
    desk = await a_desk()
    desk.store.full = True
    desk.append(1)
    await passes()
    assert desk.log.refusing
    desk.store.full = False
    desk.seqs.clear()
    desk.append(1, "a")  # what the host itself writes, refusing or not
    await passes()
    assert desk.book[-1] == "a"
    assert not desk.log.refusing


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("a bug")])
@pytest.mark.parametrize("after", [False, True])
async def test_a_store_that_failed_is_lost_and_the_outcome_unknown(
    error: Exception, after: bool
) -> None:
    desk = await a_desk()
    desk.store.fail(len(desk.store.operations) + 1, error, after=after)
    desk.append(1, "a")
    await passes()
    assert desk.book == [
        ("broken", OutcomeUnknown),
        ("a", OutcomeUnknown),
        ("lost", StoreUnavailable),
    ]
    assert desk.seqs_of(1) == []


async def test_a_deposed_owner_is_lost() -> None:
    desk = await a_desk()
    await desk.store.inner.claim([0])
    desk.append(1, "a")
    await passes()
    assert desk.book == [
        ("broken", OutcomeUnknown),
        ("a", OutcomeUnknown),
        ("lost", StoreUnavailable),
    ]
    assert await desk.chunks() == []


# --- the outbox


async def test_a_message_is_in_the_outbox_until_its_delivery_is_on_disk() -> None:
    desk = await a_desk()
    desk.append(1, sends=True)
    desk.append(1, sends=True)
    first, second = MessageId(1, 1, 0), MessageId(1, 2, 0)
    assert list(desk.log.outbox) == [first, second]
    await passes()
    desk.store.hold()
    desk.append(2, source=first)
    await passes()
    assert list(desk.log.outbox) == [first, second]
    desk.store.release()
    await passes()
    assert list(desk.log.outbox) == [second]
    assert desk.log.outbox[second] == (1, Message(second, sent(2)))


def test_what_delivers_a_message() -> None:
    source = MessageId(1, 2, 3)
    for event in (
        Call("id", "f", JSON, b"", source=source),
        Reply(1, True, b"", source),
        Ended(source=source),
        Skipped("call", source),
    ):
        assert source_of(event) == source
    assert source_of(Fired()) is None
    assert source_of(Call("id", "f", JSON, b"")) is None


# --- checkpoints


async def test_a_checkpoint_draws_a_line_through_the_tail() -> None:
    desk = await a_desk()
    desk.append(1, sends=True)
    await passes()
    desk.append(2, sends=True)  # gathered when the line is drawn: above it
    upto = await desk.log.rotate()
    assert upto == 2
    assert {oid: len(entries) for oid, entries in desk.log.older_entries.items()} == {1: 1, 2: 1}
    desk.append(1, sends=True)
    desk.append(3)
    await passes()
    assert desk.seqs_of(1) == [1, 2]
    assert desk.seqs_of(2) == [1]
    assert desk.log.first_address(1) == "Room/1"
    newest = [desk.log.last_entry(oid) for oid in (1, 2)]
    assert [entry.seq for entry in newest if entry is not None] == [2, 1]
    assert desk.log.dirty() == {1, 2, 3}
    kept = [codec.read_message(body, "outbox").source for body in desk.log.outbox_upto(upto)]
    assert kept == [MessageId(1, 1, 0), MessageId(2, 1, 0)]
    desk.log.drop_older(upto)
    assert desk.log.older_entries == {}
    assert (desk.seqs_of(1), desk.seqs_of(2), desk.seqs_of(3)) == ([2], [], [1])
    assert desk.log.checkpoint == 2
    assert desk.log.tail_bytes > 0
    assert len(desk.log.outbox) == 3


async def test_a_checkpoint_of_everything_leaves_an_empty_tail() -> None:
    desk = await a_desk()
    desk.append(1)
    await passes()
    assert desk.log.tail_since_ns == desk.clock.now_ns()
    upto = await desk.log.rotate()
    desk.log.drop_older(upto)
    assert (desk.log.tail_bytes, desk.log.tail_since_ns) == (0, 0)
    assert desk.log.dirty() == set()
    assert await desk.log.rotate() == 1


async def test_a_checkpoint_that_failed_leaves_the_tail_as_it_was() -> None:
    desk = await a_desk()
    desk.append(1)
    desk.append(2)
    await desk.log.rotate()
    desk.append(1)
    await passes()
    desk.log.keep_older()
    assert (desk.seqs_of(1), desk.seqs_of(2)) == ([1, 2], [1])
    assert desk.log.older_entries == {}
    assert await desk.log.rotate() == 2


async def test_the_line_waits_for_the_commit_in_flight() -> None:
    desk = await a_desk()
    desk.store.hold()
    desk.append(1)
    await passes()
    rotating = asyncio.ensure_future(desk.log.rotate())
    await passes()
    desk.append(2)
    assert not rotating.done()
    desk.store.release()
    assert await rotating == 2
    assert desk.log.older_entries.keys() == {1, 2}


async def test_a_line_whose_commit_fails_is_not_drawn() -> None:
    desk = await a_desk()
    desk.append(1)
    await passes()
    desk.store.full = True
    desk.append(1, "a")
    desk.append(2, "b")
    with pytest.raises(StoreFull):
        await desk.log.rotate()
    assert desk.log.older_entries == {}
    assert (desk.seqs_of(1), desk.seqs_of(2)) == ([1], [])
    desk.store.full = False
    assert await desk.log.rotate() == 1


async def test_a_checkpoint_that_is_cancelled_leaves_the_tail_as_it_was() -> None:
    desk = await a_desk()
    desk.store.hold()
    desk.append(1)
    await passes()
    rotating = asyncio.ensure_future(desk.log.rotate())
    await passes()
    rotating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rotating
    desk.store.release()
    await passes()
    assert desk.log.older_entries == {}
    assert desk.seqs_of(1) == [1]
    assert await desk.log.rotate() == 1


# --- recovery


async def recovered(desk: Desk) -> list[tuple[int, int]]:
    """The next owner's log in place of the desk's; gives (object, turn) of what it took in."""
    log = await desk.claim()
    tail = await desk.store.tail(0, log.checkpoint)
    return [(oid, entry.seq) for oid, entry in log.recover(tail)]


async def test_the_next_owner_takes_in_the_tail_and_the_outbox() -> None:
    desk = await a_desk()
    desk.append(1, sends=True)
    desk.append(1, sends=True)
    await passes()
    desk.append(2, source=MessageId(1, 1, 0))
    await passes()
    before = desk.log
    assert await recovered(desk) == [(1, 1), (1, 2), (2, 1)]
    assert desk.log is not before
    assert desk.log.epoch == before.epoch + 1
    assert (
        desk.log.outbox
        == before.outbox
        == {MessageId(1, 2, 0): (1, Message(MessageId(1, 2, 0), sent(2)))}
    )
    assert desk.seqs_of(1) == [1, 2]
    assert desk.log.tail == 2
    assert desk.log.tail_bytes > 0
    assert desk.log.tail_since_ns == desk.clock.now_ns()
    assert desk.append(2, "a") == 3
    await passes()
    assert desk.book == ["a"]


async def test_the_outbox_of_a_checkpoint_comes_back_and_the_tail_delivers_from_it() -> None:
    desk = await a_desk()
    for _ in range(3):
        desk.append(1, sends=True)
    upto = await desk.log.rotate()
    written = await desk.store.checkpoint(
        Checkpoint(0, desk.log.epoch, upto=upto, outbox=desk.log.outbox_upto(upto))
    )
    assert written
    desk.log.drop_older(upto)
    desk.append(2, source=MessageId(1, 2, 0), sends=True)
    await passes()
    assert await recovered(desk) == [(2, 1)]
    assert list(desk.log.outbox) == [MessageId(1, 1, 0), MessageId(1, 3, 0), MessageId(2, 1, 0)]
    assert desk.log.checkpoint == upto


async def test_a_long_answer_and_others_are_no_messages() -> None:
    desk = await a_desk()
    entry = Entry(1, 1, "v", Fired(), [Answered("id", True, b"1"), sent(1)])
    desk.log.append(1, codec.encode_entry(entry), [], None)
    await passes()
    await recovered(desk)
    assert list(desk.log.outbox) == [MessageId(1, 1, 1)]  # named by its place among all commands


async def commit(desk: Desk, chunk: bytes) -> None:
    await desk.store.commit([Batch(0, desk.log.epoch, desk.log.tail + 1, chunk)])


@pytest.mark.parametrize(
    "chunk",
    [
        codec.write_chunk([codec.frame(1, b"\x93\1\2\3")]),
        codec.write_chunk([codec.frame(1, b"\x95\1\2\xa1\xff\x91\xa5fired\x90")]),
        codec.write_chunk([])[:-1],
        b"",
    ],
    ids=["no entry", "not UTF-8", "cut", "empty"],
)
async def test_a_damaged_chunk_is_named(chunk: bytes) -> None:
    desk = await a_desk()
    desk.append(1)
    await passes()
    await commit(desk, chunk)
    with pytest.raises(JournalCorrupt, match="journal of partition 0, chunk 2: "):
        await recovered(desk)


async def test_a_damaged_outbox_is_named() -> None:
    desk = await a_desk()
    await desk.store.checkpoint(Checkpoint(0, desk.log.epoch, upto=0, outbox=[b"pM"]))
    with pytest.raises(JournalCorrupt, match="outbox of partition 0: "):
        await desk.claim()


async def test_a_store_error_is_the_operators() -> None:
    assert issubclass(StoreFull, OperatorError)
    assert issubclass(JournalCorrupt, OperatorError)
