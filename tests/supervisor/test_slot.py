from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from perdure.supervisor.slot import ADDRESS_BYTES_MAX, EVENT_BYTES_MAX, TurnSlot


@pytest.fixture
def slot() -> Iterator[TurnSlot]:
    slot = TurnSlot.create()
    yield slot
    slot.close()


def test_a_fresh_slot_is_between_turns(slot: TurnSlot) -> None:
    assert slot.look() == (0, "", b"", False, 0)


def test_the_slot_shows_the_turn_that_runs(slot: TurnSlot) -> None:
    slot.begin("Counter/löbby", b"call increment {}")
    assert slot.look() == (1, "Counter/löbby", b"call increment {}", True, 0)
    slot.end()
    assert slot.look() == (2, "Counter/löbby", b"call increment {}", False, 0)


def test_beats_are_counted_beside_the_turns(slot: TurnSlot) -> None:
    slot.beat()
    slot.begin("Counter/a", b"call increment {}")
    slot.beat()
    assert slot.look() == (1, "Counter/a", b"call increment {}", True, 2)


def test_a_shorter_turn_leaves_nothing_of_a_longer_one(slot: TurnSlot) -> None:
    slot.begin("Counter/a-long-name", b"a long event")
    slot.end()
    slot.begin("A/b", b"e")
    assert slot.look()[1:3] == ("A/b", b"e")


def test_what_is_too_long_is_cut(slot: TurnSlot) -> None:
    slot.begin("K/" + "x" * 5000, b"e" * 100_000)
    look = slot.look()
    assert len(look.address) == ADDRESS_BYTES_MAX
    assert look.event == b"e" * EVENT_BYTES_MAX


def test_the_slot_outlives_a_process_killed_in_a_turn(slot: TurnSlot) -> None:
    program = (
        "import os, signal\n"
        "from perdure.supervisor.slot import TurnSlot\n"
        f"slot = TurnSlot({slot.fd})\n"
        "for _ in range(41): slot.begin('A/x', b'fine'); slot.end()\n"
        "slot.begin('Bomb/1', b'call explode')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], pass_fds=[slot.fd], cwd=os.getcwd(), timeout=60
    )
    assert ended.returncode == -signal.SIGKILL
    assert slot.look() == (83, "Bomb/1", b"call explode", True, 0)
