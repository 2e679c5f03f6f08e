"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import pytest

from perdure.testing import World

pytest_plugins = ["pytester"]

# Here already, so that a run within this one does not import it for itself alone.
assert World

SHOP = """
import asyncio
from perdure import Object, query

class Order(Object):
    def __init__(self):
        self.log = []

    async def run(self, what: str) -> None:
        self.log.append(what)
        await asyncio.sleep(30 * 86_400)
        self.log.append("rate your meal")

    @query
    async def messages(self) -> list[str]:
        return self.log
"""

TESTS = """
import asyncio
from datetime import timedelta
import perdure, pytest
from perdure.testing import World
from shop import Order

async def test_reminder(world: World):
    await perdure.send(world.at(Order, "42").run, "tea")
    await world.advance(timedelta(days=30))
    await world.crash()
    assert await Order.at("42").messages() == ["tea", "rate your meal"]

class TestInAClass:
    @pytest.mark.parametrize("what", ["tea", "mug"])
    async def test_of_many(self, what, world: World):
        await Order.at("42").run(what)
        assert (await Order.at("42").messages())[0] == what

@pytest.fixture
def order(world):
    return world.at(Order, "7")

async def test_through_a_fixture(order):
    await order.run("tea")
"""


class Run:
    """`pytest` in a folder, with files in it, in this process."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.folder = pytester.path
        self._pytester = pytester
        (self.folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
        pytester.syspathinsert()

    def __call__(self, *options: str, **files: str) -> tuple[dict[str, int], str]:
        """How many passed, failed and so on; and what was printed."""
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)
        options = ("-p", "no:cacheprovider", "-rA", *options)
        found = self._pytester.runpytest_inprocess(*options)
        counts = found.parseoutcomes() if found.ret != pytest.ExitCode.USAGE_ERROR else {}
        return counts, found.stdout.str() + found.stderr.str()


@pytest.fixture
def pytest_run(pytester: pytest.Pytester) -> Run:
    return Run(pytester)


@pytest.mark.parametrize("options", [[], ["--perdure-replay"], ["--perdure-seed=random"]])
def test_async_tests_with_a_world_run_by_themselves(pytest_run: Run, options: list[str]) -> None:
    counts, text = pytest_run(*options, shop=SHOP, test_shop=TESTS)
    assert counts == {"passed": 4}, text
    assert ("perdure: --perdure-replay" in text) == ("--perdure-replay" in options)


RUNNER = '''
"""What pytest-asyncio does in its automatic mode: async tests become items of its own."""
import asyncio, inspect, pytest

class Item(pytest.Function):
    def runtest(self):
        arguments = {n: self.funcargs[n] for n in self._fixtureinfo.argnames}
        self.add_report_section("call", "runner", "ran by the other plugin")
        asyncio.run(self.obj(**arguments))

@pytest.hookimpl(specname="pytest_pycollect_makeitem", hookwrapper=True)
def pytest_pycollect_makeitem_of_its_own(collector, name, obj):
    outcome = yield
    made = outcome.get_result()
    if isinstance(made, list):
        outcome.force_result([
            Item.from_parent(one.parent, name=one.name, callspec=getattr(one, "callspec", None),
                             fixtureinfo=one._fixtureinfo, originalname=one.originalname)
            if inspect.iscoroutinefunction(getattr(one, "obj", None)) else one
            for one in made
        ])
'''


@pytest.mark.parametrize("plugin", ["otherrunner", "anyio"])
def test_plugins_that_run_async_tests_are_not_in_the_way(pytest_run: Run, plugin: str) -> None:
    mark = "@pytest.mark.anyio\n" if plugin == "anyio" else ""
    own = f"\n{mark}async def test_without_a_world():\n    await asyncio.sleep(0.001)\n"
    backend = "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    options = ["-p", "otherrunner"] if plugin == "otherrunner" else []
    tests = TESTS + own + backend
    counts, text = pytest_run(*options, shop=SHOP, otherrunner=RUNNER, test_shop=tests)
    assert counts == {"passed": 5}, text


def test_a_failure_says_how_to_have_it_again(pytest_run: Run) -> None:
    wrong = "\nasync def test_wrong(world):\n    await Order.at('1').run('x')\n    assert 0\n"
    tests = TESTS + wrong
    counts, text = pytest_run("--perdure-seed=77", shop=SHOP, test_shop=tests)
    assert counts == {"passed": 4, "failed": 1}, text
    assert "run again with --perdure-seed=77" in text
    assert "seed 77, 2023-12-14 22:13:20 UTC" in text


DIVERGING = """
import asyncio
from perdure import Object
count = 0

class Bad(Object):
    async def go(self) -> None:
        global count
        count += 1
        await asyncio.sleep(count)
        await asyncio.sleep(count)

async def test_bad(world):
    await world.at(Bad, "x").go()
"""


def test_replay_finds_what_depends_on_something_outside(pytest_run: Run) -> None:
    assert pytest_run(test_bad=DIVERGING)[0] == {"passed": 1}
    counts, text = pytest_run("--perdure-replay", test_bad=DIVERGING)
    assert counts == {"failed": 1}
    assert "Bad/x: replay of turn 1" in text
    assert "was rebuilt from its journal" in text


def test_the_app_is_named_in_the_ini_file_or_by_a_mark(pytest_run: Run) -> None:
    app = SHOP + "\nfrom perdure import App\napp = App([Order], idempotency_ttl=5.0)\n"
    tests = """
import perdure, pytest
from perdure import Object

class Stranger(Object):
    async def go(self) -> int:
        return 1

async def test_ini(world):
    assert [cls.__name__ for cls in world.classes] == ["Order"]
    with pytest.raises(perdure.UnknownKind):
        await world.at(Stranger, "x").go()

@pytest.mark.perdure(Stranger, seed=3, mailbox_limit=5)
async def test_mark(world):
    assert world.seed == 3
    assert await Stranger.at("x").go() == 1
"""
    (pytest_run.folder / "pytest.ini").write_text("[pytest]\nperdure_app = shop:app\n")
    counts, text = pytest_run(shop=app, test_app=tests)
    assert counts == {"passed": 2}, text


@pytest.mark.parametrize(
    ("options", "test", "told"),
    [
        ([], "def test_plain(world):\n    pass\n", "has to be an async test: async def test_plain"),
        (["--perdure-seed=x"], "", "--perdure-seed is a number or 'random', not 'x'"),
        (
            [],
            "from shop import Order\nfrom perdure.ref import Ref\n"
            "async def test_unknown(world):\n    await Ref('Nobody', 'x').go()\n",
            "no class 'Nobody' is served here",
        ),
        (
            [],
            "from perdure.ref import Ref\n"
            "async def test_unknown(world):\n    await Ref('Nobody', 'x').go()\n",
            "this world has no class to serve",
        ),
    ],
)
def test_misuse_is_told(pytest_run: Run, options: list[str], test: str, told: str) -> None:
    _, text = pytest_run(*options, shop=SHOP, test_wrong=test)
    assert told in text


def test_two_classes_of_one_name_have_to_be_told_apart(pytest_run: Run) -> None:
    tests = """
import shop, other
import perdure, pytest
from shop import Order

async def test_by_import(world):
    await world.at(Order, "1").messages()

async def test_by_name_alone(world):
    assert await Order.at("1").messages() == []
"""
    counts, text = pytest_run(shop=SHOP, other=SHOP, test_names=tests)
    assert counts == {"passed": 2}, text
