"""An app, and what can go wrong when it is changed: each mistake is a change of its source."""

from __future__ import annotations

APP = """
import asyncio
import os
import time
from typing import ClassVar
import perdure
from perdure import Object, query, step

SEEN = []
CALLS = 0

@step
async def charge(cents: int) -> str:
    return f"charged {cents}"

@step
async def ship(to: str) -> str:
    return f"shipped to {to}"

class Order(Object):
    total: int = 0
    notes: list[str] = []
    by_name: dict[str, int] = {}
    tags: set[str] = set()

    async def add(self, name: str, cents: int = 5) -> int:
        self.total += cents
        self.by_name[name] = self.by_name.get(name, 0) + cents
        self.tags.add(name)
        return self.total

    async def buy(self) -> str:
        paid = await charge(self.total)
        sent = await ship("home")
        self.notes.append(paid)
        self.notes.append(sent)
        await perdure.send(Order.at("ledger").add, "sold", self.total)
        return "bought"

    async def later(self) -> str:
        await asyncio.sleep(30)
        self.notes.append("later")
        return "done"

    async def fail(self) -> None:
        raise ValueError("cannot")

    def note(self, text: str) -> None:
        self.notes.append(text)

class Other(Object):
    count: int = 0

    async def up(self) -> None:
        self.count += 1
"""

BUY = """        paid = await charge(self.total)
        sent = await ship("home")
"""

MISTAKES: dict[str, list[tuple[str, str]]] = {
    "the order of steps": [
        (BUY, "".join(reversed(BUY.splitlines(keepends=True)))),
    ],
    "a step that is no more": [(BUY, BUY.splitlines(keepends=True)[0] + '        sent = "x"\n')],
    "one more step": [(BUY, BUY + '        await ship("the neighbour")\n')],
    "what a step is given": [("await charge(self.total)", "await charge(self.total + 1)")],
    "the default of an argument": [("cents: int = 5", "cents: int = 6")],
    "the default of an attribute": [("notes: list[str] = []", 'notes: list[str] = ["begun"]')],
    "what is computed": [("self.total += cents", "self.total += cents + (self.total > 5)")],
    "how long is waited": [("asyncio.sleep(30)", "asyncio.sleep(31)")],
    "a wait that is no more": [("        await asyncio.sleep(30)\n", "")],
    "to whom is sent": [('Order.at("ledger")', 'Order.at("book")')],
    "a message that is not sent": [
        ('        await perdure.send(Order.at("ledger").add, "sold", self.total)\n', "")
    ],
    "what is answered": [('return "bought"', 'return "has bought"')],
    "the text of an error": [('ValueError("cannot")', 'ValueError("can not")')],
    "the class of an error": [('ValueError("cannot")', 'KeyError("cannot")')],
    "the order in a list": [("self.notes.append(text)", "self.notes.insert(0, text)")],
    "the name of an attribute": [("self.by_name", "self.named"), ("    by_name", "    named")],
    "a handler that is no more": [("def note(", "def _note(")],
    "the type of what is kept": [
        ("+ cents\n        self.tags", "+ cents * 1.0\n        self.tags")
    ],
    "a class that is no more": [("class Other(Object)", "class _Other")],
    "an upgrade that raises": [
        (
            "    total: int = 0\n",
            "    total: int = 0\n\n    def on_upgrade(self, old_version):\n"
            "        raise RuntimeError('no way')\n",
        )
    ],
    "an upgrade that does too much": [
        (
            "    total: int = 0\n",
            "    total: int = 0\n\n    def on_upgrade(self, old_version):\n"
            "        self.total += 1000\n",
        )
    ],
}
"""By name: what is replaced by what."""

HIDDEN: dict[str, list[tuple[str, str]]] = {
    "a global variable of the module": [
        (
            "        self.total += cents\n",
            "        global CALLS\n        CALLS += 1\n"
            "        self.notes.append(str(CALLS))\n        self.total += cents\n",
        )
    ],
    "what another object has left in the module": [
        (
            "        self.total += cents\n",
            "        SEEN.append(name)\n        self.notes.append(str(len(SEEN)))\n"
            "        self.total += cents\n",
        )
    ],
    "time that was read when the module was imported": [
        ("CALLS = 0\n", "CALLS = 0\nBEGUN = time.time_ns()\n"),
        ('self.notes.append("later")', "self.notes.append(str(BEGUN))"),
    ],
    "an attribute of the class": [
        ("    total: int = 0\n", "    total: int = 0\n    SHARED: ClassVar[list] = []\n"),
        (
            "        self.total += cents\n",
            "        self.SHARED.append(name)\n        self.notes.append(str(len(self.SHARED)))\n"
            "        self.total += cents\n",
        ),
    ],
    "a variable of the environment": [
        (
            "        self.total += cents\n",
            '        self.notes.append(os.environ.get("PERDURE_TEST_MISTAKE", ""))\n'
            "        self.total += cents\n",
        )
    ],
}
"""Mistakes that are there from the beginning: no change is needed for them to show."""

SEEDED: dict[str, list[tuple[str, str]]] = {
    "the order of a set": [
        ("        return self.total\n", "        return [self.total, *self.tags]\n"),
        ("-> int:\n        self.total", "-> list:\n        self.total"),
    ],
    "the hash of a text": [
        (
            "        self.total += cents\n",
            "        self.h = hash(name)\n        self.total += cents\n",
        )
    ],
}
"""Mistakes that show under another hash seed alone."""


def changed(source: str, replaced: list[tuple[str, str]]) -> str:
    """The source with a mistake in it."""
    for old, new in replaced:
        assert old in source, old
        source = source.replace(old, new)
    return source
