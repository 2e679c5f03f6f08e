from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.supervisor.deaths import Deaths, ForgivingSlot, event_text
from perdure.supervisor.slot import EVENT_BYTES_MAX, TurnSlot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deaths.json"


def test_three_deaths_of_one_event_poison_it(path: Path) -> None:
    deaths = Deaths.load(path)
    assert [deaths.record("Bomb/1", b"call explode", "signal SIGKILL") for _ in range(2)] == [1, 2]
    assert deaths.poisoned() == set()
    assert deaths.record("Bomb/1", b"call explode", "exit code 7") == 3
    assert deaths.poisoned() == {("Bomb/1", Deaths.digest(b"call explode"))}


def test_other_events_and_other_objects_are_counted_apart(path: Path) -> None:
    deaths = Deaths.load(path)
    for address, event in [("A/1", b"x"), ("A/1", b"y"), ("A/2", b"x"), ("A/1", b"x")]:
        count = deaths.record(address, event)
    assert count == 2
    assert deaths.suspects() == {"A/1", "A/2"}


def test_deaths_are_there_after_a_restart(path: Path) -> None:
    Deaths.load(path).record("A/1", b"x", "exit code 7")
    (death,) = Deaths.load(path).all()
    assert (death.address, death.event, death.count, death.why) == ("A/1", "x", 1, "exit code 7")
    assert json.loads(path.read_text())[0]["last"].endswith("+00:00")


def test_forgetting_an_object_forgets_all_its_events(path: Path) -> None:
    deaths = Deaths.load(path)
    for event in (b"x", b"y"):
        deaths.record("A/1", event)
    deaths.record("A/2", b"x")
    assert deaths.forget("A/1")
    assert not deaths.forget("A/1")
    assert Deaths.load(path).suspects() == {"A/2"}


def test_an_event_that_went_well_is_forgiven(path: Path) -> None:
    deaths = Deaths.load(path)
    deaths.record("A/1", b"x")
    deaths.record("A/1", b"y")
    assert deaths.survived("A/1", b"x")
    assert [death.event for death in Deaths.load(path).all()] == ["y"]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b'{"a": 1}', b'[{"address": "A/1"}]', b"\xff"]
)
def test_a_damaged_file_counts_as_empty(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    deaths = Deaths.load(path)
    assert deaths.all() == []
    assert deaths.record("A/1", b"x") == 1


def test_without_room_for_the_file_counting_goes_on(tmp_path: Path) -> None:
    deaths = Deaths.load(tmp_path / "no such directory" / "deaths.json")
    assert [deaths.record("A/1", b"x") for _ in range(3)] == [1, 2, 3]


def test_a_memory_store_has_no_file() -> None:
    deaths = Deaths.load(None)
    assert [deaths.record("A/1", b"x") for _ in range(2)] == [1, 2]


def test_the_digest_of_a_long_event_is_that_of_what_the_slot_keeps() -> None:
    event = b"e" * (EVENT_BYTES_MAX * 3)
    assert Deaths.digest(event) == Deaths.digest(event[:EVENT_BYTES_MAX])


def test_an_event_is_told_in_one_line() -> None:
    assert event_text(b'call post\n{"a": "\xc3\xa9\x1b"}\xff') == 'call post\\n{"a": "é\\x1b"}\\xff'
    assert len(event_text(b"x" * 5000)) == 200


def test_the_forgiving_slot_forgives_behind_the_turn(path: Path) -> None:
    deaths = Deaths.load(path)
    deaths.record("A/1", b"x")
    later: list[Callable[[], object]] = []
    shared = TurnSlot.create()
    slot = ForgivingSlot(shared.fd, deaths, later.append)
    slot.begin("A/2", b"x")
    slot.end()
    assert later == []
    slot.begin("A/1", b"x")
    assert slot.look().in_turn
    slot.end()
    assert deaths.suspects() == {"A/1"}
    later.pop()()
    assert deaths.suspects() == set()
    slot.begin("A/1", b"x")
    slot.end()
    assert later == []
    slot.close()


def test_what_cannot_be_read_is_an_empty_record(tmp_path: Path) -> None:
    # The directory of the data is a file: the worker refuses it in words, later.
    (tmp_path / "file").touch()
    assert not Deaths.load(tmp_path / "file" / "deaths.json").all()
