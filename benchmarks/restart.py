"""From a kill -9 to the first answer: 10,000 objects, and 8 MB of journal behind the checkpoint.

The same data directory is started again in each round, beside an empty one. Both have been served
before, so that neither makes its store. What is asked first is a query of one of the objects.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import servers
from benchmarks.report import Beside, Figure, at_most, median
from benchmarks.servers import load, post_script, running

OBJECTS = 10_000
TAIL_BYTES = 8 * 1024 * 1024
_ASK = b"GET /Counter/key-7/read HTTP/1.1\r\nHost: x\r\n\r\n"
_LONG = ("--checkpoint-bytes", str(1 << 40), "--checkpoint-seconds", "1000000")


class Start(NamedTuple):
    """Until the first answer: how long, and the CPU of the process that gave it."""

    seconds: float
    cpu_s: float


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Seconds beyond the start of a process."""
    servers.check_wrk()
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        full, empty = Path(directory, "full"), Path(directory, "empty")
        tail_bytes = _fill(full)
        with running(servers.start_perdure(empty)) as server:
            server.stop()
        found = [(_start(full, full=True), _start(empty, full=False)) for _ in range(rounds + 2)]
    beyond = median(one.seconds - other.seconds for one, other in found)
    cpu = median(one.cpu_s - other.cpu_s for one, other in found)
    start = median(other.seconds for _, other in found)
    yield Figure(
        "restart after kill -9 with 10,000 objects, to the first answer",
        f"{beyond:.2f} s more",
        None,
        [Beside("the start with an empty store", f"{start:.2f} s", (beyond + start) / start)],
        [at_most(beyond, 0.5, "s beyond process start")],
        f"tail of {tail_bytes / 1e6:.1f} MB; {cpu:.2f} s more CPU",
        {
            "full": [one.seconds for one, _ in found],
            "empty": [other.seconds for _, other in found],
            "full cpu_s": [one.cpu_s for one, _ in found],
            "empty cpu_s": [other.cpu_s for _, other in found],
        },
    )


def _fill(data: Path) -> int:
    """A data directory as a crash leaves it; gives the length of its tail."""
    with running(servers.start_perdure(data, *_LONG)) as server:
        tail_bytes = 0
        while tail_bytes < TAIL_BYTES:
            load(server, post_script(OBJECTS), "", 1)
            tail_bytes = _tail_bytes(server.port)
        server.kill()
    return tail_bytes


def _tail_bytes(port: int) -> int:
    answer = servers.ask(port, b"GET /_perdure/metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    for line in answer.decode().splitlines():
        if line.startswith("perdure_tail_bytes"):
            return int(float(line.split()[-1]))
    raise AssertionError(answer)


def _start(data: Path, *, full: bool) -> Start:
    """From the start of `perdure serve` to the answer."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        # A copy: each start finds what the crash has left.
        copy = Path(directory, "data")
        shutil.copytree(data, copy)
        begin = time.perf_counter()
        with running(servers.start_perdure(copy, until=_ASK)) as server:
            start = Start(time.perf_counter() - begin, server.cpu_us() / 1e6)
            remembered = servers.ask(server.port, _ASK).endswith(b"\r\n\r\n0") is not full
            assert remembered, "the first answer does not know what was acknowledged"
            return start
