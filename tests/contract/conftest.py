"""The stores that the contract suite runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.homes import Home, MemoryHome, SqliteHome

# Test functions that are coroutines run in a loop of their own.
from tests.loops import pytest_pyfunc_call as pytest_pyfunc_call


@pytest.fixture(params=["memory", "faulty", "sqlite", "sqlite-threaded"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A place with four partitions, in which nothing is yet."""
    match request.param:
        case "memory":
            return MemoryHome()
        case "faulty":
            return MemoryHome(faulty=True)
        case "sqlite":
            return SqliteHome(tmp_path / "data", commit_inline_ms=1e9)
        case _:
            return SqliteHome(tmp_path / "data", commit_inline_ms=0)
