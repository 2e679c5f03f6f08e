"""Code and state go back together: a copy, a time, and the source that ran then."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

pytestmark = [pytest.mark.slow]

TILL = """
from till.prices import price
from perdure import Object

class Till(Object):
    total: int = 0

    async def sell(self) -> int:
        self.total += price()
        return self.total
"""


def test_a_restore_brings_the_code_of_its_time(shell: Any) -> None:
    till = shell.folder / "till"
    till.mkdir()
    (till / "__init__.py").touch()
    (till / "app.py").write_text(TILL)
    (till / "prices.py").write_text("def price() -> int:\n    return 1\n")
    server = shell.serve("serve", "till.app", "--data", "data")
    assert server.call("Till/t/sell") == 1
    assert server.call("Till/t/sell") == 2
    then = shell.json(server, "history", "Till/t")[-1]["time"]

    (till / "prices.py").write_text("def price() -> int:\n    return 100\n")
    server.signal(signal.SIGHUP)
    server.wait_for("serving again")
    assert server.call("Till/t/sell") == 102
    assert shell.run("backup", "--data", "data", "copy").returncode == 0
    server.stop()

    now = shell.run("restore", "copy", "--data", "now", "--code", "now-code", "--json")
    assert json.loads(now.stdout)["files"] == 3
    assert "100" in (shell.folder / "now-code" / "till" / "prices.py").read_text()
    back = shell.run("restore", "copy", "--data", "back", "--to", then, "--code", "back-code")
    assert back.returncode == 0, back.stderr
    assert "3 files, the source of version" in back.stdout
    again = shell.run("restore", "copy", "--data", "third", "--code", "back-code")
    assert again.returncode != 0
    assert "is there already" in again.stderr
    assert not (shell.folder / "third" / "perdure.db").exists()

    app = shell.folder / "back-code" / "till" / "app.py"
    server = shell.serve("serve", str(app), "--data", "back")
    assert server.call("Till/t/sell") == 3
    held = shell.json(server, "versions")
    # It is the version that it was, so nothing had to go over.
    assert held["versions"][0]["version"] == held["current"]
