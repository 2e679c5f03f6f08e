"""The past of objects on the command line, against a real server."""

from __future__ import annotations

import json
import subprocess
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

    never = shell.run("state", "Cart/c", "--at", "77", "--url", server.url)
    assert never.returncode == 1
    assert "Cart/c has no turn 77" in never.stderr


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
