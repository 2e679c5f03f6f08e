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
    report = shell.json(server, "doctor", "--class", "Order")
    [problem] = report["problems"]
    assert problem["what"] == "suspended snapshot"
    assert "Order.run in shop has changed" in problem["why"]
    assert problem["follows"] == "replay of 1 turn from turn 1"
    assert shell.json(server, "show", "Order/a")["rebuild"]["by"] == "replay"
    assert server.stop() == 0

    shell.write("shop.py", SHOP.replace("class Order", "class Purchase"))
    server = shell.serve("serve", "shop.py", "--data", "data")
    done = shell.run("doctor", "--url", server.url)
    assert done.returncode == 1
    assert "Order/a  class not served" in done.stdout
    assert "1 of them cannot be loaded" in done.stdout
    server.signal(signal.SIGTERM)
