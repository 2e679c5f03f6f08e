"""What becomes of objects when the code changes: they go over to it, and their past does not."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path

import pytest

import perdure
from perdure.sight import doctor, look, versions
from perdure.sight.sample import try_sample
from perdure.suspend import bundles, probe
from tests.host.deploys import Deploys

pytestmark = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)

PACKAGE = f"app_needs/{'__init__'}.py"

HEAD = """
import asyncio
from dataclasses import dataclass, field
import perdure
from perdure import Object, query, step
"""

WAITING = (
    HEAD
    + """
class Order(Object):
    log: list[str] = []

    async def run(self) -> str:
        self.log.append("begun by %(name)s")
        await asyncio.sleep(60)
        self.log.append("ended by %(name)s")
        self.log.append(self._helper())
        self.log.append(helper())
        return "%(name)s"

    def _helper(self) -> str:
        return "method of %(name)s"

    async def other(self) -> str:
        return "%(name)s"

    @query
    async def read(self) -> list[str]:
        return self.log

def helper() -> str:
    return "function of %(name)s"
"""
)

UNCHANGED = (
    HEAD
    + """
class Order(Object):
    log: list[str] = []

    async def run(self) -> str:
        await asyncio.sleep(60)
        self.log.append(self._helper())
        self.log.append(helper())
        return "done"

    def _helper(self) -> str:
        return "method of %(name)s"

    @query
    async def read(self) -> list[str]:
        return self.log

def helper() -> str:
    return "function of %(name)s"
"""
)


@pytest.mark.parametrize("crash", [False, True])
async def test_changed_code_that_waits_goes_on_on_its_version(tmp_path: Path, crash: bool) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(WAITING % {"name": "one"})
        await perdure.send(app.at("Order", "a").run)
        await app.deploy(WAITING % {"name": "two"}, crash=crash)
        assert await app.at("Order", "a").other() == "two"
        await app.deploy(WAITING % {"name": "three"}, crash=crash)
        assert await app.at("Order", "a").other() == "three"
        await asyncio.sleep(61)
        assert await app.at("Order", "a").read() == [
            "begun by one", "ended by one", "method of one", "function of one",
        ]  # fmt: skip
        kinds = [(line["kind"], line["version"]) for line in await app.history("Order/a")]
        one, two, three = app.versions
        assert kinds == [
            ("call", one), ("upgrade", two), ("call", two), ("upgrade", three), ("call", three),
            ("timer", three),
        ]  # fmt: skip
        # The whole past once more, from the first turn.
        app.stage.host.stash.clear()
        app.store._suspended.clear()
        app.store._rows = {
            oid: (
                part,
                row.__class__(
                    **{f: getattr(row, f) for f in row.__slots__} | {"seq": 0, "snapshot": None}
                ),
            )
            for oid, (part, row) in app.store._rows.items()
        }
        await app.deploy(WAITING % {"name": "four"}, crash=True)
        assert (await app.at("Order", "a").read())[1] == "ended by one"
        assert app.stage.host.quarantine.list() == []


@pytest.mark.parametrize("crash", [False, True])
async def test_unchanged_code_that_waits_goes_over(tmp_path: Path, crash: bool) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(UNCHANGED % {"name": "one"})
        await perdure.send(app.at("Order", "a").run)
        await app.deploy(UNCHANGED % {"name": "two"}, crash=crash)
        await asyncio.sleep(61)
        assert await app.at("Order", "a").read() == ["method of two", "function of two"]


SHAPES = (
    HEAD
    + """
@dataclass
class Line:
    sku: str
    gone: int = 1

@dataclass
class Coupon:
    code: str

class Order(Object):
    lines: list[Line] = []
    coupons: list = []
    old: int = 5

    async def add(self, sku: str) -> int:
        self.lines.append(Line(sku))
        self.coupons.append(Coupon(sku))
        self.last = self.lines[-1]
        return len(self.lines)

    @query
    async def read(self) -> str:
        return repr(self.lines)
"""
)

OTHER_SHAPES = (
    HEAD
    + """
@dataclass
class OrderLine:
    __perdure_aliases__ = ("Line",)
    sku: str
    price: int = 7
    tags: list[str] = field(default_factory=list)

class Purchase(Object, aliases=["Order"]):
    lines: list[OrderLine] = []
    coupons: list = []
    fresh: list[str] = []

    def on_upgrade(self, old_version: str) -> None:
        self.fresh.append(old_version)

    async def add(self, sku: str) -> int:
        self.lines.append(OrderLine(sku))
        return len(self.lines)

    @query
    async def read(self) -> list[str]:
        same = self.last is self.lines[0]
        lines = [repr(line.__dict__) for line in self.lines]
        return [*lines, *self.fresh, str(self.old), str(same)]

    @query
    async def codes(self) -> list[str]:
        return [coupon.code for coupon in self.coupons]

    async def mine(self) -> str:
        return self.address
"""
)


@pytest.mark.parametrize("crash", [False, True])
async def test_data_is_of_the_classes_of_now(tmp_path: Path, crash: bool) -> None:
    async with Deploys(tmp_path) as app:
        one = await app.deploy(SHAPES)
        assert await app.at("Order", "a").add("x") == 1
        two = await app.deploy(OTHER_SHAPES, crash=crash)
        line = "{'sku': 'x', 'gone': 1, 'price': 7, 'tags': []}"
        for name in ("Purchase", "Order"):
            ref = perdure.ref.Ref(name, "a")
            assert await ref.read() == [line, one, "5", "True"]
        assert await app.at("Purchase", "a").codes() == ["x"]
        assert await app.at("Purchase", "a").add("y") == 2
        assert await app.at("Purchase", "a").mine() == "Purchase/a"
        await app.deploy(OTHER_SHAPES + "\n# the same in other words", crash=crash)
        assert (await app.at("Purchase", "a").read())[-4:] == [one, two, "5", "True"]
        assert await app.at("Purchase", "a").codes() == ["x"]
        # And back again: that is a deploy like any other.
        await app.deploy(
            SHAPES.replace("class Order(", "class Order(").replace(
                "(Object)", "(Object, aliases=['Purchase', 'Order'])"
            ),
            crash=crash,
        )
        assert await app.at("Order", "a").add("z") == 3
        assert app.stage.host.quarantine.list() == []


async def test_an_upgrade_that_raises_sets_the_object_aside_as_it_was(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
class Room(Object):
    value: int = 0

    %s

    async def add(self) -> int:
        self.value += 1
        return self.value
"""
    )
    bad = """def on_upgrade(self, old_version):
        self.value += 1000
        perdure.current()
        if self.key == "bad":
            raise ValueError("cannot be brought over")"""
    good = """async def on_upgrade(self, old_version):
        self.value += 100
        await perdure.send(Room.at("log").add)"""
    async with Deploys(tmp_path) as app:
        one = await app.deploy(source % "")
        assert await app.at("Room", "bad").add() == 1
        assert await app.at("Room", "well").add() == 1
        await app.deploy(source % bad)
        assert list(await try_sample(app.stage.host)) == ["Room/bad"]
        assert await app.at("Room", "well").add() == 1002
        with pytest.raises(perdure.errors.ObjectQuarantined, match="cannot be brought over"):
            await app.at("Room", "bad").add()
        [facts] = app.stage.host.quarantine.list()
        assert (facts["cause"], facts["object"]) == ("upgrade", "Room/bad")
        assert one in facts["reason"]
        await app.deploy(source % good)
        app.stage.host.quarantine.retry("Room", "bad")
        assert await app.at("Room", "bad").add() == 102
        assert await app.at("Room", "well").add() == 1103
        assert await app.at("Room", "log").add() == 3
        await app.deploy(source % good, crash=True)
        assert await app.at("Room", "bad").add() == 103
        assert app.stage.host.quarantine.list() == []


async def test_steps_and_helpers_of_code_that_stays(tmp_path: Path) -> None:
    one = (
        HEAD
        + """
from perdure import Retry, Fatal
import steps_one

class Order(Object):
    log: list[str] = []

    async def run(self) -> None:
        await self._inner()
        self.log.append(await steps_one.charge("b"))

    async def _inner(self) -> None:
        self.log.append(await steps_one.charge("a"))
        await asyncio.sleep(10)

    @query
    async def read(self) -> list[str]:
        return self.log
"""
    )
    charge = "@step\nasync def charge(x: str) -> str:\n    return '%s ' + x\n"
    rest = one.split("import steps_one")[1].replace("steps_one.charge", "charge")
    two = HEAD + charge % "two" + rest
    steps = "from perdure import step\n" + charge % "one"
    async with Deploys(tmp_path) as app:
        await app.deploy({"app.py": one, "steps_one.py": steps})
        await perdure.send(app.at("Order", "a").run)
        await app.stage.settle()
        await app.deploy(two)
        await asyncio.sleep(5)
        assert await app.at("Order", "a").read() == ["one a"]
        await app.deploy(two + "\n#", crash=True)
        await asyncio.sleep(6)
        assert await app.at("Order", "a").read() == ["one a", "one b"]
        assert app.stage.host.quarantine.list() == []


async def test_what_cannot_be_kept_stays_whole_on_its_version_until_it_ends(
    tmp_path: Path,
) -> None:
    source = (
        HEAD
        + """
import threading
class Order(Object):
    log: list[str] = []

    async def run(self) -> None:
        lock = threading.Lock()
        await asyncio.sleep(10)
        self.log.append("%s" + str(lock.locked()))

    async def who(self) -> str:
        return "%s"
"""
    )
    async with Deploys(tmp_path) as app:
        await app.deploy(source % ("one", "one"))
        await perdure.send(app.at("Order", "a").run)
        await app.deploy(source % ("two", "two"))
        assert await app.at("Order", "a").who() == "one"
        await asyncio.sleep(11)
        assert await app.at("Order", "a").who() == "two"
        kinds = [line["kind"] for line in await app.history("Order/a")]
        assert kinds == ["call", "call", "timer", "upgrade", "call"]
        assert app.stage.host.quarantine.list() == []


async def test_who_is_on_which_version_and_why(tmp_path: Path) -> None:
    async with Deploys(tmp_path) as app:
        one = await app.deploy(WAITING % {"name": "one"})
        for key in ("waits", "rests", "sleeps"):
            await app.at("Order", key).other()
        await perdure.send(app.at("Order", "waits").run)
        two = await app.deploy(WAITING % {"name": "two"})
        for key in ("waits", "rests"):
            await app.at("Order", key).other()
        page = await versions.holders(app.stage.host, None, None, 100, past=True)
        assert page["on"] == {one: 1, two: 2}
        assert (page["code"], page["past"]) == ({one: 1}, {one: 3, two: 2})
        told = {one["address"]: one for one in page["objects"]}
        assert sorted(told) == ["Order/sleeps", "Order/waits"]
        assert "goes over" in told["Order/sleeps"]["why"]
        assert told["Order/waits"]["stays"] == [
            {"version": one, "function": "Order.run", "module": "app"}
        ]
        # Out of memory it is known from the snapshot.
        await app.deploy(WAITING % {"name": "two"})
        page = await versions.holders(app.stage.host, "Order", None, 100, past=False)
        assert page["code"] == {one: 1}
        there = await versions.versions(app.stage.host)
        assert [line["version"] for line in there["versions"]] == [one, two]
        assert there["current"] == two
        source = await versions.bundle(app.stage.host, one[:4])
        assert source["modules"]["app"] == WAITING % {"name": "one"}
        assert source["classes"] == {"Order": "app:Order"}
        with pytest.raises(perdure.errors.UnknownVersion):
            await versions.bundle(app.stage.host, "none")


async def test_a_class_that_is_no_more_loses_nothing(tmp_path: Path) -> None:
    both = WAITING % {"name": "one"} + "\nclass Other(Object):\n    async def up(self): ...\n"
    only = HEAD + "\nclass Other(Object):\n    async def up(self): ...\n"
    async with Deploys(tmp_path) as app:
        one = await app.deploy(both)
        await app.at("Order", "a").other()
        await perdure.send(app.at("Order", "a").run)
        await app.deploy(only)
        await app.at("Other", "b").up()
        host = app.stage.host
        lines = await look.list_objects(host, None, "", None, 10, None)
        assert [(line["address"], line["status"]) for line in lines] == [
            ("Order/a", "unserved"),
            ("Other/b", "active"),
        ]
        page = await versions.holders(host, None, None, 100, past=False)
        assert [(line["version"], line["why"]) for line in page["objects"]] == [
            (one, "its class Order is not served")
        ]
        found = await doctor.examine(host, None, None, 10)
        assert [problem["what"] for problem in found["problems"]] == ["class not served"]
        await asyncio.sleep(100)
        await app.deploy(both)
        await asyncio.sleep(1)
        assert (await app.at("Order", "a").read())[:2] == ["begun by one", "ended by one"]


async def test_a_version_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    needs = HEAD + "import app_needs\n" + (UNCHANGED % {"name": "one"}).removeprefix(HEAD)
    async with Deploys(tmp_path) as app:
        one = await app.deploy(
            {
                "app.py": needs.replace("import app_needs", "import app_needs.x"),
                PACKAGE: "",
                PACKAGE.replace("__init__", "x"): "",
            }
        )
        await perdure.send(app.at("Order", "waits").run)
        await app.at("Order", "rests").read()
        await perdure.send(app.at("Order", "crashes").run)
        # Something that is in no bundle, as an installed package would be.
        data = app.store._versions[one]
        bundle = bundles.read(one, data)
        body = {
            "format": 2,
            "packages": [],
            "classes": bundle.classes,
            "modules": {"app": bundle.modules["app"]},
        }
        app.store._versions[one] = zlib.compress(json.dumps(body).encode())
        await app.deploy(
            (UNCHANGED % {"name": "two"}).replace("sleep(60)", "sleep(61)"), crash=True
        )
        with pytest.raises(perdure.errors.ObjectQuarantined, match=r"version .* in its module app"):
            await app.at("Order", "crashes").read()
        [facts] = [f for f in app.stage.host.quarantine.list() if "crashes" in f["object"]]
        assert one in facts["reason"]
        assert "app_needs" in facts["reason"]
        assert await app.at("Order", "rests").read() == []


async def test_values_that_pickle_writes_by_position_are_kept_by_name(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
import msgspec

@dataclass(frozen=True, slots=True)
class Point:
%s

class Pair(msgspec.Struct):
%s

class Room(Object):
    values: list = []

    async def put(self) -> None:
        self.values = [Point(x=1, y=2), Pair(a="a", b="b")]

    @query
    async def read(self) -> list[str]:
        return [repr(value) for value in self.values]
"""
    )
    async with Deploys(tmp_path) as app:
        await app.deploy(source % ("    x: int\n    y: int", "    a: str\n    b: str"))
        await app.at("Room", "r").put()
        await app.deploy(
            source
            % ("    z: int = 3\n    y: int = 0\n    x: int = 0", "    b: str\n    c: int = 7")
        )
        assert await app.at("Room", "r").read() == ["Point(z=3, y=2, x=1)", "Pair(b='b', c=7)"]
