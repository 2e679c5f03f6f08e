"""What the gateway and its front cost for a request, with nothing behind them.

Four servers take turns under the same load, each in a process of its own:

    raw      a bare httptools protocol that answers the same bytes: what HTTP itself costs here
    call     the gateway on a host that answers at once
    later    the gateway on a host that answers all calls of a loop pass together, as a commit does
    query    GET of a query, answered at once

    python benchmarks/front.py [--seconds 3] [--rounds 3] [--connections 64]

CPU is the server process's own, user and system. Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httptools

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Beside, Figure, median, rate
from benchmarks.servers import check_wrk
from perdure import Object, query
from perdure.gateway.front import serve_front
from perdure.gateway.http import Gateway
from perdure.host.incoming import Answer, IncomingCall
from perdure.kind import kind_of
from perdure.settings import Settings

OBJECTS = 1000


class Counter(Object):
    value: int = 0

    async def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @query
    async def read(self) -> int:
        return self.value


class NoHost:
    """Answers each call with a number, at once or at the end of the loop pass."""

    def __init__(self, *, later: bool) -> None:
        self.kinds = {"Counter": kind_of(Counter)}
        self._gathered: list[IncomingCall] = []
        self.call = self._gather if later else self._answer

    def _answer(self, call: IncomingCall) -> None:
        call.on_answer(Answer("", b"12345", None))

    def _gather(self, call: IncomingCall) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._release)
        self._gathered.append(call)

    def _release(self) -> None:
        calls, self._gathered = self._gathered, []
        for call in calls:
            call.on_answer(Answer("", b"12345", None))


class Raw(asyncio.Protocol):
    """No routing, no limits, no errors: the least a server on httptools can do."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.url = self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        pass

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.url.decode().split("/", 3)
        self.url = self.body = b""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: %d\r\n\r\n%b" % (5, b"12345")
        )


async def serve(what: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if what == "raw":
        await loop.create_server(Raw, "127.0.0.1", port)
    else:
        host: Any = NoHost(later=what == "later")
        await serve_front(Gateway(host, Settings()), host="127.0.0.1", port=port)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    await stop.wait()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime, used.ru_stime, flush=True)


def measure(what: str, seconds: int, connections: int) -> tuple[float, float, float]:
    """(requests a second, user CPU us, system CPU us for each)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, __file__, "--serve", what, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA_GET if what == "query" else _LUA_POST)
        script.flush()
        wrk = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "-s", script.name, url],
            capture_output=True,
            text=True,
            check=True,
        )
    server.send_signal(signal.SIGTERM)
    user, system = map(float, server.stdout.read().split())
    server.wait()
    assert "Non-2xx" not in wrk.stdout, wrk.stdout
    requests = int(_found(r"(\d+) requests in", wrk.stdout))
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", wrk.stdout))
    return rate, user / requests * 1e6, system / requests * 1e6


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


_LUA_POST = f"""
local n = 0
wrk.method = "POST"
wrk.body = '{{"by": 1}}'
request = function()
  n = (n + 1) % {OBJECTS}
  return wrk.format(nil, "/Counter/key-" .. n .. "/increment")
end
"""
_LUA_GET = f"""
local n = 0
request = function()
  n = (n + 1) % {OBJECTS}
  return wrk.format(nil, "/Counter/key-" .. n .. "/read")
end
"""


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """The gateway on a host that answers a loop pass together, and on one that answers at once."""
    check_wrk()
    names = {
        "later": "gateway alone, answers of a loop pass together",
        "call": "gateway alone, answered at once",
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("raw", *names)}
    for _ in range(rounds):
        for contender, rows in found.items():
            rows.append(measure(contender, 1 if quick else 3, 64))
    raw_rate = median(row[0] for row in found["raw"])
    raw_cpu = median(row[1] + row[2] for row in found["raw"])
    for contender, name in names.items():
        a_second = median(row[0] for row in found[contender])
        cpu_us = median(row[1] + row[2] for row in found[contender])
        told = f"{rate(raw_rate)}, {raw_cpu:.1f} µs CPU"
        beside = Beside("a bare httptools protocol", told, a_second / raw_rate)
        yield Figure(name, rate(a_second), cpu_us, [beside])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=3)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--connections", type=int, default=64)
    options.add_argument("--serve", help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve:
        import uvloop

        uvloop.run(serve(given.serve, given.port))
        return
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (apt-get install wrk)")
    names = ["raw", "call", "later", "query"]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            found[name].append(measure(name, given.seconds, given.connections))
    report(found)


def report(found: dict[str, list[tuple[float, float, float]]]) -> None:
    def median(name: str, i: int) -> float:
        return statistics.median(row[i] for row in found[name])

    print(f"{'':8}{'req/s':>10}{'user us':>10}{'sys us':>10}{'CPU us':>10}{'over raw':>10}")
    raw = median("raw", 1) + median("raw", 2)
    for name in found:
        rate, user, system = (median(name, i) for i in range(3))
        print(
            f"{name:8}{rate:10,.0f}{user:10.2f}{system:10.2f}{user + system:10.2f}"
            f"{user + system - raw:10.2f}"
        )


if __name__ == "__main__":
    main()
