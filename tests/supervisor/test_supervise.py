"""The supervisor with a worker that does as it is told (fake_worker.py): real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow]

HERE = Path(__file__).parent
PATIENCE_S = 30.0


class Run:
    """A supervisor that runs, and what it has printed so far."""

    def __init__(self, app: str, folder: Path, **flags: Any) -> None:
        self.folder = folder
        self.log = folder / "log"
        given = {"data": str(folder), "port": 0, **flags}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "run_supervisor.py"), app, json.dumps(given)],
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until the pattern was printed so often."""
        deadline = time.monotonic() + PATIENCE_S
        while len(found := re.findall(pattern, self.text())) < count:
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.text()}"
            assert self.process.poll() is None or re.search(pattern, self.text()), self.text()
            time.sleep(0.02)
        return found

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def code(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(app: str, **flags: Any) -> Run:
        runs.append(Run(app, tmp_path, **flags))
        return runs[-1]

    yield start
    for one in runs:
        try:
            os.killpg(one.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        one.process.wait()


Start = Callable[..., Run]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Nobody may be there to reap it.
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_sigterm_drains_and_ends_with_0(run: Start) -> None:
    one = run("serve")
    one.wait_for("ready")
    one.send(signal.SIGTERM)
    assert one.code() == 0
    assert "worker drained" in one.text()


def test_a_worker_that_does_not_drain_is_killed_and_that_is_1(run: Start) -> None:
    one = run("deaf")
    one.wait_for("ready")
    one.send(signal.SIGTERM)
    assert one.code() == 1
    assert "killed before it had drained" in one.text()


def test_a_second_interrupt_does_not_wait(run: Start) -> None:
    one = run("deaf")
    one.wait_for("ready")
    one.send(signal.SIGINT)
    one.wait_for("stopping")
    one.send(signal.SIGINT)
    assert one.code() == 1


def test_a_killed_worker_is_started_again_on_the_same_port_with_the_seed(run: Start) -> None:
    one = run("serve")
    (url,) = one.wait_for(r"ready http://\S+")
    (pid,) = one.wait_for(r"worker (\d+)")
    os.kill(int(pid), signal.SIGKILL)
    assert one.wait_for(r"ready http://\S+", 2) == [url, url]
    assert "the worker has ended (signal SIGKILL)" in one.text()
    assert one.wait_for(r"worker \d+ seed (\w+)", 2)[1] == "4711"
    assert not (one.folder / "deaths.json").exists()


def test_connections_wait_while_no_worker_is_there(run: Start) -> None:
    one = run("serve")
    one.wait_for("ready")
    (pid,) = one.wait_for(r"worker (\d+)")
    port = int(one.wait_for(r"ready http://127.0.0.1:(\d+)")[0])
    os.kill(int(pid), signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        os.kill(int(pid), signal.SIGKILL)
        one.wait_for("ready", 2)


def test_a_turn_that_never_ends_is_named_and_its_worker_replaced(run: Start) -> None:
    one = run("spin")
    one.wait_for("Bomb/1: a turn has not ended within 0.6 s", 2)
    one.wait_for("here it is", 2)
    one.wait_for("That is 2 times for this event")
    assert "event: call explode {}" in one.text()
    (death,) = json.loads((one.folder / "deaths.json").read_text())
    assert (death["address"], death["why"]) == ("Bomb/1", "its turn did not end")


def test_a_worker_that_hangs_outside_of_turns_is_replaced(run: Start) -> None:
    one = run("hang")
    one.wait_for("has not moved for 1.8 s, outside of any turn", 2)
    one.wait_for("here it is", 2)
    one.wait_for(r"the worker has ended \(it hung\)")
    assert not (one.folder / "deaths.json").exists()


def test_deaths_in_a_turn_are_counted_and_do_not_end_the_supervisor(
    run: Start, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    one = run(f"until {mended}")
    one.wait_for("It is set aside, and the object quarantined")
    mended.touch()
    one.wait_for(r"(?s)starting it again.*starting it again.*starting it again.*ready")
    (death,) = json.loads((one.folder / "deaths.json").read_text())
    assert death["count"] >= 3
    assert death["why"] == "exit code 7"


def test_five_failed_starts_are_enough(run: Start) -> None:
    one = run("exit-early")
    assert one.code() == 1
    assert "given up: the worker has ended 5 times in a row" in one.text()
    assert len(re.findall(r"worker \d+ seed", one.text())) == 5


def test_a_refused_start_is_2(run: Start) -> None:
    one = run("refuse")
    assert one.code() == 2


def test_a_port_in_use_is_2(run: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        one = run("serve", port=port)
        assert one.code() == 2
    assert f"cannot listen on 127.0.0.1:{port}" in one.text()


def test_dev_waits_for_a_change_that_may_mend_the_code(run: Start, tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("x = 1\n")
    one = run("mend", file=str(code))
    one.wait_for("waiting for a change")
    code.write_text("x = 2\n")
    one.wait_for("code.py changed: starting")
    one.wait_for("waiting for a change", 2)
    one.send(signal.SIGINT)
    assert one.code() == 0


def test_dev_does_not_wait_where_no_change_can_mend(run: Start, tmp_path: Path) -> None:
    one = run("refuse", file=str(tmp_path / "code.py"))
    assert one.code() == 2


def test_dev_restarts_on_a_change_of_content_alone(run: Start, tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("x = 1\n")
    one = run("serve", file=str(code))
    one.wait_for("ready")
    code.write_text("x = (\n")
    one.wait_for("cannot be compiled")
    one.wait_for("the code before this change goes on")
    code.write_text("x = 2\n")
    one.wait_for("ready", 2)
    assert "SyntaxError" in one.text()
    assert one.text().count("starting again with it") == 1
    assert one.text().count("worker drained") == 1


def test_the_worker_drains_when_the_supervisor_is_killed(run: Start) -> None:
    one = run("serve")
    one.wait_for("ready")
    (pid,) = one.wait_for(r"worker (\d+)")
    one.process.kill()
    one.process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while "worker drained" not in one.text() or not gone(int(pid)):
        assert time.monotonic() < deadline, one.text()
        time.sleep(0.02)
