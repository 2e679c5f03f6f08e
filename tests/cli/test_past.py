"""The past of objects on the command line, against a real server."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from tests.cli.conftest import PERDURE

pytestmark = [pytest.mark.slow]

CART = """
from perdure import Object

class Cart(Object):
    items: list[dict] = []
    async def put(self, name: str, price: int) -> int:
        self.items.append({"name": name, "price": price})
        return len(self.items)
    async def reprice(self, i: int, price: int) -> None:
        old = self.items[i]["price"]
        self.items[i]["price"] = price
        if price > 2 * old:
            raise ValueError("too dear")
"""


def test_look_into_the_past(shell: Any) -> None:
    shell.write("cart.py", CART)
    server = shell.serve("serve", "cart.py")
    for name in ("pen", "ink", "pad", "cap"):
        server.call("Cart/c/put", name=name, price=10)
    server.call("Cart/c/reprice", i=3, price=12)
    assert server.post("Cart/c/reprice", i=1, price=50).status_code == 500

    state = shell.json(server, "state", "Cart/c", "--at", "2")
    assert sorted(state) == ["address", "seq", "state", "time"]
    assert [item["name"] for item in state["state"]["items"]] == ["pen", "ink"]
    text = shell.run("diff", "Cart/c", "4", "5", "--url", server.url).stdout
    assert text == "items[3].price: 10 -> 12\n"
    diff = shell.json(server, "diff", "Cart/c", "5", "6")
    assert [change["path"] for change in diff["changes"]] == ["items[1].price"]
    text = shell.run("diff", "Cart/c", "5", "5", "--url", server.url).stdout
    assert text == "nothing changed between turn 5 and turn 5\n"

    [error] = shell.json(server, "errors", "Cart/c")
    assert error["seq"] == 6
    assert error["frames"][-1]["locals"]["old"] == "10"
    text = shell.run("errors", "Cart/c", "--url", server.url).stdout
    assert "ValueError: too dear" in text
    assert "      old = 10" in text

    assert [e["seq"] for e in shell.json(server, "history", "Cart/c", "--failed")] == [6]
    handlers = ("--handler", "reprice")
    assert [e["seq"] for e in shell.json(server, "history", "Cart/c", *handlers)] == [5, 6]
    calls = shell.json(server, "history", "Cart/c", "--calls", "--since", "1h")
    assert [call["status"] for call in calls] == ["done"] * 5 + ["failed"]

    asked = ("what-if", "Cart/c", "--at", "6")
    text = shell.run(*asked, "--with", '{"i": 1, "price": 20}', "--url", server.url).stdout
    assert "was: failure" in text
    assert text.endswith("items[1].price: 50 -> 20\n")
    text = shell.run(*asked, "--without", "--url", server.url).stdout
    assert text.endswith("items[1].price: 50 -> 10\n")
    assert shell.run(*asked, "--url", server.url).returncode == 2

    never = shell.run("state", "Cart/c", "--at", "77", "--url", server.url)
    assert never.returncode == 1
    assert "Cart/c has no turn 77" in never.stderr
    for typed in (
        ("state", "Cart/c", "--at", "noon"),
        ("diff", "Cart/c", "1", "noon"),
        ("fork", "Cart/c", "d", "--at", "noon"),
        ("history", "Cart/c", "--since", "noon"),
        ("ls", "--status", "lost"),
    ):
        assert shell.run(*typed, "--url", server.url).returncode == 2, typed
    wrong = shell.run("state", "Cart/c", "--at", "noon", "--json", "--url", server.url)
    assert json.loads(wrong.stderr)["code"] == "invalid-arguments"


def test_history_is_followed_an_entry_a_line(shell: Any) -> None:
    shell.write("cart.py", CART)
    server = shell.serve("serve", "cart.py")
    server.call("Cart/c/put", name="pen", price=1)
    command = [*PERDURE, "history", "Cart/c", "--follow", "--json", "--url", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            assert json.loads(following.stdout.readline())["seq"] == 1
            for seq in (2, 3):
                server.call("Cart/c/put", name="pen", price=1)
                assert json.loads(following.stdout.readline())["seq"] == seq
        finally:
            following.kill()


WAITING = """
import asyncio
from pathlib import Path
from perdure import Object, step

@step
async def charge(card: str) -> str:
    with Path("charged.txt").open("a") as file:
        file.write(card + "\\n")
    return "paid"

class Order(Object):
    status: str = "new"
    async def pay(self, card: str, seconds: float = 1.0) -> str:
        self.status = "waiting"
        await asyncio.sleep(seconds)
        self.status = await charge(card)
        return self.status
"""


def test_a_fork_is_held_and_an_export_goes_elsewhere(shell: Any) -> None:
    shell.write("order.py", WAITING)
    server = shell.serve("serve", "order.py", "--data", "one")
    shell.json(server, "send", "Order/o", "pay", "card=visa")
    made = shell.json(server, "fork", "Order/o", "again", "--at", "1")
    assert (made["address"], made["held"]) == ("Order/again", True)
    server.wait_for("perdure serves|^{")
    charged = shell.folder / "charged.txt"
    _until(lambda: charged.exists())
    assert shell.json(server, "state", "Order/again")["state"]["status"] == "waiting"

    told = shell.run("export", "Order/again", "o.px", "--url", server.url)
    assert told.returncode == 0, told.stderr
    assert shell.json(server, "export", "Order", "all.px")["objects"] == 2
    refused = shell.run("import", "o.px", "--url", server.url)
    assert refused.returncode == 1
    assert "already" in refused.stderr

    other = shell.serve("serve", "order.py", "--data", "two")
    [made] = shell.json(other, "import", "o.px", "--as", "moved")
    assert made["address"] == "Order/moved"
    assert len(shell.json(other, "import", "all.px")) == 2
    assert shell.json(other, "diff", "Order/moved", "1", "2")["changes"] == []
    assert charged.read_text() == "visa\n"
    text = shell.run("release", "Order/moved", "--url", other.url).stdout
    assert text == "Order/moved is released\n"
    _until(lambda: charged.read_text() == "visa\nvisa\n")
    assert shell.json(other, "history", "Order/moved", "--kind", "fork")[0]["seq"] == 2


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
