"""Real pages in a real browser: headless Chromium, driven by Playwright.

`tools/install-browser` brings what is needed; where it could not, the tests are skipped and say so,
but in CI they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
# Those that keep the browser from asking its maker's servers for anything.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 20_000


# Not for the whole session: while Playwright is there its event loop is the running one of this
# thread, and no other test could run a loop of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for a file of tests; each page has a context, and so a storage, of its own."""
    missing = "" if CHROMIUM else "there is no Chromium here; tools/install-browser brings one"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed; tools/install-browser brings it"
    if missing:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[str], Any]]:
    """Opens a URL as another person would: in a browser context of its own."""
    contexts: list[Any] = []
    errors: list[str] = []

    def open_(url: str) -> Any:
        context = browser.new_context()
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def serve_example(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """`perdure serve` of an example, ended with the test."""
    servers: list[Server] = []

    def serve(example: str) -> Server:
        server = Server(example, tmp_path / "data")
        servers.append(server)
        server.start()
        return server

    yield serve
    for server in servers:
        server.kill()
