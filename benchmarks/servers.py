"""Servers under load: started as processes of their own, loaded by wrk, their CPU read off /proc.

What is read is the process that serves: of `perdure serve` the worker, not the supervisor, which
sleeps. Linux alone has /proc.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.child import ROOT
from benchmarks.report import Missing

CONNECTIONS = 64
_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
_START_TIMEOUT_S = 30.0


class Load(NamedTuple):
    """What came of one run of wrk."""

    rate: float
    """Answers a second."""
    cpu_us: float
    """CPU of the server for each."""
    p50_us: float
    p99_us: float


class Server(NamedTuple):
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    serves: int
    """Id of the process that serves."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_us(self) -> float:
        """CPU used so far by all its threads, user and system."""
        stat = Path(f"/proc/{self.serves}/stat").read_text().rpartition(") ")[2].split()
        return (int(stat[11]) + int(stat[12])) * _TICK_US

    def kill(self) -> None:
        """kill -9 of all its processes; the machine goes on, and so what was written is there."""
        for pid in (self.process.pid, self.serves):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for the drain."""
        self.process.terminate()
        self.process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


READY = b"GET /_perdure/ready HTTP/1.1\r\nHost: x\r\n\r\n"


def start_perdure(data: Path | None, *flags: str, until: bytes = READY) -> Server:
    """`perdure serve benchmarks/app.py`; without `data`, with the journal in memory alone.

    Returns when the request `until` is answered with 200.
    """
    port = free_port()
    store = ["--data", str(data)] if data is not None else ["--store", "memory:"]
    command = [sys.executable, "-m", "perdure.cli.main", "serve", "benchmarks/app.py"]
    process = _start([*command, *store, "--port", str(port), *flags], port, until)
    return Server(process, port, worker_of(process.pid))


def start_uvicorn() -> Server:
    """The in-memory counter on uvicorn."""
    try:
        import uvicorn  # noqa: F401
    except ImportError:
        raise Missing("uvicorn is not installed: pip install -e '.[test]'") from None
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.raw_asgi:app", "--port", str(port)]
    command += ["--http", "httptools", "--loop", "uvloop", "--no-access-log"]
    command += ["--log-level", "warning"]
    process = _start(command, port, b"GET /Counter/key-0/read HTTP/1.1\r\nHost: x\r\n\r\n")
    return Server(process, port, process.pid)


def start_bare() -> Server:
    """The bare protocol of front.py."""
    port = free_port()
    command = [sys.executable, "benchmarks/front.py", "--serve", "raw", "--port", str(port)]
    process = _start(command, port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return Server(process, port, process.pid)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Ends the server at the end, however that comes."""
    try:
        yield server
    finally:
        server.kill()


def _start(command: list[str], port: int, until: bytes) -> subprocess.Popen[bytes]:
    """A server that has answered; what it says is shown only if it does not come to that."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        try:
            _wait_for_answer(port, until, process)
        except BaseException:
            process.kill()
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))
            raise
    return process


def _wait_for_answer(port: int, request: bytes, process: subprocess.Popen[bytes]) -> None:
    """Ask until somebody answers with 200."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        try:
            if ask(port, request).startswith(b"HTTP/1.1 200"):
                return
        except OSError:
            pass
        time.sleep(0.001)
    raise TimeoutError(f"no answer on port {port} within {_START_TIMEOUT_S} s")


def ask(port: int, request: bytes) -> bytes:
    """One request on a connection of its own, and what of its answer came first."""
    with socket.create_connection(("127.0.0.1", port), timeout=_START_TIMEOUT_S) as sock:
        sock.sendall(request)
        return sock.recv(1 << 20)


def worker_of(supervisor: int) -> int:
    """The process that serves: the supervisor's newest child."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    return int(children.read_text().split()[-1])


# --- wrk


def check_wrk() -> None:
    """Raises Missing where there is no wrk, or no /proc to read CPU from."""
    check_proc()
    if shutil.which("wrk") is None:
        raise Missing("wrk is not installed: apt-get install wrk (or brew install wrk)")


def check_proc() -> None:
    """Raises Missing where the system tells nothing of its processes."""
    if not Path("/proc/self/stat").exists():
        raise Missing("there is no /proc here to read CPU and memory from: run this on Linux")


def load(server: Server, script: str, path: str, seconds: float) -> Load:
    """Load a server from 64 connections with what the script asks for."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        # wrk takes whole seconds.
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency"]
        before = server.cpu_us()
        done = subprocess.run(
            [*command, "-s", file.name, server.url + path],
            capture_output=True,
            text=True,
            check=True,
        )
        cpu_us = server.cpu_us() - before
    told = done.stdout
    assert "Non-2xx" not in told and "Socket errors" not in told, told
    requests = int(_found(r"(\d+) requests in", told))
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", told))
    return Load(rate, cpu_us / requests, _latency(told, "50%"), _latency(told, "99%"))


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def _latency(told: str, which: str) -> float:
    number, unit = _found(rf"\s{which}\s+(\S+)", told), 1.0
    for suffix, factor in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        if number.endswith(suffix):
            return float(number.removesuffix(suffix)) * factor
    return float(number) * unit


def post_script(objects: int) -> str:
    """POST of an increment, to each of the objects in turn."""
    return _script("POST", "increment", '{"by": 1}', objects)


def get_script(objects: int) -> str:
    """GET of the query, of each of the objects in turn."""
    return _script("GET", "read", "", objects)


def _script(method: str, handler: str, body: str, objects: int) -> str:
    # The requests are made before the load begins, so that wrk has nothing to do but send.
    return f"""
wrk.method = "{method}"
wrk.body = {f"'{body}'" if body else "nil"}
local requests, n = {{}}, 0
init = function()
  for i = 0, {objects - 1} do
    requests[i] = wrk.format(nil, "/Counter/key-" .. i .. "/{handler}")
  end
end
request = function()
  n = (n + 1) % {objects}
  return requests[n]
end
"""
