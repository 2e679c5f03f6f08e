"""Forks, exports and imports: the same past and future, and nothing outside until released."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import Object, Past, Promise, step
from perdure.errors import Conflict, JournalCorrupt, SchemaTooNew, UnknownKind, UnknownTurn
from perdure.journal.identity import oid_of
from perdure.past import extract, planting
from perdure.store.memory import MemoryStore
from tests.host.stage import Stage, eventually, seeded
from tests.past.observed import Basket, Life, observing

charged: list[tuple[str, str]] = []
mailed: list[str] = []


@step
async def charge(card: str) -> str:
    charged.append((card, perdure.step_id()))
    return f"receipt-{len(charged)}"


ids: list[str] = []
gate: list[asyncio.Event] = []


@step
async def slow() -> int:
    ids.append(perdure.step_id())
    await gate[0].wait()
    return len(ids)


@step
async def large() -> str:
    return "x" * 200_000


class Mail(Object):
    async def send(self, text: str) -> int:
        mailed.append(text)
        return len(text)


class Order(Object):
    log: list[str] = []
    approval: Any = None

    async def pay(self, card: str) -> str:
        self.log.append(str(uuid.uuid4()))
        await asyncio.sleep(100)
        receipt = await charge(card)
        self.log.append(receipt)
        length = await Mail.at("m").send(f"{self.key}: {receipt}")
        self.log.append(str(length))
        return receipt

    async def note(self, text: str) -> list[str]:
        self.log.append(text)
        return self.log

    async def tell(self, text: str) -> None:
        await perdure.send(Mail.at("m").send, text)

    async def ask(self) -> int:
        return await Mail.at("slow").send("slowly")

    async def wants_approval(self) -> str:
        self.approval = Promise[str]()
        return await self.approval

    async def token(self) -> str:
        return str(self.approval.token)


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    charged.clear()
    mailed.clear()


def begin(call: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(call)


async def states(past: Past, upto: int) -> list[Any]:
    return [(await past.state(seq))["state"] for seq in range(upto + 1)]


# --- forks


@pytest.mark.parametrize("seed", range(4))
async def test_a_fork_has_the_past_of_its_origin(seed: int) -> None:
    rng = seeded(seed)
    async with Stage(Basket) as stage:
        with observing("Basket/b") as live:
            await Life(stage, rng).go(50)
        past = Past(Basket.at("b"))
        last = max(live)
        for n, at in enumerate(rng.sample(range(1, last + 1), 4)):
            fork: Any = await past.fork(f"fork-{n}", at)
            forks = Past(fork)
            assert (await forks.state())["state"] == live[at]
            assert (await forks.state())["seq"] == at + 1
            assert await states(forks, at) == [live[seq] for seq in range(at + 1)]
            await stage.restart()
            assert await states(forks, at) == [live[seq] for seq in range(at + 1)]


@pytest.mark.parametrize("seed", range(4))
async def test_a_fork_and_its_origin_have_equal_futures(seed: int) -> None:
    rng = seeded(seed)
    async with Stage(Basket) as stage:
        life = Life(stage, rng)
        await life.go(40)
        fork: Any = await Past(life.basket).fork("fork", live=True)
        for _ in range(30):
            name, price = rng.choice(life.names), float(rng.randrange(9))
            match rng.randrange(4):
                case 0 | 1:
                    assert await fork.put(name, price) == await life.basket.put(name, price)
                case 2:
                    results = [await _outcome(one.breaks(name)) for one in (fork, life.basket)]
                    assert results[0] == results[1]
                case _:
                    await asyncio.sleep(1)
                    if rng.random() < 0.3:
                        await stage.restart()
        mine = (await Past(fork).state())["state"]
        theirs = (await Past(life.basket).state())["state"]
        assert mine["lines"] == theirs["lines"]
        assert mine["count"] == theirs["count"]
        assert mine["by_name"] == theirs["by_name"]


async def _outcome(call: Any) -> Any:
    try:
        return await call
    except KeyError as error:
        return repr(error)


async def test_forked_code_that_waits_neither_pays_nor_mails_until_it_is_released() -> None:
    async with Stage(Order, Mail) as stage:
        origin = begin(Order.at("o").pay("visa"))
        await stage.settle()
        fork: Any = await Past(Order.at("o")).fork("f")
        await asyncio.sleep(1000)
        assert await origin == "receipt-1"
        assert [card for card, _ in charged] == ["visa"]
        assert mailed == ["o: receipt-1"]
        assert len(await fork.note("still there")) == 2
        await stage.restart()
        await asyncio.sleep(1000)
        assert len(charged) == 1

        await Past(fork).release()
        await asyncio.sleep(1000)
        # Its timer was due; then it pays for itself, and mails under its own name.
        assert len(charged) == 2
        assert mailed == ["o: receipt-1", "f: receipt-2"]
        assert (await fork.note("end"))[-3:] == ["receipt-2", "12", "end"]
        with pytest.raises(Conflict, match="not held back"):
            await Past(fork).release()


async def test_a_step_that_was_under_way_runs_again_under_its_own_id() -> None:
    ids.clear()
    gate[:] = [asyncio.Event()]

    class Worker(Object):
        done: int = 0

        async def work(self) -> int:
            self.done = await slow()
            return self.done

    async with Stage(Worker) as stage:
        running = begin(Worker.at("w").work())
        await eventually(lambda: bool(ids))
        fork: Any = await Past(Worker.at("w")).fork("f")
        await stage.restart()
        await asyncio.sleep(10)
        assert len(set(ids)) == 1
        before = len(ids)
        await Past(fork).release()
        await asyncio.sleep(1)
        assert len(ids) == before + 1
        # The provider knows by it that it is the same payment.
        assert len(set(ids)) == 1
        gate[0].set()
        await asyncio.sleep(1)
        assert (await Past(fork).state())["state"]["done"] > 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_messages_are_kept_in_their_order_and_calls_answer() -> None:
    async with Stage(Order, Mail) as stage:
        await Order.at("o").note("a")
        fork: Any = await Past(Order.at("o")).fork("f")
        for text in ("one", "two", "three"):
            await fork.tell(text)
        asking = begin(fork.ask())
        await stage.settle()
        await stage.restart()
        await asyncio.sleep(10)
        assert mailed == []
        await Past(fork).release()
        await asyncio.sleep(1)
        assert mailed == ["one", "two", "three", "slowly"]
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_call_in_flight_is_made_again_and_the_origins_caller_hears_once() -> None:
    class Slow(Object):
        calls: int = 0

        async def answer(self) -> int:
            self.calls += 1
            number = self.calls
            await asyncio.sleep(50)
            return number

    class Asker(Object):
        got: list[int] = []

        async def ask(self) -> int:
            self.got.append(await Slow.at("s").answer())
            return self.got[-1]

    class Front(Object):
        answers: list[int] = []

        async def go(self) -> None:
            self.answers.append(await Asker.at("a").ask())

    async with Stage(Slow, Asker, Front) as stage:
        await perdure.send(Front.at("f").go)
        await stage.settle()
        fork: Any = await Past(Asker.at("a")).fork("fork")
        await asyncio.sleep(10)
        await Past(fork).release()
        await asyncio.sleep(200)
        assert (await Past(Front.at("f")).state())["state"]["answers"] == [1]
        assert (await Past(Asker.at("a")).state())["state"]["got"] == [1]
        assert (await Past(fork).state())["state"]["got"] == [2]
        assert [call["status"] for call in await Past(fork).calls()] == ["done"]


async def test_promises_of_a_fork_have_tokens_of_their_own() -> None:
    async with Stage(Order, Mail) as stage:
        waiting = begin(Order.at("o").wants_approval())
        await stage.settle()
        fork: Any = await Past(Order.at("o")).fork("f")
        mine, theirs = await fork.token(), await Order.at("o").token()
        assert mine != theirs
        await stage.restart()
        assert await fork.token() == mine
        await Promise.resolve(theirs, "yes")
        await asyncio.sleep(1)
        assert [call["status"] for call in await Past(fork).calls(handler="wants_approval")] == [
            "running"
        ]
        await Promise.resolve(mine, "no")
        await asyncio.sleep(1)
        for past, value in ((Past(Order.at("o")), "yes"), (Past(fork), "no")):
            [answer] = [turn for turn in await past.history() if turn["kind"] == "resolve"]
            assert value in answer["output"]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_fork_is_refused_where_it_cannot_be() -> None:
    async with Stage(Order, Mail):
        await Order.at("o").note("a")
        await Order.at("taken").note("b")
        past = Past(Order.at("o"))
        with pytest.raises(Conflict, match="there is an object Order/taken already"):
            await past.fork("taken")
        with pytest.raises(UnknownTurn):
            await past.fork("f", 7)
        with pytest.raises(perdure.InvalidKey):
            await past.fork("")


async def test_calls_that_come_while_a_fork_is_made_find_it() -> None:
    async with Stage(Order, Mail):
        await Order.at("o").note("a")
        forking = begin(Past(Order.at("o")).fork("f"))
        calls = []
        for _ in range(20):
            await asyncio.sleep(0)
            calls.append(begin(Order.at("f").note("x")))
        try:
            await forking
        except Conflict:
            # A call was there first, and its object is left alone.
            assert (await Order.at("f").note("y"))[0] == "x"
        else:
            assert (await Order.at("f").note("y"))[:1] == ["a"]
        await asyncio.gather(*calls)


async def test_a_fork_of_a_fork_and_its_rebuilding_from_the_first_turn() -> None:
    async with Stage(Order, Mail) as stage:
        begin(Order.at("o").pay("visa"))
        await stage.settle()
        one: Any = await Past(Order.at("o")).fork("one")
        await one.note("in one")
        two: Any = await Past(one).fork("two")
        await two.note("in two")
        expected = await states(Past(two), 5)
        for name in ("one", "two"):
            # Without any snapshot, all its lives are run again.
            stage.store._suspended.pop(oid_of("Order", name), None)
        await stage.restart()
        assert len(await two.note("again")) == 4
        history = await Past(two).history(kind="fork")
        assert [turn["input"] for turn in history] == ["from Order/o", "from Order/one"]
        assert await states(Past(two), 5) == expected


# --- to another place


async def exported(past: Past) -> extract.Export:
    return extract.read(await past.export(), "a test")


@pytest.mark.parametrize("seed", range(3))
async def test_an_import_elsewhere_has_the_same_past_and_future(seed: int) -> None:
    rng = seeded(seed)
    async with Stage(Basket) as stage:
        with observing("Basket/b") as live:
            await Life(stage, rng).go(50)
        file = await exported(Past(Basket.at("b")))
        deeds = [(rng.choice("uvw"), float(rng.randrange(9))) for _ in range(10)]
        results = [await Basket.at("b").put(*deed) for deed in deeds]
        theirs = (await Past(Basket.at("b")).state())["state"]["lines"]
    last = max(live)
    # Another store: another secret, from which chance follows.
    async with Stage(Basket, store=MemoryStore()) as stage:
        [made] = await planting.bring_in(stage.host, file, None)
        assert made["address"] == "Basket/b"
        basket = Basket.at("b")
        assert await states(Past(basket), last) == [live[seq] for seq in range(last + 1)]
        await stage.restart()
        assert [await basket.put(*deed) for deed in deeds] == results
        assert (await Past(basket).state())["state"]["lines"] == theirs


async def test_import_under_another_key_over_another_object_and_not() -> None:
    async with Stage(Order, Mail) as stage:
        order = Order.at("o")
        await order.note("first")
        file = await exported(Past(order))
        await order.note("second")
        with pytest.raises(Conflict, match="already"):
            await planting.bring_in(stage.host, file, None)
        await planting.bring_in(stage.host, file, "copy")
        assert await Order.at("copy").note("x") == ["first", "x"]
        sleeping = begin(order.pay("visa"))
        await stage.settle()
        await planting.bring_in(stage.host, file, None, replace=True)
        with pytest.raises(Conflict, match="replaced"):
            await sleeping
        assert await order.note("third") == ["first", "third"]
        await stage.restart()
        assert await order.note("fourth") == ["first", "third", "fourth"]
        await asyncio.sleep(1000)
        assert charged == []
        assert len(await Past(order).history()) == 4


async def test_a_class_that_is_not_served_is_not_brought_in() -> None:
    async with Stage(Order, Mail):
        await Order.at("o").note("a")
        file = await exported(Past(Order.at("o")))
    async with Stage(Mail, store=MemoryStore()) as stage:
        with pytest.raises(UnknownKind):
            await planting.bring_in(stage.host, file, None)


async def test_nothing_of_the_stores_secret_is_in_a_file() -> None:
    async with Stage(Order, Mail) as stage:
        await Order.at("o").note("a")
        file = await Past(Order.at("o")).export()
        [one] = extract.read(file, "a test").objects
        assert stage.host.layout.secret not in file
        assert all(stage.host.layout.secret not in body for body in one.segments)
        assert one.state == {"log": ["a"], "approval": None} or one.state == {"log": ["a"]}
        assert all(len(entry.chance) == 32 for entry in one.entries())


async def test_damaged_files_are_refused() -> None:
    async with Stage(Order, Mail):
        await Order.at("o").note("a")
        file = await Past(Order.at("o")).export()
    assert len(extract.read(file, "f").objects) == 1
    rng = random.Random(1)
    for cut in (0, 3, len(file) // 2, len(file) - 1):
        with pytest.raises(JournalCorrupt, match=r"^f: "):
            extract.read(file[:cut], "f")
    for _ in range(200):
        at = rng.randrange(len(file))
        bad = file[:at] + bytes([file[at] ^ (1 << rng.randrange(8))]) + file[at + 1 :]
        with pytest.raises((JournalCorrupt, SchemaTooNew)):
            extract.read(bad, "f")
    with pytest.raises(JournalCorrupt, match="no export"):
        extract.read(b"something else entirely", "f")


async def test_a_large_result_travels_with_its_object() -> None:
    class Holder(Object):
        size: int = 0
        text: str = ""

        async def fetch(self) -> int:
            self.text = await large()
            self.size = len(self.text)
            return self.size

    async with Stage(Holder) as stage:
        assert await Holder.at("h").fetch() == 200_000
        await stage.host.checkpointer.run()
        file = await exported(Past(Holder.at("h")))
        assert file.objects[0].blobs
    async with Stage(Holder, store=MemoryStore()) as stage:
        await planting.bring_in(stage.host, file, "copy")
        past = Past(Holder.at("copy"))
        assert (await past.state(1))["state"].get("size", 0) == 0
        assert (await past.state(2))["state"]["size"] == 200_000
        await stage.host.checkpointer.run()
        await stage.restart()
        assert (await past.state(2))["state"]["size"] == 200_000


class Reminder(Object):
    rang: int = 0

    async def remind(self) -> None:
        self.schedule(timedelta(seconds=30), self.ring)

    async def ring(self) -> None:
        self.rang += 1


async def test_schedules_of_a_fork_wait_for_its_release() -> None:
    async with Stage(Reminder) as stage:
        await Reminder.at("r").remind()
        fork: Any = await Past(Reminder.at("r")).fork("f")
        await stage.restart()
        await asyncio.sleep(100)
        assert (await Past(Reminder.at("r")).state())["state"]["rang"] == 1
        assert (await Past(fork).state())["state"]["rang"] == 0
        await Past(fork).release()
        await asyncio.sleep(1)
        assert (await Past(fork).state())["state"]["rang"] == 1
