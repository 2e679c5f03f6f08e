"""What checking costs: CPU microseconds an operation, beside msgspec with a hand-written Struct.

python -m benchmarks.serde
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, median, micro
from perdure import Object
from perdure.serde import Signature

OPERATIONS = 100_000
ROUNDS = 5


# Of all cases, those that are in the table of results; the others are printed by `main`.
SHOWN = ('increment {"by": 2}', "order, two dataclasses", "encode_result, int")


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Decoding of arguments and encoding of a result, beside msgspec doing the same."""
    found = [in_child("serde", "measure") for _ in range(rounds)]
    for what in SHOWN:
        cost, yardstick = (median(one[what][n] for one in found) for n in (0, 1))
        beside = Beside("msgspec with a hand-written Struct", micro(yardstick), cost / yardstick)
        yield Figure(f"checking values: {what}", micro(cost), cost, [beside])


def measure() -> dict[str, tuple[float, float]]:
    """(ours, msgspec's) of the cases that are shown, in a process of its own."""
    return {
        what: (measured(ours), measured(theirs))
        for what, ours, theirs in cases()
        if theirs is not None and what in SHOWN
    }


class By(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    by: int = 1


class Post(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    at: dt.datetime
    tags: list[str] = []


@dataclasses.dataclass
class Line:
    item: str
    cents: int
    count: int = 1


class Order(msgspec.Struct, forbid_unknown_fields=True):
    lines: list[Line]


class Subject(Object):
    async def increment(self, by: int = 1) -> int:
        return by

    async def post(self, text: str, at: dt.datetime, tags: list[str]) -> None: ...

    async def order(self, lines: list[Line]) -> list[Line]:
        return lines

    async def either(self, at: dt.datetime | str) -> None: ...

    async def tell(self, other: Subject) -> None: ...


def measured(operation: Callable[[], object]) -> float:
    """Microseconds of CPU for one call: the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(OPERATIONS):
            operation()
        best = min(best, time.process_time() - start)
    return best / OPERATIONS * 1e6


def signature(name: str) -> Signature:
    return Signature(inspect.getattr_static(Subject, name), owner=Subject)


def cases() -> list[tuple[str, Callable[[], object], Callable[[], object] | None]]:
    """(what, ours, the yardstick)"""
    increment, post, order = signature("increment"), signature("post"), signature("order")
    either, tell = signature("either"), signature("tell")
    one = b'{"by": 2}'
    text = b'{"text":"at 10:30","at":"2026-03-01T12:00:00Z","tags":["a","b"]}'
    lines = [Line("tea", 350), Line("cake", 490, 2)]
    body = json.dumps({"lines": [dataclasses.asdict(line) for line in lines]}).encode()
    by, posted, ordered = (msgspec.json.Decoder(shape).decode for shape in (By, Post, Order))
    encode = msgspec.json.Encoder().encode
    ref = Subject.at("lobby")
    moment = b'["2026-03-01T12:00:00Z"]'
    moments = msgspec.json.Decoder(tuple[dt.datetime]).decode
    return [
        ('increment {"by": 2}', lambda: increment.decode_json(one), lambda: by(one)),
        ("increment, empty body", lambda: increment.decode_json(b""), lambda: by(b"{}")),
        ("increment [2]", lambda: increment.decode_json(b"[2]"), lambda: by(one)),
        ("increment, no query string", lambda: increment.decode_query(""), lambda: by(b"{}")),
        ("increment ?by=2", lambda: increment.decode_query("by=2"), lambda: by(one)),
        ("post, three arguments", lambda: post.decode_json(text), lambda: posted(text)),
        ("order, two dataclasses", lambda: order.decode_json(body), lambda: ordered(body)),
        ("either datetime or str", lambda: either.decode_json(moment), lambda: moments(moment)),
        ("a ref", lambda: tell.decode_json(b'["Subject/lobby"]'), None),
        ("wrong type, explained", lambda: refused(increment, b'{"by":"x"}'), None),
        ("bind(2)", lambda: increment.bind((2,), {}), None),
        ("bind(by=2)", lambda: increment.bind((), {"by": 2}), None),
        ("bind, two dataclasses", lambda: order.bind((lines,), {}), None),
        ("bind a ref", lambda: tell.bind((ref,), {}), None),
        ("check_result, int", lambda: increment.check_result(5), None),
        ("encode_result, int", lambda: increment.encode_result(5), lambda: encode(5)),
        ("encode_result, dataclasses", lambda: order.encode_result(lines), lambda: encode(lines)),
    ]


def refused(subject: Signature, body: bytes) -> Any:
    try:
        return subject.decode_json(body)
    except Exception as error:
        return error


def main() -> None:
    print(f"{'operation':28}{'CPU µs':>8}{'msgspec':>9}{'ratio':>7}")
    for what, ours, theirs in cases():
        cost = measured(ours)
        line = f"{what:28}{cost:8.3f}"
        if theirs is not None:
            yardstick = measured(theirs)
            line += f"{yardstick:9.3f}{cost / yardstick:7.2f}"
        print(line)


if __name__ == "__main__":
    main()
