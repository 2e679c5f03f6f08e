"""Inside a turn: the turn's own time and chance, again at replay; and no way around the journal."""

from __future__ import annotations

import asyncio
import datetime
import http.client
import os
import random
import re
import secrets
import socket
import sqlite3
import string
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Object
from perdure.errors import SideEffectError
from tests.host.stage import Stage

HERE = Path(__file__)
UTC = datetime.UTC
BERLIN = datetime.timezone(datetime.timedelta(hours=1))

# Each looks the function up when it is called: what a dict holds is not replaced by the guards.
TIMES: dict[str, Callable[[], Any]] = {
    "time": lambda: time.time(),
    "time_ns": lambda: time.time_ns(),
    "monotonic": lambda: time.monotonic(),
    "monotonic_ns": lambda: time.monotonic_ns(),
    "perf_counter": lambda: time.perf_counter(),
    "perf_counter_ns": lambda: time.perf_counter_ns(),
    "process_time": lambda: time.process_time(),
    "thread_time_ns": lambda: time.thread_time_ns(),
    "clock_gettime": lambda: time.clock_gettime(time.CLOCK_MONOTONIC),
    "clock_gettime_ns": lambda: time.clock_gettime_ns(time.CLOCK_REALTIME),
    "localtime": lambda: tuple(time.localtime()),
    "gmtime": lambda: tuple(time.gmtime()),
    "ctime": lambda: time.ctime(),
    "asctime": lambda: time.asctime(),
    "strftime": lambda: time.strftime("%Y-%m-%dT%H:%M:%S"),
    "now": lambda: datetime.datetime.now(),
    "now in UTC": lambda: datetime.datetime.now(UTC),
    "now elsewhere": lambda: datetime.datetime.now(tz=BERLIN),
    "today": lambda: datetime.datetime.today(),
    "date.today": lambda: datetime.date.today(),
}

CHANCES: dict[str, Callable[[], Any]] = {
    "random": lambda: random.random(),
    "randint": lambda: random.randint(1, 10**12),
    "randrange": lambda: random.randrange(10**12),
    "choice": lambda: random.choice(range(10**9)),
    "choices": lambda: random.choices(string.ascii_letters, k=12),
    "sample": lambda: random.sample(range(10**6), 4),
    "uniform": lambda: random.uniform(0, 1),
    "gauss": lambda: random.gauss(0, 1),
    "getrandbits": lambda: random.getrandbits(64),
    "randbytes": lambda: random.randbytes(8),
    "a generator": lambda: random.Random().random(),
    "the system's generator": lambda: random.SystemRandom().random(),
    "token_bytes": lambda: secrets.token_bytes(16),
    "token_hex": lambda: secrets.token_hex(16),
    "token_urlsafe": lambda: secrets.token_urlsafe(16),
    "randbelow": lambda: secrets.randbelow(10**12),
    "randbits": lambda: secrets.randbits(64),
    "secrets.choice": lambda: secrets.choice(range(10**9)),
    "uuid1": lambda: uuid.uuid1(),
    "uuid4": lambda: uuid.uuid4(),
    "urandom": lambda: os.urandom(16),
}
if hasattr(os, "getrandom"):
    CHANCES["getrandom"] = lambda: os.getrandom(16)


def shuffled() -> list[int]:
    values = list(range(50))
    random.shuffle(values)
    return values


CHANCES["shuffle"] = shuffled


def connect() -> None:
    with socket.create_connection(("127.0.0.1", 9), timeout=1):
        pass


REFUSED: dict[str, Callable[[], Any]] = {
    "opening a file": lambda: open(HERE),  # noqa: SIM115
    "opening a file for pathlib": HERE.read_text,
    "opening a socket": socket.socket,
    "looking up a host": lambda: socket.getaddrinfo("localhost", 80),
    "looking up a host to connect": connect,
    "starting a process": lambda: subprocess.run(["true"], check=True),
    "starting a thread": lambda: threading.Thread(target=print).start(),
    "listing a directory": lambda: os.listdir("."),
    "listing a directory entry by entry": lambda: list(os.scandir(".")),
    "removing a file": lambda: os.remove("no such file"),
    "making a directory": lambda: os.mkdir("no such folder"),
    "running a shell command": lambda: os.system("true"),
    "changing the environment": lambda: os.putenv("A", "b"),
    "opening a database": lambda: sqlite3.connect(":memory:"),
    "time.sleep() would hold up": lambda: time.sleep(0),
    "making a temporary file": tempfile.mkstemp,
    "making a temporary directory": tempfile.mkdtemp,
    "an HTTP request": lambda: http.client.HTTPConnection("127.0.0.1", 9).connect(),
}


class Prober(Object):
    taken: dict[str, Any] = {}

    def take(self) -> dict[str, Any]:
        self.taken = {name: take() for name, take in (TIMES | CHANCES).items()}
        return self.taken

    async def take_later(self) -> dict[str, Any]:
        await asyncio.sleep(3)
        return self.take()

    def get(self) -> dict[str, Any]:
        return self.taken

    def twice(self, name: str) -> list[Any]:
        return [CHANCES[name](), CHANCES[name]()]

    def refused(self, name: str) -> None:
        REFUSED[name]()

    def catches(self, name: str) -> str:
        try:
            REFUSED[name]()
        except SideEffectError as error:
            return error.message
        return "nothing was refused"

    def opens(self) -> None:
        open("x")  # noqa: SIM115 - the line that the error has to name

    def imports(self) -> str:
        import this_is_only_imported_here  # type: ignore[import-not-found]

        return str(this_is_only_imported_here.NAME)

    def imports_stdlib(self, name: str) -> str:
        return str(__import__(name).__name__)

    def formats(self) -> str:
        try:
            raise ValueError("in here")
        except ValueError:
            return traceback.format_exc()

    def utcnow(self) -> datetime.datetime:
        return datetime.datetime.utcnow()

    def subclassed(self) -> bool:
        class Moment(datetime.datetime):
            pass

        return type(Moment.now()) is Moment and isinstance(Moment.now(UTC), datetime.datetime)

    def seeded(self) -> float:
        return random.Random(7).random()


# --- time and chance


async def test_time_is_the_turns_own() -> None:
    async with Stage(Prober) as stage:
        await asyncio.sleep(1234.5)
        now_ns = stage.clock.now_ns()
        taken = await Prober.at("a").take()
    now = now_ns / 1e9
    local = datetime.datetime.fromtimestamp(now)
    assert {name: taken[name] for name in TIMES} == {
        **dict.fromkeys(("time", "monotonic", "perf_counter"), now),
        **dict.fromkeys(("process_time", "clock_gettime"), now),
        **dict.fromkeys(("time_ns", "monotonic_ns", "perf_counter_ns"), now_ns),
        **dict.fromkeys(("thread_time_ns", "clock_gettime_ns"), now_ns),
        "localtime": tuple(time.localtime(now)),
        "gmtime": tuple(time.gmtime(now)),
        "ctime": time.ctime(now),
        "asctime": time.ctime(now),
        "strftime": local.strftime("%Y-%m-%dT%H:%M:%S"),
        "now": local,
        "today": local,
        "now in UTC": datetime.datetime.fromtimestamp(now, UTC),
        "now elsewhere": datetime.datetime.fromtimestamp(now, BERLIN),
        "date.today": local.date(),
    }
    assert taken["now elsewhere"].tzinfo is not None


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
async def test_utcnow_is_the_turns_own() -> None:
    async with Stage(Prober) as stage:
        now = datetime.datetime.fromtimestamp(stage.clock.now_ns() / 1e9, UTC)
        assert await Prober.at("a").utcnow() == now.replace(tzinfo=None)


async def test_subclasses_of_datetime_stay_what_they_are() -> None:
    async with Stage(Prober):
        assert await Prober.at("a").subclassed()


@pytest.mark.parametrize("handler", ["take", "take_later"])
async def test_a_replay_has_the_same_time_and_chance(handler: str) -> None:
    async with Stage(Prober) as stage:
        taken = await getattr(Prober.at("a"), handler)()
        await asyncio.sleep(10)  # not so long that there would be a checkpoint
        await stage.restart()
        assert await Prober.at("a").get() == taken
        assert stage.host.quarantine.objects == {}
        assert stage.host.live()[0].snapshot_seq == 0


async def test_chance_differs_between_turns_and_objects() -> None:
    async with Stage(Prober):
        taken = [await Prober.at(key).take() for key in ("a", "a", "b")]
    for name in CHANCES:
        first, second, third = (one[name] for one in taken)
        assert first != second, name
        assert first != third, name


@pytest.mark.parametrize("name", CHANCES)
async def test_two_draws_of_a_turn_differ(name: str) -> None:
    async with Stage(Prober):
        first, second = await Prober.at("a").twice(name)
        assert first != second


async def test_ids_are_well_formed() -> None:
    async with Stage(Prober) as stage:
        taken = await Prober.at("a").take()
        now_ns = stage.clock.now_ns()
    assert (taken["uuid1"].version, taken["uuid4"].version) == (1, 4)
    assert taken["uuid1"].variant == taken["uuid4"].variant == uuid.RFC_4122
    assert (taken["uuid1"].time - 0x01B21DD213814000) * 100 == now_ns
    assert len(taken["urandom"]) == 16


async def test_a_generator_with_a_seed_is_what_it_is_everywhere() -> None:
    async with Stage(Prober):
        assert await Prober.at("a").seeded() == random.Random(7).random()


async def test_outside_of_turns_everything_is_real() -> None:
    async with Stage(Prober) as stage:
        await Prober.at("a").take()
        assert abs(time.time() - stage.clock.now_ns() / 1e9) > 3600
        assert abs(datetime.datetime.now(UTC).timestamp() - time.time()) < 60
        assert time.monotonic() <= time.monotonic()
        assert time.strftime("%Y") == time.strftime("%Y", time.localtime())
        assert uuid.uuid4() != uuid.uuid4()
        assert uuid.uuid1() != uuid.uuid1()
        assert os.urandom(16) != os.urandom(16)
        assert random.Random().random() != random.Random().random()
        random.seed(5)
        assert random.random() == random.Random(5).random()
        assert HERE.read_text(encoding="utf-8")
        time.sleep(0)
        sqlite3.connect(":memory:").close()
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
    real = {name: take() for name, take in CHANCES.items()}
    assert real != {name: take() for name, take in CHANCES.items()}


def test_names_imported_before_the_guards_are_replaced_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.host.early"],
        cwd=HERE.parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("the same\n", "")


# --- refusals


@pytest.mark.parametrize("name", REFUSED)
async def test_what_touches_the_outside_is_refused(name: str) -> None:
    async with Stage(Prober):
        message = await Prober.at("a").catches(name)
        with pytest.raises(SideEffectError):
            await Prober.at("a").refused(name)
    words = {
        "opening a file for pathlib": "opening a file",
        "listing a directory entry by entry": "listing a directory",
        "looking up a host to connect": "looking up a host",
        "an HTTP request": "",
    }
    assert words.get(name, name) in message
    assert re.match(rf"{re.escape(str(HERE))}:\d+ in ", message), message


async def test_a_refusal_names_the_line_and_says_what_to_do() -> None:
    lines = HERE.read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if 'open("x")' in line)
    async with Stage(Prober):
        with pytest.raises(SideEffectError) as caught:
            await Prober.at("a").opens()
    assert f"{HERE}:{number} in Prober.opens: opening a file 'x' inside a turn" in str(caught.value)
    assert "@step" in caught.value.hint


# --- what reads files and decides nothing


async def test_an_import_inside_a_turn_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this_is_only_imported_here.py").write_text("NAME = 'found'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Stage(Prober) as stage:
        assert await Prober.at("a").imports() == "found"
        for name in ("colorsys", "wave"):
            monkeypatch.delitem(sys.modules, name, raising=False)
            assert await Prober.at("a").imports_stdlib(name) == name
        await stage.restart()
        assert await Prober.at("a").get() == {}


async def test_a_traceback_inside_a_turn_works() -> None:
    async with Stage(Prober):
        text = await Prober.at("a").formats()
    assert 'raise ValueError("in here")' in text
