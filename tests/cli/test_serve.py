"""`perdure serve` and `dev`, end to end: start, reload, drain, refuse."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.slow]

COUNTER = """
import asyncio
from perdure import App, Object, query

class Counter(Object):
    value: int = 0

    async def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    async def slowly(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @query
    async def read(self) -> int:
        return self.value

    @query
    async def seed(self) -> int:
        return hash("a text")
"""


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_dev_says_what_it_serves_and_how_to_call_it(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("dev", "counter.py")
    text = server.text()
    assert f"perdure serves {server.url}" in text
    assert "Counter  increment(by)  slowly(seconds)  read()" in text
    assert "./.perdure" in text
    line = f"""curl -d '{{"by": 2}}' {server.url}/Counter/lobby/increment"""
    assert line in text
    assert server.call("Counter/lobby/increment", by=2) == 2


def test_dev_reloads_changed_code_and_keeps_the_state(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("dev", "counter.py")
    assert server.call("Counter/lobby/increment", by=2) == 2
    shell.write("counter.py", COUNTER.replace("+= by", "+= 10 * by"))
    server.wait_for("counter.py changed: starting again with it")
    server.wait_for("serving again")
    assert server.call("Counter/lobby/increment", by=2) == 22


def test_dev_goes_on_while_the_file_is_broken(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("dev", "counter.py")
    shell.write("counter.py", COUNTER + "\nthis is no Python\n")
    server.wait_for("the code before this change goes on")
    assert server.call("Counter/lobby/increment") == 1
    shell.write("counter.py", COUNTER + "\nno_such_name\n")
    server.wait_for("NameError: name 'no_such_name' is not defined")
    server.wait_for("the code before this change goes on", 2)
    assert server.call("Counter/lobby/increment") == 2
    shell.write("counter.py", COUNTER)
    server.wait_for("serving again")
    assert server.call("Counter/lobby/increment") == 3
    assert server.stop() == 0


def test_dev_waits_for_code_that_cannot_be_served_yet(shell: Any) -> None:
    shell.write("counter.py", "from parts import Missing\n")
    server = shell.start("dev", "counter.py")
    server.wait_for("waiting for a change")
    assert "No module named 'parts'" in server.text()
    shell.write("parts.py", "Missing = 1\n")
    server.wait_for("neither an App nor an Object class")
    shell.write("counter.py", COUNTER)
    server.wait_for("perdure serves")


def test_serve_finishes_what_is_in_flight_at_sigterm(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("serve", "counter.py")
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(server.call("Counter/a/slowly", seconds=1.0))
    )
    asking.start()
    wait_until(lambda: "calls" in str(_show(server)["waits"]) or _show(server)["waits"])
    assert server.stop() == 0
    asking.join()
    assert answers == ["done"]


def _show(server: Any) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/_perdure/objects/Counter/a")
    shown: dict[str, Any] = answer.json() if answer.status_code == 200 else {"waits": []}
    return shown


def test_serve_prints_one_line_of_json(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("serve", "counter.py", "--data", "here", "--json")
    told = json.loads(server.text().splitlines()[0])
    assert told["url"] == server.url
    assert told["data"] == str(shell.folder / "here")
    assert [found["class"] for found in told["classes"]] == ["Counter"]
    assert told["classes"][0]["handlers"][0]["name"] == "increment"


def test_state_outlives_kill_9_of_everything_and_so_does_the_hash_seed(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    first = shell.serve("serve", "counter.py")
    assert first.call("Counter/lobby/increment", by=7) == 7
    seed = first.call("Counter/lobby/seed")
    first.end()
    second = shell.serve("serve", "counter.py")
    assert second.call("Counter/lobby/read") == 7
    assert second.call("Counter/lobby/seed") == seed


def test_a_killed_worker_is_replaced_and_nothing_is_lost(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("serve", "counter.py")
    server.call("Counter/lobby/increment", by=7)
    pid = int((shell.folder / ".perdure" / "lock").read_text())
    assert pid != server.process.pid
    os.kill(pid, signal.SIGKILL)
    assert server.call("Counter/lobby/increment", by=1) == 8
    server.wait_for("the worker has ended \\(signal SIGKILL\\)")


def test_the_worker_leaves_when_the_supervisor_is_killed(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("serve", "counter.py")
    server.call("Counter/lobby/increment")
    server.signal(signal.SIGKILL)
    server.code()
    lock = (shell.folder / ".perdure" / "lock").open("r+")
    with lock:
        # The worker's own lock is free as soon as it is gone.
        wait_until(lambda: _is_free(lock))
    again = shell.serve("serve", "counter.py")
    assert again.call("Counter/lobby/read") == 1


def _is_free(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- refused: exit code 2, and what to do


def refused(shell: Any, *arguments: str) -> str:
    server = shell.start(*arguments)
    assert server.code() == 2, server.text()
    return str(server.text())


def test_a_second_server_on_one_data_directory_is_refused(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    first = shell.serve("serve", "counter.py")
    for command in ("serve", "dev"):
        assert "is in use by process" in refused(shell, command, "counter.py")
    assert first.call("Counter/lobby/increment") == 1


def test_a_port_in_use_is_refused(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = refused(shell, "dev", "counter.py", "--port", str(port))
    assert f"--port {port + 1}" in text


def test_an_open_door_is_refused_unless_it_is_meant(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    text = refused(shell, "serve", "counter.py", "--host", "0.0.0.0")
    assert "no authorize" in text
    assert "--insecure" in text
    server = shell.serve("serve", "counter.py", "--host", "0.0.0.0", "--insecure")
    assert "warning:" in server.text()
    server.end()
    check = COUNTER + "\ndef check(request):\n    return 'ada'\n"
    shell.write("guarded.py", check + "app = App([Counter], authorize=check)\n")
    server = shell.serve("serve", "guarded.py", "--host", "0.0.0.0")
    assert "warning:" not in server.text()


@pytest.mark.parametrize("command", ["dev", "serve"])
def test_an_app_that_is_not_there_is_refused(shell: Any, command: str) -> None:
    assert "there is no file nosuch.py" in refused(shell, command, "nosuch.py")
    assert "no module 'nosuch'" in refused(shell, command, "nosuch:app")


def test_broken_code_is_refused_by_serve(shell: Any) -> None:
    shell.write("counter.py", "class Counter(\n")
    assert "SyntaxError" in refused(shell, "serve", "counter.py")


def test_wrong_flags_are_refused(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    assert "one worker" in refused(shell, "serve", "counter.py", "--workers", "4")
    assert "turn_timeout must be" in refused(shell, "serve", "counter.py", "--turn-timeout", "-1")
    assert "no-such-flag" in refused(shell, "serve", "counter.py", "--no-such-flag")
    assert "no store is known" in refused(shell, "serve", "counter.py", "--store", "redis://x")


def test_flags_win_over_the_code_and_that_over_variables(shell: Any) -> None:
    app = "app = App([Counter], data='from-code', max_body_bytes=100)\n"
    shell.write("counter.py", COUNTER + app)
    server = shell.serve("serve", "counter.py")
    assert (shell.folder / "from-code" / "perdure.db").exists()
    assert server.post("Counter/a/increment", by=10**200).status_code == 413
    server.end()
    server = shell.serve("serve", "counter.py", "--data", "from-flag", "--max-body-bytes", "9000")
    assert server.post("Counter/a/increment", by=10**200).status_code != 413
    assert (shell.folder / "from-flag" / "perdure.db").exists()
    assert not Path(shell.folder / ".perdure").exists()


def test_a_memory_store_keeps_nothing(shell: Any) -> None:
    shell.write("counter.py", COUNTER)
    server = shell.serve("serve", "counter.py", "--store", "memory:")
    assert "in memory" in server.text()
    assert server.call("Counter/a/increment") == 1
    assert server.stop() == 0
    assert sorted(path.name for path in shell.folder.iterdir() if path.is_dir()) in (
        [],
        ["__pycache__"],
    )
