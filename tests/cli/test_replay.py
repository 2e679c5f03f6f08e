"""`perdure replay`: the past run again, with pdb driven through a pipe and through a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import PERDURE, environment

pytestmark = [pytest.mark.slow]

SHOP = """\
import asyncio
import logging
import random
from perdure import Object, step

log = logging.getLogger("shop")

@step
async def ship(name: str) -> str:
    with open("shipped.txt", "a") as file:
        file.write(name + "\\n")
    return "shipped " + name

class Cart(Object):
    items: list[str] = []
    luck: float = 0.0

    async def put(self, name: str) -> int:
        print("putting", name)
        self.items.append(name)
        self.luck = random.random()
        return len(self.items)

    async def order(self) -> list[str]:
        log.warning("ordering %d", len(self.items))
        done = []
        for item in self.items:
            done.append(await ship(item))
        return done

    async def fail(self, why: str) -> None:
        mood = why.upper()
        raise ValueError(mood)
"""


@pytest.fixture
def shop(shell: Any) -> Any:
    shell.write("shop.py", SHOP)
    server = shell.serve("serve", "shop.py", "--data", "data")
    for name in ("pen", "ink"):
        server.call("Cart/c/put", name=name)
    server.call("Cart/c/order")
    assert server.post("Cart/c/fail", why="rain").status_code == 500
    server.call("Cart/c/put", name="pad")
    return server


def shipped(shell: Any) -> list[str]:
    return (shell.folder / "shipped.txt").read_text().split()


def test_the_past_runs_again_and_nothing_outside(shell: Any, shop: Any) -> None:
    assert shipped(shell) == ["pen", "ink"]
    for source in (("--data", "data"), ("--url", shop.url)):
        done = shell.run("replay", "Cart/c", *source)
        assert done.returncode == 0, done.stderr
        assert "  | putting pen\n" in done.stdout
        assert "  | WARNING shop: ordering 2\n" in done.stdout
        assert "! ValueError: RAIN" in done.stdout
        assert done.stdout.endswith("turns ran as the journal has them\n")
    done = shell.run("replay", "Cart/c", "--data", "data", "--to", "2", "--json")
    turns = [json.loads(line) for line in done.stdout.splitlines()]
    assert [turn["seq"] for turn in turns] == [1, 2]
    assert shipped(shell) == ["pen", "ink"]


def test_a_file_from_elsewhere_is_run_with_its_own_code(shell: Any, shop: Any) -> None:
    assert shell.run("export", "Cart/c", "c.px", "--url", shop.url).returncode == 0
    shop.stop()
    (shell.folder / "shop.py").unlink()
    done = shell.run("replay", "Cart/c", "--file", "c.px")
    assert done.returncode == 0, done.stderr
    assert "putting pad" in done.stdout
    wrong = shell.run("replay", "Cart/other", "--file", "c.px")
    assert wrong.returncode == 1
    assert "Cart/c" in wrong.stderr


def test_other_code_is_told_where_it_differs(shell: Any, shop: Any) -> None:
    shell.write("new.py", SHOP.replace("return len(self.items)", "return -len(self.items)"))
    done = shell.run("replay", "Cart/c", "--data", "data", "--app", "new.py")
    assert done.returncode == 1
    assert "turn 1" in done.stderr
    assert "expected: answer 1" in done.stderr
    assert "found:    answer -1" in done.stderr


def test_stepping_forward_and_back_through_a_pipe(shell: Any, shop: Any) -> None:
    script = "n 2\np items\nd\nb\np items\np luck\nn\np luck\nn\nc\ne\nb 9\nnonsense(\nq\n"
    done = shell.run("replay", "Cart/c", "--data", "data", "--pdb", stdin=script)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "(turn 2) ['pen', 'ink']\n" in text
    assert 'items[1]: + "ink"\n' in text
    assert "(turn 1) ['pen']\n" in text
    lucks = re.findall(r"\(turn \d\) (0\.\d+)\n", text)
    assert len(lucks) == 2
    assert lucks[0] != lucks[1]
    assert "      mood = 'RAIN'" in text
    assert "(turn 0) " in text
    assert "SyntaxError" in text


def test_pdb_stops_inside_a_turn_at_breakpoints_and_line_by_line(shell: Any, shop: Any) -> None:
    line = 1 + SHOP.splitlines().index("        self.items.append(name)")
    script = "c\np name\np self.items\nc\nc\np name\nc\nb\ns\np name\nn\nn\nq\nq\n"
    done = shell.run(
        *("replay", "Cart/c", "--data", "data", "--pdb", "--break", f"shop.py:{line}"),
        stdin=script,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "-> self.items.append(name)" in text
    assert "(pdb in the turn) 'pen'\n(pdb in the turn) []\n" in text
    assert "'ink'" in text
    assert text.count("call     put") >= 3


def test_a_session_on_a_terminal(shell: Any, shop: Any) -> None:
    command = [*PERDURE, "replay", "Cart/c", "--data", "data", "--pdb"]
    with Terminal(command, shell.folder) as terminal:
        terminal.wait_for(r"\(turn 0\) ")
        terminal.type("s")
        terminal.wait_for(r"\(pdb in the turn\) ")
        terminal.type("p name")
        terminal.wait_for("'pen'")
        terminal.type("c")
        terminal.wait_for(r"\(turn 1\) ")
        terminal.type("n")
        terminal.wait_for(r"\(turn 2\) ")
        terminal.type("b")
        terminal.wait_for(r"\(turn 1\) ")
        terminal.type("q")
        assert terminal.process.wait(30) == 0


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment()
        )
        os.close(theirs)
        self.text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def type(self, line: str) -> None:
        self.text = ""
        os.write(self.ours, line.encode() + b"\n")

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + 40
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self.ours], [], [], 1.0)[0]:
                self.text += os.read(self.ours, 4096).decode(errors="replace")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", ".", "--file", "cart.perdure"), "both say where the object is"),
        (("--break", "shop.py:3"), "add --pdb"),
        (("--pdb", "--json"), "--json is not"),
        (("--pdb", "--break", "shop.py"), "'shop.py' is no FILE:LINE"),
    ],
)
def test_what_does_not_go_together_is_said(
    shell: Any, arguments: tuple[str, ...], said: str
) -> None:
    shell.write("cart.perdure", "")
    done = shell.run("replay", "Cart/c", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
