"""WebSockets: echo, broadcast, ephemeral messages, joins, and what an idle one costs.

The load comes from picows' client (Cython, on uvloop), in a process of its own; the yardstick is a
bare picows server that echoes or broadcasts in memory (sockets.py), under the same load in the
same run. Messages have 32 bytes, and nothing is compressed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import servers
from benchmarks.child import ROOT, in_child
from benchmarks.report import (
    Beside,
    Figure,
    Missing,
    at_least,
    at_most,
    median,
    micro,
    rate,
)

_SPEAKERS = 100
_LISTENERS = 500


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Rates first, then the figures of idle connections."""
    if importlib.util.find_spec("picows") is None:
        raise Missing("picows is not installed: pip install -e '.[dev]'")
    servers.check_proc()
    seconds = 1.0 if quick else 3.0
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as data,
            servers.running(servers.start_perdure(Path(data))) as ours,
            servers.running(_start_bare()) as bare,
        ):
            for name, server, kind, path, count in (
                ("bare echo", bare, "echo", "/echo", _SPEAKERS),
                ("echo", ours, "echo", "/Echo/a", _SPEAKERS),
                ("ephemeral", ours, "echo", "/Cursor/a", _SPEAKERS),
                ("bare broadcast", bare, "broadcast", "/room", _LISTENERS),
                ("broadcast", ours, "broadcast", "/Hall/a", _LISTENERS),
            ):
                one = in_child(*("sockets", kind, server.port, path, server.serves, count, seconds))
                found.setdefault(name, []).append(one)
    yield _rate(
        *("echo by a journaled handler, 100 connections", "echo", "bare echo", found), *(20e3, 40)
    )
    yield _ephemeral(found)
    yield _rate(
        *("deliveries of broadcasts to 500 connections", "broadcast", "bare broadcast", found),
        *(50e3, 12),
    )
    yield _joins(rounds, quick)
    yield _idle(quick)


def _rate(
    text: str,
    name: str,
    bare: str,
    found: dict[str, list[dict[str, float]]],
    goal: float,
    cpu: float,
) -> Figure:
    ours, theirs = _median(found[name]), _median(found[bare])
    return Figure(
        text,
        rate(ours["rate"]),
        ours["cpu_us"],
        [
            Beside(
                f"bare picows {name}",
                f"{rate(theirs['rate'])}, {theirs['cpu_us']:.1f} µs CPU",
                ours["rate"] / theirs["rate"],
            )
        ],
        [at_least(ours["rate"], goal, "/s"), at_most(ours["cpu_us"], cpu, "µs CPU")],
        "",
        {key: [one["rate"] for one in found[key]] for key in (name, bare)},
    )


def _ephemeral(found: dict[str, list[dict[str, float]]]) -> Figure:
    ours, kept = _median(found["ephemeral"]), _median(found["echo"])
    ratio = ours["rate"] / kept["rate"]
    return Figure(
        "echo by an ephemeral handler, 100 connections",
        rate(ours["rate"]),
        ours["cpu_us"],
        [Beside("the journaled echo", f"{rate(kept['rate'])}, {kept['cpu_us']:.1f} µs CPU", ratio)],
        [at_least(ratio, 1.3, "× the journaled one")],
    )


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(one[name] for one in found) for name in found[0]}


def _joins(rounds: int, quick: bool) -> Figure:
    count = 100 if quick else 500
    asleep, bare = [], []
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as data,
            servers.running(_start_bare()) as yardstick,
        ):
            paths = [f"/Hall/room-{number}" for number in range(count)]
            ours = servers.start_perdure(Path(data))
            in_child("sockets", "joins", ours.port, paths)
            ours.stop()
            with servers.running(servers.start_perdure(Path(data))) as ours:
                asleep += in_child("sockets", "joins", ours.port, paths)
            bare += in_child("sockets", "joins", yardstick.port, ["/echo"] * count)
    ours_p50, bare_p50 = median(asleep), median(bare)
    return Figure(
        "join of a sleeping room, to its first message, p50",
        micro(ours_p50),
        None,
        [Beside("bare picows", micro(bare_p50), ours_p50 / bare_p50)],
        [at_most(ours_p50, 2000, "µs")],
        f"p99 {micro(sorted(asleep)[int(len(asleep) * 0.99)])}",
    )


def _idle(quick: bool) -> Figure:
    count = 500 if quick else 2000
    with (
        tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as data,
        servers.running(
            servers.start_perdure(
                Path(data), "--hibernate-after", "0.5", "--checkpoint-seconds", "1"
            )
        ) as ours,
        servers.running(_start_bare()) as bare,
    ):
        paths = [f"/Hall/room-{number % 20}" for number in range(count)]
        in_child("sockets", "idle", ours.port, paths[:200], ours.serves, 3.0)
        asleep = in_child("sockets", "idle", ours.port, paths, ours.serves, 4.0)
        theirs = in_child("sockets", "idle", bare.port, ["/echo"] * count, bare.serves, 0.5)
    return Figure(
        f"memory of an idle connection, {count:,} of them in 20 rooms that sleep",
        f"{asleep / 1024:.1f} KB",
        None,
        [Beside("bare picows", f"{theirs / 1024:.1f} KB", asleep / theirs)],
        [at_most(asleep / 1024, 8, "KB")],
    )


def _start_bare() -> servers.Server:
    port = servers.free_port()
    command = [sys.executable, "-m", "benchmarks.sockets", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            servers.ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        except OSError:
            time.sleep(0.05)
        else:
            break
    return servers.Server(process, port, process.pid)
