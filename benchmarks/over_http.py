"""Durable calls and queries over HTTP: 64 connections, fsync before each answer.

Contenders take turns, each in a process of its own:

    durable      `perdure serve`, with the store on disk
    journal off  the same server with `--store memory:`: the same turns, entries and chunks, but
                 a commit puts them into a dict and nothing waits for a disk
    uvicorn      a counter in a dict, raw ASGI, httptools and uvloop (raw_asgi.py)
    bare         a protocol on httptools and uvloop that answers the same bytes each time
                 (front.py): the most that a server on them can do, and so a bound on the ratio
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import servers
from benchmarks.report import Beside, Figure, at_least, at_most, median, micro, rate
from benchmarks.servers import Load, get_script, load, post_script, running

Rounds = dict[str, list[Load]]


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Calls on 1 and 1000 objects, and queries on 1000."""
    servers.check_wrk()
    seconds = 1 if quick else 3
    found: Rounds = {}
    for _ in range(rounds):
        for name, one in _round(seconds):
            found.setdefault(name, []).append(one)
    for objects in (1, 1000):
        yield _call(found, objects)
    yield _query(found)
    yield _bare(found)


def _round(seconds: int) -> Iterator[tuple[str, Load]]:
    for objects in (1, 1000):
        with (
            tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as data,
            running(servers.start_perdure(Path(data))) as server,
        ):
            yield f"durable {objects}", _calls(server, objects, seconds)
            if objects > 1:
                yield "query", load(server, get_script(objects), "", seconds)
        with running(servers.start_perdure(None)) as server:
            yield f"journal off {objects}", _calls(server, objects, seconds)
    with running(servers.start_uvicorn()) as server:
        yield "uvicorn", _calls(server, 1000, seconds)
    with running(servers.start_bare()) as server:
        yield "bare", _calls(server, 1000, seconds)


def _calls(server: servers.Server, objects: int, seconds: int) -> Load:
    # The first second makes the objects, and fills what is filled once.
    load(server, post_script(objects), "", 1)
    return load(server, post_script(objects), "", seconds)


def _call(found: Rounds, objects: int) -> Figure:
    durable, off = found[f"durable {objects}"], found[f"journal off {objects}"]
    uvicorn = found["uvicorn"]
    a_second, cpu_us = _median_rate(durable), _median_cpu(durable)
    to_uvicorn, to_off = a_second / _median_rate(uvicorn), a_second / _median_rate(off)
    what = "1 object" if objects == 1 else f"{objects:,} objects"
    return Figure(
        f"durable call over HTTP, {servers.CONNECTIONS} connections, {what}",
        rate(a_second),
        cpu_us,
        [
            Beside("in-memory counter on uvicorn", _told(uvicorn), to_uvicorn),
            Beside("the same server, journal off", _told(off), to_off),
        ],
        [
            at_least(a_second, 40_000, "/s"),
            at_most(cpu_us, 22, "µs CPU"),
            at_least(to_uvicorn, 3, "× uvicorn"),
            at_least(to_off, 0.7, "× journal off"),
        ],
        f"p50 {micro(median(one.p50_us for one in durable))}, "
        f"p99 {micro(median(one.p99_us for one in durable))}",
        {
            "rate": [one.rate for one in durable],
            "cpu_us": [one.cpu_us for one in durable],
            "journal off": [one.rate for one in off],
            "journal off cpu_us": [one.cpu_us for one in off],
            "uvicorn": [one.rate for one in uvicorn],
            "uvicorn cpu_us": [one.cpu_us for one in uvicorn],
        },
    )


def _query(found: Rounds) -> Figure:
    query, durable = found["query"], found["durable 1000"]
    a_second = _median_rate(query)
    # Both on one server and one after the other, so their ratio is taken round by round.
    ratio = median(a.rate / b.rate for a, b in zip(query, durable, strict=True))
    return Figure(
        "query over HTTP, 1,000 objects",
        rate(a_second),
        _median_cpu(query),
        [Beside("the durable call", _told(durable), ratio)],
        [at_least(ratio, 1.2, "× the durable call")],
        f"p50 {micro(median(one.p50_us for one in query))}",
        {"rate": [one.rate for one in query], "cpu_us": [one.cpu_us for one in query]},
    )


def _bare(found: Rounds) -> Figure:
    bare, uvicorn = found["bare"], found["uvicorn"]
    ratio = _median_rate(bare) / _median_rate(uvicorn)
    return Figure(
        "bound: a bare httptools protocol, nothing behind it",
        rate(_median_rate(bare)),
        _median_cpu(bare),
        [Beside("in-memory counter on uvicorn", _told(uvicorn), ratio)],
        samples={"rate": [one.rate for one in bare], "cpu_us": [one.cpu_us for one in bare]},
    )


def _told(rounds: list[Load]) -> str:
    return f"{rate(_median_rate(rounds))}, {_median_cpu(rounds):.1f} µs CPU"


def _median_rate(rounds: list[Load]) -> float:
    return median(one.rate for one in rounds)


def _median_cpu(rounds: list[Load]) -> float:
    return median(one.cpu_us for one in rounds)
