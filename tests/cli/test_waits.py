"""`show`, `why` and `doctor` against a real server whose objects wait."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from perdure.suspend import probe

pytestmark = [pytest.mark.slow]

SHOP = """
import asyncio
from perdure import Object, send

class Order(Object):
    async def run(self, patience: float = 604800.0) -> str:
        items = ["book"]
        async with asyncio.timeout(patience):
            await Desk.at("d").serve(self.key)
        return items[0]

class Desk(Object, reentrant=False):
    async def serve(self, order: str) -> None:
        await asyncio.sleep(86400)
"""


def begin(shell: Any, server: Any, *keys: str) -> None:
    for key in keys:
        shell.json(server, "send", f"Order/{key}", "run")


def test_what_waits_is_shown_from_its_code_to_the_end_of_the_chain(shell: Any) -> None:
    path = str(shell.write("shop.py", SHOP))
    server = shell.serve("serve", "shop.py")
    begin(shell, server, "a", "b")

    shown = shell.json(server, "show", "Order/b")
    [wait] = shown["waits"]
    assert wait["waiting_on"] == "call Desk/d.serve"
    assert wait["until"] > wait["since"]
    assert wait["stack"][0]["file"] == path
    assert wait["stack"][0]["text"] == 'await Desk.at("d").serve(self.key)'
    assert wait["stack"][0]["locals"]["items"] == "['book']"

    text = shell.run("show", "Order/b", "--url", server.url).stdout
    assert f'    File "{path}", line 9, in Order.run\n' in text
    assert '      await Desk.at("d").serve(self.key)\n' in text
    assert "        items = ['book']\n" in text
    assert "\x1b" not in text

    chain = shell.json(server, "why", "Order/b")
    assert [(line["depth"], line["address"]) for line in chain] == [
        (0, "Order/b"),
        (1, "Desk/d"),
        (2, "Desk/d"),
    ]
    assert chain[2]["end"] == "timer"
    lines = shell.run("why", "Order/b", "--url", server.url).stdout.splitlines()
    assert lines[0] == "Order/b Task-1: call Desk/d.serve"
    assert any(line.startswith("    Desk/d Task-1: sleep until ") for line in lines)

    unknown = shell.run("why", "Order/none", "--url", server.url)
    assert unknown.returncode == 1
    assert "there is no object Order/none (unknown-object)" in unknown.stderr


@pytest.mark.skipif(bool(probe.unfit()), reason="suspended code cannot be kept here")
def test_doctor_tells_what_a_change_of_the_code_does_to_what_waits(shell: Any) -> None:
    shell.write("shop.py", SHOP)
    server = shell.serve("serve", "shop.py", "--data", "data")
    begin(shell, server, "a")
    assert server.stop() == 0
    server = shell.serve("serve", "shop.py", "--data", "data")
    report = shell.json(server, "doctor")
    assert (report["checked"], report["problems"]) == (2, [])
    assert report["suspended_code"] == {"kept": True, "why": None}
    assert shell.json(server, "show", "Order/a")["rebuild"]["by"] == "snapshot"
    assert server.stop() == 0

    shell.write("shop.py", SHOP.replace("return items[0]", "return items[-1]"))
    server = shell.serve("serve", "shop.py", "--data", "data")
    # What waits goes on in the code it began in, which is kept.
    report = shell.json(server, "doctor", "--class", "Order")
    assert (report["checked"], report["problems"]) == (1, [])
    # Behind the snapshot is at most the turn in which it met the new code.
    assert shell.json(server, "show", "Order/a")["rebuild"]["by"].startswith("snapshot")
    versions = shell.json(server, "versions", "--class", "Order")
    [order] = versions["objects"]
    before = versions["versions"][0]["version"]
    assert before != versions["current"]
    assert [(place["function"], place["version"]) for place in order["stays"]] == [
        ("Order.run", before)
    ]
    assert server.stop() == 0

    shell.write("shop.py", SHOP.replace("class Order", "class Purchase"))
    server = shell.serve("serve", "shop.py", "--data", "data")
    done = shell.run("doctor", "--url", server.url)
    assert done.returncode == 1
    assert "Order/a  class not served" in done.stdout
    assert "1 of them cannot be loaded" in done.stdout
    server.signal(signal.SIGTERM)


BANK = """
import asyncio
from perdure import Object, Retry, heartbeat, step

@step(retry=Retry(attempts=9, initial=3600.0, jitter=0.0))
async def charge(cents: int) -> None:
    raise ConnectionError("the bank does not answer")

@step
async def refund(cents: int) -> None:
    raise ValueError("no such payment")

@step
async def report() -> None:
    heartbeat({"page": 3})
    await asyncio.sleep(3600)

class Account(Object):
    async def run(self) -> None:
        try:
            await refund(5)
        except ValueError:
            pass
        await asyncio.gather(charge(7), report())
"""


def test_steps_are_shown_with_what_they_do_and_why_they_fail(shell: Any) -> None:
    shell.write("bank.py", BANK)
    server = shell.serve("serve", "bank.py")
    shell.json(server, "send", "Account/a", "run")
    while len(shown := shell.json(server, "show", "Account/a")["steps"]) < 2 or not any(
        step["next_try"] for step in shown
    ):
        pass
    steps = {step["name"].rpartition(":")[2]: step for step in shown}
    assert steps["charge"]["last_error"] == "ConnectionError: the bank does not answer"
    assert steps["report"]["progress"] == {"page": 3}
    text = shell.run("show", "Account/a", "--url", server.url).stdout
    assert "  report()  running, attempt 1, since " in text
    assert 'progress {"page": 3} (' in text
    assert "  charge  waiting for the next attempt, attempt 1, since " in text
    assert "  ConnectionError: the bank does not answer\n" in text
    assert "  refund, attempt 1  ValueError: no such payment\n" in text
