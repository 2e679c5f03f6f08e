"""`calls`, `stuck`, `cancel` and `ls --where` against a real server, across a kill."""

from __future__ import annotations

import signal
from typing import Any

import pytest

pytestmark = [pytest.mark.slow]

SHOP = """
import asyncio
from perdure import Indexed, Object

class Order(Object):
    status: Indexed[str] = "open"
    log: list[str] = []

    async def run(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            self.status = "cancelled"
            raise

    async def fail(self) -> None:
        raise ValueError("no stock")
"""


def test_calls_are_listed_cancelled_and_found(shell: Any) -> None:
    shell.write("shop.py", SHOP)
    server = shell.serve("serve", "shop.py")
    ids = {key: shell.json(server, "send", f"Order/{key}", "run")["id"] for key in "ab"}
    server.post("Order/c/fail")
    server.signal(signal.SIGKILL)
    server.code()
    server = shell.serve("serve", "shop.py")

    rows = shell.json(server, "calls")
    assert [(row["object"], row["status"]) for row in rows] == [
        ("Order/c", "failed"),
        ("Order/b", "running"),
        ("Order/a", "running"),
    ]
    text = shell.run("calls", "--status", "failed", "--url", server.url).stdout
    assert "Order/c.fail" in text
    assert "ValueError: no stock" in text

    stuck = shell.run("stuck", "--older-than", "0s", "--url", server.url)
    assert stuck.returncode == 1
    assert "Order/a.run" in stuck.stdout
    odd = shell.run("stuck", "--older-than", "nope", "--url", server.url)
    assert (odd.returncode, "'nope' is no age" in odd.stderr) == (2, True)
    calm = shell.run("stuck", "--url", server.url)
    assert (calm.returncode, calm.stdout) == (0, "nothing is stuck\n")

    done = shell.run("cancel", ids["a"], "--url", server.url)
    assert (done.returncode, done.stdout) == (0, f"{ids['a']} is cancelled\n")
    for _ in range(100):
        found = shell.json(server, "ls", "Order", "--where", "status=cancelled")
        if found:
            break
    assert [row["key"] for row in found] == ["a"]
    assert [row["key"] for row in shell.json(server, "ls", "Order", "--where", "status^=op")] == [
        "b",
        "c",
    ]
    wrong = shell.run("ls", "Order", "--where", "colour=red", "--url", server.url)
    assert wrong.returncode == 1
    assert "no Indexed attribute" in wrong.stderr
    assert shell.run("ls", "--where", "status=open", "--url", server.url).returncode == 2
    unknown = shell.run("cancel", "nobody", "--url", server.url)
    assert unknown.returncode == 1
    assert "unknown-call" in unknown.stderr
    [row] = shell.json(server, "calls", "--status", "cancelled")
    assert row["object"] == "Order/a"
