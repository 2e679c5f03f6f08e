"""`perdure connect` and `perdure tail`, as they are typed and piped."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.cli.conftest import PERDURE, Shell, environment

pytestmark = pytest.mark.crash

APP = """
from perdure import Connection, Object, Reject


class Room(Object):
    said: list[str] = []

    async def on_connect(self, conn: Connection) -> None:
        if conn.query.get("name") == "nobody":
            raise Reject("say who you are")
        if conn.query.get("name") == "ghost":
            raise KeyError("ghost")
        conn.send_json({"said": len(self.said)})

    async def on_message(self, conn: Connection, text: str) -> None:
        if text == "bye":
            conn.close(1000, "bye")
        elif text == "out":
            conn.close(4001, "thrown out")
        else:
            self.said.append(text)
            self.broadcast(f"{conn.query.get('name')}: {text}")


class Mute(Object):
    async def nothing(self) -> None: ...
"""


def test_lines_from_a_pipe_are_sent_and_on_disk_when_it_ends(shell: Shell) -> None:
    shell.write("room.py", APP)
    server = shell.serve("serve", "room.py")
    done = shell.run(
        "connect", "Room/lobby", "name=ada", "--url", server.url, stdin="hello\nyou there?\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == '{"said":0}'
    assert "connected to Room/lobby" in done.stderr
    shown = shell.json(server, "show", "Room/lobby")
    assert shown["state"] == {"said": ["hello", "you there?"]}


def test_an_end_by_the_object_is_told(shell: Shell) -> None:
    shell.write("room.py", APP)
    server = shell.serve("serve", "room.py")
    done = shell.run("connect", "Room/lobby", "--url", server.url, stdin="bye\n")
    assert done.returncode == 0, done.stderr
    done = shell.run("connect", "Room/lobby", "--url", server.url, stdin="out\n")
    assert done.returncode == 1
    assert "4001 thrown out" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("Room/lobby", "name=nobody"), "say who you are", 1),
        (("Room/lobby", "name=ghost"), "error: Room/lobby takes no connection: KeyError", 1),
        (("Room/lobby", "name"), "is no name=value", 2),
        (("Room", "name=x"), "is no address", 2),
        (("Nothing/a",), "Nothing", 1),
    ],
)
def test_what_is_refused_says_why(
    shell: Shell, arguments: tuple[str, ...], said: str, code: int
) -> None:
    shell.write("room.py", APP)
    server = shell.serve("serve", "room.py")
    done = shell.run("connect", *arguments, "--url", server.url, stdin="hello\n")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_tail_prints_what_is_sent_and_stays_over_a_killed_server(shell: Shell) -> None:
    shell.write("room.py", APP)
    server = shell.serve("serve", "room.py")
    tail = subprocess.Popen(
        [*PERDURE, "tail", "Room/lobby", "name=tail", "--json", "--url", server.url],
        cwd=shell.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert tail.stdout is not None
    assert json.loads(tail.stdout.readline()) == {"said": 0}
    shell.run("connect", "Room/lobby", "name=ada", "--url", server.url, stdin="one\n")
    assert json.loads(tail.stdout.readline()) == "ada: one"
    server.end()
    again = shell.serve("serve", "room.py", "--port", server.url.rpartition(":")[2])
    shell.run("connect", "Room/lobby", "name=ada", "--url", again.url, stdin="two\n")
    assert json.loads(tail.stdout.readline()) == "ada: two"
    tail.send_signal(signal.SIGINT)
    assert tail.wait(20) == 1
