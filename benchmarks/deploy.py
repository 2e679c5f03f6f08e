"""A deploy under a running server with many live objects: how long does a call wait at most?

`perdure serve` has the objects in memory, and clients call it all the time, on connections of
their own. It is told to reload (SIGHUP): a second worker imports the app, the first hands over.
What is measured is the longest time that any call took around it, and that all were answered.
"""

from __future__ import annotations

import http.client
import json
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import servers
from benchmarks.report import Beside, Figure, at_most, median

_CLIENTS = 4
_PAUSE_S = 0.002


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """The longest wait of a call."""
    servers.check_proc()
    objects = 1_000 if quick else 10_000
    # Under nohup the server would take no SIGHUP for a reload, as it inherits that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    found = [measure(objects) for _ in range(rounds)]
    longest = median(one["longest_ms"] for one in found)
    usual = median(one["usual_ms"] for one in found)
    yield Figure(
        f"longest wait of a call while {objects} live objects get new code",
        f"{longest:.0f} ms",
        None,
        [
            Beside(
                "the longest without a deploy, in the same time", f"{usual:.0f} ms", longest / usual
            )
        ],
        [at_most(longest, 50, "ms")],
        f"{found[0]['calls']:.0f} calls, {found[0]['lost']:.0f} of them lost; "
        f"the whole deploy took {median(one['whole_s'] for one in found):.1f} s",
        {"longest_ms": [one["longest_ms"] for one in found]},
    )


class _Clients:
    """Call all the time, each on a connection that it keeps."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.taken: list[tuple[float, float]] = []
        """(when it began, how long it took) of each call."""
        self.lost = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                connection.request("POST", f"/Counter/c{number}/increment", b'{"by": 1}')
                answer = connection.getresponse()
                answer.read()
                self.lost += answer.status != 200
            except OSError:
                self.lost += 1
                connection.close()
            self.taken.append((began, time.monotonic() - began))
            time.sleep(_PAUSE_S)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def longest_ms(self, begin: float, end: float) -> float:
        return 1000 * max(took for began, took in self.taken if begin <= began <= end)


def measure(objects: int) -> dict[str, float]:
    """One deploy."""
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.running(servers.start_perdure(Path(folder), "--hibernate-after", "3600")) as server,
    ):
        _make_live(server.port, objects)
        clients = _Clients(server.port)
        time.sleep(1.0)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGHUP)
        before = server.serves
        while Path(f"/proc/{before}").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        end = time.monotonic()
        again = end - begin
        time.sleep(again)
        clients.stop()
        return {
            "longest_ms": clients.longest_ms(begin, end),
            "usual_ms": clients.longest_ms(end, end + again),
            "calls": sum(begin <= began <= end for began, _ in clients.taken),
            "lost": clients.lost,
            "whole_s": again,
        }


def _make_live(port: int, objects: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for n in range(objects):
        connection.request("POST", f"/Counter/live{n}/increment", json.dumps({"by": n}))
        connection.getresponse().read()
    connection.close()
