"""Turns that hang or kill their process, seen from outside: named, counted, set aside."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.crash]

BOMB = """
import os
from perdure import Object

class Counter(Object):
    value: int = 0

    async def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

class Bomb(Object):
    value: int = 0

    async def increment(self) -> int:
        self.value += 1
        return self.value

    async def explode(self, how: str = "") -> str:
        os._exit(7)

    async def spin(self) -> None:
        while True:
            pass

    async def mend_me(self) -> str:
        os._exit(7)
"""


def quarantined(shell: Any, server: Any) -> list[str]:
    return [row["object"] for row in shell.json(server, "quarantine", "list")]


def test_a_turn_that_never_ends_is_named_and_after_three_deaths_set_aside(shell: Any) -> None:
    shell.write("bomb.py", BOMB)
    server = shell.serve("serve", "bomb.py", "--turn-timeout", "0.5")
    server.call("Bomb/1/increment")
    server.call("Counter/a/increment", by=5)
    for times in (1, 2, 3):
        server.kill_by("Bomb/1/spin")
        server.wait_for("Bomb/1: a turn has not ended within 0.5 s", times)
        # The line it hangs in.
        server.wait_for(r'bomb.py", line 2\d in spin', times)
        assert server.call("Counter/a/increment") == 5 + times
    assert "spin" in server.wait_for("event: (.*)")[0]
    server.wait_for("It is set aside, and the object quarantined")
    assert server.post("Bomb/1/spin").json()["code"] == "object-quarantined"
    assert quarantined(shell, server) == ["Bomb/1"]
    # The same class, another object; and the rest of the process.
    assert server.call("Bomb/2/increment") == 1
    assert server.call("Counter/a/increment") == 9
    done = shell.run("quarantine", "skip", "Bomb/1", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert server.call("Bomb/1/increment") == 2
    assert server.stop() == 0


def test_an_event_that_ends_its_process_three_times_is_set_aside_and_can_be_retried(
    shell: Any,
) -> None:
    shell.write("bomb.py", BOMB)
    server = shell.serve("dev", "bomb.py")
    assert server.call("Bomb/1/increment") == 1
    for times in (1, 2, 3):
        server.kill_by("Bomb/1/mend_me")
        server.wait_for(r"Bomb/1: its turn has ended the process \(exit code 7\)", times)
    server.wait_for("serving again", 3)
    assert server.post("Bomb/1/mend_me").json()["code"] == "object-quarantined"
    assert quarantined(shell, server) == ["Bomb/1"]
    listed = shell.run("quarantine", "list", "--url", server.url).stdout
    assert "mend_me" in listed
    shell.write(
        "bomb.py",
        BOMB.replace(
            "mend_me(self) -> str:\n        os._exit(7)",
            'mend_me(self) -> str:\n        return "mended"',
        ),
    )
    server.wait_for("serving again", 4)
    assert quarantined(shell, server) == ["Bomb/1"]
    done = shell.run("quarantine", "retry", "Bomb/1", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert server.call("Bomb/1/mend_me") == "mended"
    assert server.call("Bomb/1/increment") == 2
    assert quarantined(shell, server) == []


def test_other_events_of_the_object_do_not_count(shell: Any) -> None:
    shell.write("bomb.py", BOMB)
    server = shell.serve("serve", "bomb.py")
    for times, how in enumerate("abc", start=1):
        server.kill_by("Bomb/1/explode", how=how)
        server.wait_for("its turn has ended the process", times)
    assert server.call("Bomb/1/increment") == 1
    counts = [death["count"] for death in json.loads(_deaths(shell))]
    assert counts == [1, 1, 1]


def test_an_event_that_goes_well_forgets_its_deaths(shell: Any) -> None:
    flaky = BOMB.replace(
        "os._exit(7)\n\n    async def spin",
        "return how if os.environ.get('FINE') or _fine() else os._exit(7)\n\n    async def spin",
    )
    flaky += "\ndef _fine():\n    try:\n        return os.stat('fine') is not None\n"
    flaky += "    except OSError:\n        return False\n"
    shell.write("bomb.py", flaky)
    server = shell.serve("serve", "bomb.py")
    for times in (1, 2):
        server.kill_by("Bomb/1/explode", how="x")
        server.wait_for("its turn has ended the process", times)
    assert json.loads(_deaths(shell))[0]["count"] == 2
    shell.write("fine", "")
    assert server.call("Bomb/1/explode", how="x") == "x"
    deadline = time.monotonic() + 10
    while json.loads(_deaths(shell)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _deaths(shell: Any) -> str:
    return str((shell.folder / ".perdure" / "deaths.json").read_text())


DARK = """
import os, sys
import perdure
from perdure import Object

full = os.open("/dev/full", os.O_WRONLY)
os.dup2(full, 1)
os.dup2(full, 2)

class Talker(Object):
    told: int = 0

    async def say(self, text: str) -> int:
        print(text, chr(0xD800))
        print(text, chr(0xD800), file=sys.stderr, flush=True)
        self.told += 1
        return self.told

    async def fail(self) -> None:
        self.told += 1
        raise ValueError("on purpose " + chr(0xD800))

    async def tell(self, to: str) -> None:
        await perdure.send(Talker.at(to).fail)

    async def end(self) -> None:
        os._exit(7)
"""


def test_a_log_that_cannot_be_written_costs_no_turn(shell: Any) -> None:
    shell.write("dark.py", DARK)
    server = shell.serve("serve", "dark.py")
    assert server.call("Talker/a/say", text="hello") == 1
    # What nobody waits for and fails is a warning in the log.
    server.call("Talker/b/tell", to="a")
    assert server.call("Talker/a/say", text="hello") == 3
    server.kill_by("Talker/c/end")
    # By a replay, in which nothing is printed.
    assert server.call("Talker/a/say", text="hello") == 4
    assert quarantined(shell, server) == []
