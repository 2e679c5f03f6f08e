"""The real `perdure serve`, whose processes are killed one by one or all at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

APPS = Path(__file__).parent / "apps"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it never came that {what}"
        time.sleep(0.02)
    return found


class Answer:
    """A whole answer."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection, made anew after each error. Not shared between threads."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)

    def post(self, path: str, arguments: Any = None, **headers: str) -> Answer:
        """Raises OSError or HTTPException when the connection breaks."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(arguments if arguments is not None else {})
        return self._request("POST", path, body, named)

    def get(self, path: str) -> Answer:
        return self._request("GET", path, None, {})

    def close(self) -> None:
        self._connection.close()

    def _request(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        try:
            self._connection.request(method, quote(path, safe="/?=&%"), body, headers)
            return Answer(self._connection.getresponse())
        except (OSError, HTTPException):
            self._connection.close()
            raise


class Server:
    """`perdure serve APP` on one port and one data directory, in however many lives."""

    def __init__(self, app: str, data: Path, log: Path, *options: str, **environ: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.data = data
        self.log = log
        self._command = [
            *(sys.executable, "-P", "-m", "perdure.cli.main", "serve", str(APPS / app)),
            *("--data", str(data), "--port", str(self.port), *options),
        ]
        given = {name: value for name, value in os.environ.items() if "PERDURE_" not in name}
        self._environ = given | {"PYTHONPATH": str(ROOT)} | environ
        self.process: subprocess.Popen[bytes] | None = None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it, and wait for nothing."""
        assert self.process is None
        with self.log.open("ab") as log:
            # A session of its own, so that one signal reaches the supervisor and the worker.
            self.process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self.process

    def start(self) -> None:
        self.spawn()
        self.wait_ready()

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process is not None and self.process.poll() is None, self.text()
            client = self.client()
            try:
                return client.get("/_perdure/ready").status == 200
            except (OSError, HTTPException):
                return False
            finally:
                client.close()

        wait_until(ready, f"the server is ready:\n{self.text()}")

    def client(self) -> Client:
        return Client(self.port)

    def call(self, path: str, arguments: Any = None) -> Any:
        """The result of a call on a connection of its own."""
        client = self.client()
        answer = client.post(path, arguments)
        client.close()
        assert answer.status == 200, answer.body
        return answer.json

    def read(self, path: str) -> Any:
        client = self.client()
        answer = client.get(path)
        client.close()
        assert answer.status == 200, answer.body
        return answer.json

    def worker(self) -> int | None:
        """The process that serves, if there is one at this moment."""
        assert self.process is not None
        pid = self.process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def kill_worker(self) -> bool:
        """The supervisor starts another one. False if there was none."""
        worker = self.worker()
        if worker is None:
            return False
        try:
            os.kill(worker, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """All of it at once, as the power cord would, but for the disk."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """SIGTERM to the supervisor; gives its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(timeout=PATIENCE_S)
        self.process = None
        return code


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make a Server of an app; not started yet, and killed with the test."""
    servers: list[Server] = []

    def make(app: str, *options: str, data: Path | None = None, **environ: str) -> Server:
        log = tmp_path / f"server-{len(servers)}.log"
        servers.append(Server(app, data or tmp_path / "data", log, *options, **environ))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()
