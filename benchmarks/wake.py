"""Waking an object of about 1 KB that sleeps in the store: its row is read, its heap rebuilt.

In process, from the call to the answer of its first query. Over HTTP, on one connection, from the
request to the answer of a durable call: with the fsync of that call.
"""

from __future__ import annotations

import pickle
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import inside, servers
from benchmarks.app import Basket
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_most, median, micro


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """In process, and over HTTP."""
    objects = 200 if quick else 2000
    yield _in_process([in_child("wake", "measure", objects) for _ in range(rounds)])
    servers.check_proc()
    yield _over_http([_ask_server(objects) for _ in range(rounds)])


def _in_process(found: list[dict[str, Any]]) -> Figure:
    wake, loads = median(one["p50"] for one in found), median(one["loads"] for one in found)
    return Figure(
        "wake a sleeping 1 KB object, in process, p50",
        micro(wake),
        median(one["cpu_us"] for one in found),
        [Beside("pickle.loads of its state", micro(loads), wake / loads)],
        [at_most(wake, 100, "µs")],
        f"p99 {micro(median(one['p99'] for one in found))}; "
        f"state of {found[0]['bytes']:.0f} bytes pickled",
        {"p50": [one["p50"] for one in found]},
    )


def _over_http(found: list[tuple[list[float], list[float]]]) -> Figure:
    asleep = median(_quantile(one, 0.5) for one, _ in found)
    awake = median(_quantile(one, 0.5) for _, one in found)
    return Figure(
        "wake a sleeping 1 KB object over HTTP, durable call, p50",
        micro(asleep),
        None,
        [Beside("the same call of an object that is awake", micro(awake), asleep / awake)],
        [at_most(asleep, 1000, "µs")],
        f"p99 {micro(median(_quantile(one, 0.99) for one, _ in found))}",
        {"p50": [_quantile(one, 0.5) for one, _ in found]},
    )


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


# --- in process


def measure(objects: int) -> dict[str, float]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        return inside.run(_measure(directory, objects))


async def _measure(directory: str, objects: int) -> dict[str, float]:
    # Bound before the guard is in place.
    now_ns = time.perf_counter_ns
    keys = [f"key-{n}" for n in range(objects)]
    node = await inside.start_node(directory)
    await inside.Calls(node, Basket, "fill").through(keys, 100)
    state = pickle.dumps(node.host.live()[0].machine.instance.__dict__, 5)
    await node.drain()
    # A node that starts anew: everything sleeps in the store, nothing is in the log.
    node = await inside.start_node(directory)
    assert node.host.live_count == 0
    calls = inside.Calls(node, Basket, "read")
    for key in keys[:100]:
        calls.call(key)
    took: list[float] = []
    watch = inside.Watch()
    for key in keys[100:]:
        begin = now_ns()
        calls.call(key)
        took.append((now_ns() - begin) / 1000)
    cost = watch.stop(len(took))
    # A query is answered before `call` returns, since nothing has to reach the disk for it.
    assert calls.answered == objects
    loads = inside.cpu_of(lambda: [pickle.loads(state) for _ in range(10_000)], 10_000)
    await node.drain()
    return {
        "p50": _quantile(took, 0.5),
        "p99": _quantile(took, 0.99),
        "cpu_us": cost["cpu_us"],
        "loads": loads,
        "bytes": len(state),
    }


# --- over HTTP


def _ask_server(objects: int) -> tuple[list[float], list[float]]:
    """Latencies in microseconds of calls to objects that sleep, and to the same ones awake."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as data:
        with servers.running(servers.start_perdure(Path(data))) as server:
            _ask(server.port, "fill", objects)
            server.stop()
        with servers.running(servers.start_perdure(Path(data))) as server:
            asleep = _ask(server.port, "touch", objects)
            awake = _ask(server.port, "touch", objects)
    # The first ones also pay for what is looked up once in a process.
    return asleep[objects // 20 :], awake[objects // 20 :]


def _ask(port: int, handler: str, objects: int) -> list[float]:
    took = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(objects):
            head = f"POST /Basket/key-{n}/{handler} HTTP/1.1\r\n"
            head += "Host: x\r\nContent-Length: 0\r\n\r\n"
            begin = time.perf_counter_ns()
            sock.sendall(head.encode())
            answer = sock.recv(65536)
            took.append((time.perf_counter_ns() - begin) / 1000)
            assert answer.startswith(b"HTTP/1.1 200"), answer
    return took
