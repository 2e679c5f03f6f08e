"""The real `perdure serve`, in processes of its own, with the examples in it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PERDURE = Path(sys.executable).parent / "perdure"


class Server:
    """`perdure serve EXAMPLE`, which may be killed and started again on the same data."""

    def __init__(self, example: str, data: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.example = EXAMPLES / example
        self.data = data
        self.log = data.parent / "server.log"
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(str(PERDURE), "serve", str(self.example)),
            *("--data", str(self.data), "--port", self.url.rpartition(":")[2]),
        ]
        with self.log.open("ab") as log:
            # A session of its own, so that one signal reaches the supervisor and the worker.
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while not self.is_ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/_perdure/ready").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """As the power cord would, but for the disk."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """SIGTERM to the supervisor; gives its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(timeout=30)
        self.process = None
        return code

    def call(self, address: str, handler: str, **arguments: Any) -> Any:
        """The result of a call; fails the test on any other answer than 200."""
        answer = self.client.post(f"/{address}/{handler}", json=arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def read(self, address: str, query: str, **arguments: Any) -> Any:
        answer = self.client.get(f"/{address}/{query}", params=arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def problem(self, address: str, handler: str, **arguments: Any) -> dict[str, Any]:
        """The problem with which a call is refused."""
        answer = self.client.post(f"/{address}/{handler}", json=arguments)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        problem: dict[str, Any] = answer.json()
        return problem


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Start `perdure serve` on an example; ended with the test."""
    servers: list[Server] = []

    def start(example: str) -> Server:
        servers.append(Server(example, tmp_path / "data"))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
        server.client.close()
