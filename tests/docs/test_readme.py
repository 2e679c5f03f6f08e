"""The sessions in the README, typed into a shell against the real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.test_docs import ROOT, blocks
from tests.examples.conftest import serve

if TYPE_CHECKING:
    from tests.examples.conftest import Server

__all__ = ["serve"]


def commands(session: str) -> Iterator[tuple[str, str]]:
    """Each `$ command` of a session with the output that follows it."""
    for part in session.split("$ ")[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README calls curl")
def test_the_first_five_minutes(serve: Callable[[str], Server], tmp_path: Path) -> None:
    server = serve("counter.py")
    sessions = blocks(ROOT / "README.md", "console session")
    assert len(sessions) == 2
    for session in sessions:
        for command, expected in commands(session):
            assert command.startswith("curl ")
            typed = command.replace("http://127.0.0.1:7373", server.url)
            found = subprocess.run(
                typed.replace("curl ", "curl -sS ", 1),
                shell=True,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            ).stdout.strip()
            if expected.endswith("..."):
                assert found.startswith(expected.removesuffix("...").rstrip()), command
            else:
                assert found == expected, command
        # Between the sessions the reader ends the server the hard way.
        server.kill()
        server.start()


def test_make_demo_says_how_to_call_it() -> None:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    told = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for command, _ in commands(blocks(ROOT / "README.md", "console session")[0]):
        assert command in told.replace('\\"', '"')
    assert "perdure dev examples/counter.py" in told
