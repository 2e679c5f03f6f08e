"""The memory of an object as bytes: what is shared stays shared, and damage is noticed."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import random
import sys
import zlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from perdure import Object, Transient
from perdure.errors import JournalCorrupt, SchemaTooNew
from perdure.host.machine import Machine
from perdure.suspend import heap
from perdure.transient import transient
from tests.suspend.machines import Run, fresh, reborn, state_of

MISSING = object()


class Mark:
    pass


MARK = Mark()
shade: contextvars.ContextVar[str] = contextvars.ContextVar("shade")


@dataclass
class Part:
    name: str = ""
    others: list[Any] = field(default_factory=list)


class Struct(msgspec.Struct):
    name: str
    parts: list[Any] = []


class OwnSet(set[int]):
    pass


class Holder(Object):
    plain: int = 0
    items: list[Any] = []
    cache: Transient[dict[str, int]] = transient(dict)
    extra: Any = None

    async def nothing(self) -> None: ...


def holder(**attributes: Any) -> Machine:
    run = Run(fresh(Holder))
    run.call("nothing")
    run.finish()
    state_of(run.machine).update(attributes)
    return run.machine


def loaded(machine: Machine) -> Any:
    return reborn(machine).instance


def test_what_two_places_share_they_share_after_the_load() -> None:
    part = Part("a")
    part.others = [part, [part]]
    copy = loaded(holder(items=[part, {"again": part}, Struct("s", [part])], extra=part))
    assert copy.items[0] is copy.extra is copy.items[1]["again"] is copy.extra.others[0]
    assert copy.items[2].parts[0] is copy.extra
    assert copy.extra.others[1][0] is copy.extra


def test_the_object_itself_is_one_and_knows_its_name() -> None:
    machine = holder()
    state_of(machine)["extra"] = [machine.instance]
    copy = loaded(machine)
    assert copy.extra[0] is copy
    assert copy.address == "Holder/k"


def test_transient_attributes_are_made_anew() -> None:
    machine = holder()
    machine.instance.cache["a"] = 1  # type: ignore[union-attr]
    assert loaded(machine).cache == {}


def test_attributes_of_newer_code_get_their_defaults() -> None:
    machine = holder(items=[1])
    del state_of(machine)["plain"]
    copy = loaded(machine)
    assert (copy.items, copy.plain) == ([1], 0)
    copy.items.append(2)
    assert Holder.items == []


def test_what_is_compared_by_identity_stays_what_it_is() -> None:
    own = object()
    copy = loaded(holder(items=[MISSING, MARK, own, own, Mark, sys, len]))
    assert copy.items[:2] == [MISSING, MARK]
    assert copy.items[2] is copy.items[3] is not own
    assert copy.items[4:] == [Mark, sys, len]


def test_a_mark_with_state_of_its_own_is_state() -> None:
    marked = Mark()
    marked.value = [1]  # type: ignore[attr-defined]
    copy = loaded(holder(extra=marked))
    assert copy.extra is not marked
    assert copy.extra.value == [1]


def test_futures_locks_and_queues_belong_to_the_copy() -> None:
    machine = holder()
    asyncio._set_running_loop(machine)  # type: ignore[arg-type]
    try:
        future = machine.create_future()
        lock, queue = asyncio.Lock(), asyncio.Queue[int]()
        queue.put_nowait(1)
        failed = machine.create_future()
        failed.set_exception(KeyError("k"))
        cancelled = machine.create_future()
        cancelled.cancel("why")
    finally:
        asyncio._set_running_loop(None)
    state_of(machine)["extra"] = [future, {future}, lock, queue, failed, cancelled]
    other = reborn(machine)
    copy = other.instance.extra  # type: ignore[union-attr]
    assert copy[0] in copy[1]
    assert copy[0].get_loop() is other
    assert copy[3].get_nowait() == 1
    assert copy[4].exception().args == ("k",)
    assert copy[5]._cancel_message == "why"


def test_an_alias_of_the_attributes_stays_one() -> None:
    machine = holder()
    state_of(machine)["extra"] = state_of(machine)
    copy = loaded(machine)
    assert copy.extra is copy.__dict__
    copy.extra["plain"] = 7
    assert copy.plain == 7


def test_context_variables_are_known_by_name() -> None:
    context = contextvars.Context()
    context.run(shade.set, "dark")
    context.run(decimal.setcontext, decimal.Context(prec=7))
    copy = loaded(holder(extra=context)).extra
    assert copy[shade] == "dark"
    assert copy.run(decimal.getcontext).prec == 7


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1, 2}, True),
        (set(), False),
        (frozenset({1}), True),
        (OwnSet({1}), True),
        ([143, 145, 0x8F91, "x" * 143, "x" * 145, *map(str, range(300))], False),
        (deque([1.5, OrderedDict(a=1)]), False),
    ],
)
def test_has_sets_says_whether_there_are_any(value: Any, expected: bool) -> None:
    assert heap.has_sets(heap.dump_heap(holder(extra=value))) is expected


def test_a_second_trip_changes_the_order_of_no_set_that_went_on_from_the_first() -> None:
    draw = random.Random(7)
    machine = holder()
    numbers = set()
    for _ in range(400):
        numbers.add(draw.randrange(10_000))
        if numbers and draw.random() < 0.4:
            numbers.discard(draw.choice(list(numbers)))
    state_of(machine)["extra"] = numbers
    data = heap.dump_heap(machine)
    # Live and rebuilt go on from the same bytes, so they walk the set in the same order.
    orders = []
    for _ in range(2):
        copy = fresh(Holder)
        heap.load_heap(copy, data)
        values = copy.instance.extra  # type: ignore[union-attr]
        for n in (17, 5, 4_000):
            values.add(n)
        orders.append(list(values))
    assert orders[0] == orders[1]


def test_long_bytes_are_compressed_where_it_pays() -> None:
    long = heap.dump_heap(holder(extra=["the same"] * 1000 + [str(i) for i in range(1000)]))
    assert len(long) < 4_000
    noise = random.Random(1).randbytes(5_000)
    assert 5_000 < len(heap.dump_heap(holder(extra=noise))) < 5_300


def test_damaged_bytes_are_noticed() -> None:
    data = heap.dump_heap(holder(items=list(range(100))))
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        with pytest.raises((JournalCorrupt, SchemaTooNew)):
            heap.load_heap(fresh(Holder), bytes(damaged))
    for cut in (b"", data[:5], data[:-1]):
        with pytest.raises(JournalCorrupt):
            heap.load_heap(fresh(Holder), cut)


def test_bytes_of_a_newer_release_are_refused_as_such() -> None:
    data = bytearray(heap.dump_heap(holder()))
    data[2:4] = (heap.FORMAT + 1).to_bytes(2, "little")
    with pytest.raises(SchemaTooNew):
        heap.load_heap(fresh(Holder), bytes(data))


def test_a_class_that_is_gone_is_named() -> None:
    data = heap.dump_heap(holder(extra=Part()))
    body = data[9:] if not data[4] & 1 else zlib.decompress(data[9:])
    changed = body.replace(b"Part", b"Prat")
    flags = bytes([data[4] & ~1])
    checksum = zlib.crc32(changed, zlib.crc32(flags))
    sealed = data[:4] + flags + checksum.to_bytes(4, "little") + changed
    with pytest.raises(heap.CodeChanged, match="Prat"):
        heap.load_heap(fresh(Holder), sealed)


def test_a_machine_differs_once_something_in_it_does() -> None:
    machine = holder(items=[{"deep": [1]}])
    before = heap.dump_heap(machine)
    assert not heap.differs(machine, before)
    state_of(machine)["items"][0] = {"deep": [1]}
    assert not heap.differs(machine, before)
    state_of(machine)["items"][0]["deep"].append(2)
    assert heap.differs(machine, before)


def test_every_slot_of_a_machine_is_kept_or_known_not_to_be() -> None:
    not_kept = {
        *("_chance", "began_ns", "borrowed", "call", "commands", "failed", "home", "key", "kind"),
        *("oid", "passing", "past", "pending", "problems", "read_only", "reloaded", "rules"),
        *("source", "surroundings", "tainted", "traces", "trouble", "undone"),
    }
    slots = {name for cls in Machine.__mro__ for name in getattr(cls, "__slots__", ())}
    assert slots - {"__weakref__"} == not_kept | set(heap.STATE)
