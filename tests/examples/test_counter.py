"""examples/counter.py on a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.examples.conftest import Server


def test_a_counter_survives_kill_minus_nine(serve: Callable[[str], Server]) -> None:
    server = serve("counter.py")
    assert server.call("Counter/lobby", "increment", by=2) == 2
    assert server.call("Counter/lobby", "increment") == 3
    assert server.read("Counter/lobby", "read") == 3
    server.kill()
    server.start()
    assert server.read("Counter/lobby", "read") == 3
    assert server.read("Counter/other", "read") == 0


def test_a_counter_survives_an_orderly_stop(serve: Callable[[str], Server]) -> None:
    server = serve("counter.py")
    server.call("Counter/lobby", "increment", by=5)
    assert server.stop() == 0
    server.start()
    assert server.read("Counter/lobby", "read") == 5
