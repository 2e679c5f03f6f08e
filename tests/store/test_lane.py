"""Where commits run, and the thread they run in when it is not the caller's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure.store.lane import Lane, Pace

LIMIT_S = 0.001


class Disk:
    """Feeds a Pace with commits of a given length, and keeps the time."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.pace = Pace(limit_s)
        self.now_s = 0.0

    def commits(self, count: int, seconds: float) -> int:
        """How many of them ran inline."""
        inline = 0
        for _ in range(count):
            if self.pace.here(self.now_s):
                inline += 1
                self.now_s += seconds
                self.pace.took(seconds, self.now_s)
            else:
                self.now_s += seconds
        return inline


def test_a_fast_disk_is_written_inline() -> None:
    disk = Disk()
    assert disk.commits(1000, LIMIT_S * 0.9) == 1000
    assert disk.pace.inline


def test_a_slow_disk_is_written_in_the_thread() -> None:
    disk = Disk()
    assert disk.commits(100, LIMIT_S * 3) < 20
    assert not disk.pace.inline


def test_one_hiccup_changes_nothing() -> None:
    disk = Disk()
    disk.commits(100, LIMIT_S / 5)
    for _ in range(10):
        assert disk.commits(1, LIMIT_S * 1000) == 1
        assert disk.commits(50, LIMIT_S / 5) == 50
    assert disk.pace.inline


def test_a_disk_that_is_fast_again_is_found_by_probes() -> None:
    disk = Disk()
    disk.commits(100, LIMIT_S * 3)
    # Over ten seconds, about one commit a second is tried inline.
    assert 8 <= disk.commits(2500, LIMIT_S * 4) <= 11
    assert not disk.pace.inline
    disk.commits(10_000, LIMIT_S / 5)
    assert disk.pace.inline


def test_a_disk_about_as_fast_as_the_limit_does_not_flutter() -> None:
    disk = Disk()
    disk.commits(100, LIMIT_S * 3)
    for seconds in (0.9, 0.6, 0.8, 0.7):
        disk.commits(3000, LIMIT_S * seconds)
        assert not disk.pace.inline


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_no_limit_at_all_means_always_in_the_thread(seconds: float) -> None:
    disk = Disk(0.0)
    assert disk.commits(100, seconds) == 0


async def test_a_lane_works_in_order_in_one_other_thread() -> None:
    lane = Lane(asyncio.get_running_loop(), "test")
    assert lane.empty
    seen: list[tuple[int, int]] = []
    futures = [lane.submit(lambda n: seen.append((n, threading.get_ident())), n) for n in range(50)]
    assert not lane.empty
    await asyncio.gather(*futures)
    assert lane.empty
    assert [n for n, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()
    await lane.close()


async def test_a_lane_hands_errors_and_results_over() -> None:
    lane = Lane(asyncio.get_running_loop(), "test")
    assert await lane.submit(lambda n: n + 1, 1) == 2
    with pytest.raises(ZeroDivisionError):
        await lane.submit(lambda n: n // 0, 1)
    assert lane.empty
    await lane.close()


async def test_closing_a_lane_waits_for_what_was_submitted() -> None:
    lane = Lane(asyncio.get_running_loop(), "test")
    gate = threading.Event()
    futures = [lane.submit(lambda _: gate.wait(), None) for _ in range(3)]
    closing = asyncio.ensure_future(lane.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    assert all(future.result() for future in futures)


async def test_a_caller_that_no_longer_waits_holds_up_nobody() -> None:
    lane = Lane(asyncio.get_running_loop(), "test")
    gate = threading.Event()
    first = lane.submit(lambda _: gate.wait(), None)
    second = lane.submit(lambda n: n, 2)
    first.cancel()
    gate.set()
    assert await second == 2
    assert lane.empty
    await lane.close()


def test_a_loop_that_ended_first_does_not_hold_up_the_thread() -> None:
    gate = threading.Event()
    done = threading.Event()

    async def forget() -> None:
        lane = Lane(asyncio.get_running_loop(), "forgotten")
        lane.submit(lambda _: gate.wait(), None)
        lane.submit(lambda _: done.set(), None)

    asyncio.run(forget())
    gate.set()
    # The first answer finds no loop: the thread ends, and what was behind it is not done.
    for thread in threading.enumerate():
        if thread.name == "forgotten":
            thread.join()
    assert not done.is_set()
