"""`perdure` as people run it: real processes on data of their own, ended with the test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

PATIENCE_S = 40.0
ROOT = Path(__file__).parents[2]
PERDURE = (sys.executable, "-P", "-m", "perdure.cli.main")


class Running:
    """A server, started by `perdure dev` or `perdure serve`."""

    def __init__(self, folder: Path, number: int, arguments: tuple[str, ...]) -> None:
        self.log = folder / f"server-{number}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*PERDURE, *arguments],
                cwd=folder,
                env=environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, count: int = 1) -> list[Any]:
        """Wait until it has printed that so often."""
        deadline = time.monotonic() + PATIENCE_S
        while len(found := re.findall(pattern, self.text())) < count:
            ended = self.process.poll() is not None
            assert not ended or re.search(pattern, self.text()), f"it ended:\n{self.text()}"
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.text()}"
            time.sleep(0.02)
        return found

    @property
    def url(self) -> str:
        return str(self.wait_for(r"http://[\d.]+:\d+")[0])

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        """A request on a connection of its own; it waits while the worker starts again."""
        return httpx.post(f"{self.url}/{path}", json=arguments, timeout=PATIENCE_S)

    def call(self, path: str, **arguments: Any) -> Any:
        answer = self.post(path, **arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def kill_by(self, path: str, **arguments: Any) -> None:
        """A call that ends the process it runs in."""
        with pytest.raises(httpx.TransportError):
            self.post(path, **arguments)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def code(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.code()

    def end(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Shell:
    """A folder with the files of an app, in which `perdure` is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Running] = []

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *arguments: str) -> Running:
        """Start a server, on a free port where none is named."""
        port = () if "--port" in arguments else ("--port", "0")
        self.started.append(Running(self.folder, len(self.started), (*arguments, *port)))
        return self.started[-1]

    def serve(self, *arguments: str) -> Running:
        """Start a server and wait until it serves."""
        running = self.start(*arguments)
        running.wait_for("perdure serves|^{")
        return running

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*PERDURE, *arguments],
            cwd=self.folder,
            env=environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def json(self, server: Running, *arguments: str) -> Any:
        """What a command prints with --json."""
        done = self.run(*arguments, "--url", server.url, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def environment() -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if "PERDURE_" not in name}
    return given | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "random"}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    for running in shell.started:
        running.end()
