"""The pytest plugin: the `world` fixture, and async tests that run in its virtual time.

    async def test_reminder(world: World): ...

No other plugin is needed for that, and none is in the way: tests that do not use `world` are left
to whoever runs them. pytest loads this module at each start, so it imports nothing of perdure
before a test asks for it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import random
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perdure.object import Object
    from perdure.testing.world import World

_MARK = "perdure"
_INI = "perdure_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("perdure", "durable objects")
    group.addoption(
        "--perdure-replay",
        action="store_true",
        help="rebuild every object before each of its turns: each test tests determinism too",
    )
    group.addoption(
        "--perdure-seed",
        metavar="N",
        default="0",
        help="the seed of each world: a number (0 unless given), or 'random'",
    )
    parser.addini(
        _INI,
        help="what worlds serve: module:app, or a module; "
        "without it, the classes that the test module knows",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "perdure(*app_or_classes, seed=None, replay=None, **settings): what the `world` of a test "
        "serves, and how",
    )
    given = config.getoption("--perdure-seed")
    if given == "random":
        given = str(random.SystemRandom().randrange(10**9))
    if not given.isdecimal():
        raise pytest.UsageError(f"--perdure-seed is a number or 'random', not {given!r}")
    config.stash[_seed] = int(given)


_seed = pytest.StashKey[int]()


def pytest_report_header(config: pytest.Config) -> str | None:
    told = []
    if config.stash[_seed]:
        told.append(f"--perdure-seed={config.stash[_seed]}")
    if config.getoption("--perdure-replay"):
        told.append("--perdure-replay")
    return f"perdure: {' '.join(told)}" if told else None


# --- the world of a test


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    """A whole perdure for one test: virtual time, crashes at will. See docs/testing.md."""
    from perdure.testing.world import World

    name = request.node.name
    if not _is_async(request.node):
        raise pytest.UsageError(
            f"{name} uses `world` and has to be an async test: async def {name}(world)"
        )
    options: dict[str, Any] = {}
    app: tuple[Any, ...] = ()
    for mark in reversed(list(request.node.iter_markers(_MARK))):
        app = mark.args or app
        options |= mark.kwargs
    seed = options.pop("seed", None)
    replay = options.pop("replay", None)
    config = request.config
    if not app:
        named = config.getini(_INI)
        app = _named(named) if named else tuple(classes_of(request.module))
    return World(
        *app,
        seed=config.stash[_seed] if seed is None else seed,
        replay=bool(config.getoption("--perdure-replay")) if replay is None else replay,
        **options,
    )


def _named(name: str) -> tuple[Any, ...]:
    """An App, or all classes of a module."""
    module_name, _, attribute = name.partition(":")
    module = importlib.import_module(module_name)
    if attribute:
        return (getattr(module, attribute),)
    from perdure.app import App

    apps = [value for value in vars(module).values() if isinstance(value, App)]
    return (apps[0],) if len(apps) == 1 else tuple(classes_of(module))


def classes_of(module: ModuleType) -> list[type[Object]]:
    """The classes that a test module knows, and those that their modules know in turn.

    Where two have one name, the module's own comes first; where that does not tell them apart,
    neither is taken, and whoever uses them says which.
    """
    chosen: dict[str, type[Object]] = {}
    seen: set[str] = set()
    level = [module]
    while level:
        found: dict[str, set[type[Object]]] = {}
        for one in level:
            seen.add(one.__name__)
            for cls in _classes_in(one):
                found.setdefault(cls.__perdure_name__, set()).add(cls)
        for name, classes in found.items():
            if len(classes) == 1:
                chosen.setdefault(name, classes.pop())
        homes = {cls.__module__ for cls in chosen.values()} - seen
        level = [sys.modules[name] for name in sorted(homes) if name in sys.modules]
    return list(chosen.values())


def _classes_in(module: ModuleType) -> Iterator[type[Object]]:
    from perdure.object import Object

    for name, value in list(vars(module).items()):
        if (
            isinstance(value, type)
            and issubclass(value, Object)
            and value is not Object
            and not name.startswith("_")
        ):
            yield value


# --- async tests


def _is_async(item: Any) -> bool:
    function = getattr(item, "obj", None)
    return inspect.iscoroutinefunction(function) or hasattr(function, "__perdure_runs__")


# The innermost wrapper: it comes before a plugin that would run the test in real time.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Any:
    """Make async tests that have a world plain functions, which run their coroutine."""
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if (
            isinstance(item, pytest.Function)
            and "world" in item.fixturenames
            and inspect.iscoroutinefunction(item.obj)
        ):
            item.obj = _in_virtual_time(item)
    return made


def _in_virtual_time(item: Any) -> Any:
    function = item.obj

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        from perdure.testing.virtual import run_virtual
        from perdure.testing.world import World

        world = item.funcargs["world"]
        if not isinstance(world, World):
            # Somebody's own fixture of that name.
            run_virtual(function(**arguments))
            return

        async def main() -> None:
            async with world:
                await function(**arguments)

        run_virtual(main())

    run.__perdure_runs__ = True  # type: ignore[attr-defined]
    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Say at a failure where the world stood, and how to have the same again."""
    report = yield
    if report.when == "call" and report.failed:
        world = getattr(item, "funcargs", {}).get("world")
        if world is not None and hasattr(world, "describe"):
            report.sections.append(
                ("perdure", f"{world.describe()}\nrun again with --perdure-seed={world.seed}")
            )
    return report
