"""What a handler may raise, however odd, is an answer; and a turn that fails for our own reasons
leaves nothing behind that the journal does not have."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import perdure
from perdure import BadArguments, Conflict, Object, ObjectQuarantined, Unavailable, wait_until
from perdure.failure import failure_of
from perdure.host import activation
from perdure.journal.entry import Call, Entry, Event, Fired
from tests.host.stage import Stage


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Evil:
    def __bool__(self) -> bool:
        raise ZeroDivisionError("neither")


ODD: dict[str, BaseException] = {
    "surrogate": ValueError("\ud800 alone"),
    "mute": Mute(),
    "text for a name": perdure.HandlerError("x", error="\udfff"),
    "no findings": BadArguments("x", errors=[{"path": "a"}, 3]),  # type: ignore[list-item]
    "bytes": BadArguments("x", errors=[("\ud800", b"y")]),  # type: ignore[list-item]
    "a number": Conflict(42),  # type: ignore[arg-type]
    "exit": SystemExit(3),
    "ctrl-c": KeyboardInterrupt(),
}


class Thrower(Object):
    calls: int = 0
    seen: list[str] = []

    async def throw(self, what: str, delay: float = 0.0) -> None:
        self.calls += 1
        if delay:
            await asyncio.sleep(delay)
        raise ODD[what]

    async def ask(self, what: str) -> str:
        try:
            await Thrower.at("other").throw(what)
        except Exception as error:
            return type(error).__name__
        return ""

    async def count(self) -> int:
        return self.calls

    async def tell(self, *texts: str) -> None:
        for text in texts:
            await perdure.send(Thrower.at("told").hear, text)

    async def hear(self, text: str) -> None:
        self.seen.append(text)

    async def heard(self) -> list[str]:
        return self.seen

    async def nap(self) -> str:
        await asyncio.sleep(60)
        return "rested"

    async def later(self) -> None:
        asyncio.get_running_loop().call_later(1, lambda: 1 / 0)

    async def watch(self, what: str) -> str:
        answers: dict[str, Any] = {"stop": lambda: next(iter(())), "evil": lambda: Evil()}
        try:
            await wait_until(answers[what])
        except (RuntimeError, ZeroDivisionError) as error:
            return str(error)
        return "true"


@pytest.fixture
def worker() -> Iterator[None]:
    """SIGINT as a worker has it: nobody presses Ctrl-C there."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("what", ODD)
async def test_whatever_a_handler_raises_is_an_answer_and_a_turn(what: str) -> None:
    async with Stage(Thrower) as stage:
        for key, delay in ("now", 0.0), ("late", 5.0):
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - which is not the point
                await Thrower.at(key).throw(what, delay)
            assert not isinstance(caught.value, Unavailable)
        assert await Thrower.at("asks").ask(what)
        await stage.node.host.checkpointer.run()
        await stage.crash()
        await stage.start()
        assert [await Thrower.at(key).count() for key in ("now", "late", "other")] == [1, 1, 1]


async def test_ctrl_c_still_ends_a_program_with_a_node_in_it() -> None:
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    async with Stage(Thrower):
        with pytest.raises(KeyboardInterrupt):
            await Thrower.at("x").throw("ctrl-c")


def test_a_failure_can_be_written_whatever_it_stands_for() -> None:
    failure = failure_of(ODD["no findings"])
    assert failure.errors == [("$", "{'path': 'a'}"), ("$", "3")]
    assert failure_of(ODD["surrogate"]).message == "\\ud800 alone"
    assert failure_of(ODD["mute"]).message == "<Mute without a text>"


class Unwritable:
    """The next entries of such events cannot be encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.which: Callable[[Event], bool] = lambda event: True
        self._encode = activation.encode_entry
        monkeypatch.setattr(activation, "encode_entry", self)

    def next(self, count: int, which: Callable[[Event], bool]) -> None:
        self.left, self.which = count, which

    def __call__(self, entry: Entry) -> bytes:
        if self.left and self.which(entry.event):
            self.left -= 1
            raise ValueError("it cannot be written")
        return self._encode(entry)


def hears(event: Event) -> bool:
    return isinstance(event, Call) and event.handler == "hear"


def fires(event: Event) -> bool:
    return isinstance(event, Fired)


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Unwritable:
    return Unwritable(monkeypatch)


async def test_a_turn_that_cannot_be_written_is_not_in_memory_either(
    unwritable: Unwritable,
) -> None:
    async with Stage(Thrower) as stage:
        unwritable.next(1, hears)
        with pytest.raises(Unavailable, match="nothing of the call was kept"):
            await Thrower.at("x").hear("lost")
        await Thrower.at("x").hear("kept")
        assert await Thrower.at("x").heard() == ["kept"]
        # Its first entry names it: without that no checkpoint could be made any more, of anybody.
        await stage.node.host.checkpointer.run()


async def test_a_message_whose_turn_cannot_be_written_comes_again_before_those_behind_it(
    unwritable: Unwritable,
) -> None:
    async with Stage(Thrower):
        unwritable.next(1, hears)
        await Thrower.at("tells").tell("a", "b")
        await asyncio.sleep(10)
        assert not unwritable.left
        assert await Thrower.at("told").heard() == ["a", "b"]


async def test_what_fails_again_and_again_has_its_object_set_aside(unwritable: Unwritable) -> None:
    async with Stage(Thrower) as stage:
        napping = asyncio.create_task(Thrower.at("x").nap())
        await asyncio.sleep(1)
        unwritable.next(3, fires)
        with pytest.raises(ObjectQuarantined, match="has failed, ValueError"):
            await napping
        [one] = stage.host.quarantine.list()
        assert one["cause"] == "event"
        stage.host.quarantine.retry("Thrower", "x")
        await asyncio.sleep(100)
        assert await Thrower.at("x").heard() == []
        assert not stage.host.quarantine.list()


async def test_a_timer_whose_turn_could_not_be_written_once_fires(unwritable: Unwritable) -> None:
    async with Stage(Thrower):
        napping = asyncio.create_task(Thrower.at("x").nap())
        await asyncio.sleep(1)
        unwritable.next(2, fires)
        assert await napping == "rested"


async def test_a_predicate_may_raise_anything() -> None:
    async with Stage(Thrower):
        assert "raised StopIteration" in await Thrower.at("x").watch("stop")
        assert await Thrower.at("x").watch("evil") == "neither"


async def test_what_failed_in_a_callback_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(activation.logger, "warning", lambda message, **facts: told.append(message))
    async with Stage(Thrower) as stage:
        await Thrower.at("x").later()
        await asyncio.sleep(5)
        assert len(told) == 1
        for _ in range(2):
            await stage.crash()
            await stage.start()
            assert await Thrower.at("x").count() == 0
        assert len(told) == 1


class Before(Object, name="Upgraded"):
    async def hello(self) -> str:
        return "before"


class After(Object, name="Upgraded"):
    async def hello(self) -> str:
        return "after"

    def on_upgrade(self, old_version: str) -> None:
        raise Silent


async def test_an_upgrade_that_raises_what_has_no_text_is_told_as_one() -> None:
    async with Stage(Before) as stage:
        assert await Before.at("x").hello() == "before"
        await stage.node.drain()
        stage.classes = (After,)
        await stage.start()
        with pytest.raises(ObjectQuarantined, match="Silent: <Silent without a text>"):
            await After.at("x").hello()
        assert [one["cause"] for one in stage.host.quarantine.list()] == ["upgrade"]
