"""Replay of a trivial handler: entries into a fresh machine, each turn compared with its entry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from benchmarks import inside
from benchmarks.app import Counter
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, median, micro, rate
from perdure.host.asking import Surroundings
from perdure.host.machine import Machine
from perdure.host.replay import replay_tail
from perdure.journal.codec import decode_entry, encode_entry
from perdure.journal.entry import JSON, Call, Entry
from perdure.journal.identity import call_id, oid_of
from perdure.kind import kind_of


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Turns a second of one core."""
    turns = 20_000 if quick else 100_000
    found = [in_child("replay", "measure", turns) for _ in range(rounds)]
    cpu_us = median(one["replay"] for one in found)
    decoding = median(one["decoding"] for one in found)
    yield Figure(
        "replay of a trivial handler",
        rate(1e6 / cpu_us),
        cpu_us,
        [Beside("decoding the entries alone", micro(decoding), cpu_us / decoding)],
        [at_least(1e6 / cpu_us, 300_000, "/s")],
        "turns for each second of CPU",
        {"cpu_us": [one["replay"] for one in found]},
    )


def measure(turns: int) -> dict[str, float]:
    """In a process of its own."""
    kind, oid = kind_of(Counter), oid_of("Counter", "lobby")
    surroundings = Surroundings(bytes(32), None)
    entries = _entries(Machine(kind, "lobby", oid, surroundings), turns)
    machine = Machine(kind, "lobby", oid, surroundings)
    replay = inside.cpu_of(lambda: replay_tail(machine, entries), turns)
    assert machine.instance is not None and machine.seq == turns
    decoding = inside.cpu_of(lambda: _decode(entries), turns)
    return {"replay": replay, "decoding": decoding}


def _decode(entries: list[bytes]) -> None:
    for body in entries:
        decode_entry(body)


def _entries(machine: Machine, turns: int) -> list[bytes]:
    """What a node would have journaled."""
    assert asyncio._get_running_loop() is None
    entries = []
    for n in range(turns):
        event = Call(call_id(machine.oid, f"1.benchmark.{n:x}"), "increment", JSON, b'{"by": 1}')
        commands = list(machine.turn(event, 1_700_000_000_000_000_000 + n))
        address = machine.address if n == 0 else ""
        entries.append(
            encode_entry(
                Entry(machine.seq, machine.now_ns, "benchmark", event, commands, 0, 10, address)
            )
        )
    return entries
