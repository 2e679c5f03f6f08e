"""Time, chance and I/O inside a turn.

`install` is called once in a process, before the app is imported. From then on, code that runs in
a turn gets the turn's time and the turn's chance from the ordinary functions, and what would touch
the outside raises SideEffectError with the line that did it. Everywhere else the functions are
what they were; the question asked is which event loop is running, and between turns it is never
an object's.

Three mechanisms, each where the others do not reach: module functions are replaced (time, random,
os.urandom, uuid1); the C methods datetime.now and utcnow are replaced in their type's own dict,
since a subclass would not be the class that other libraries know; and an audit hook sees opens,
sockets, processes and threads at the source. What still slips past is listed in
docs/determinism.md.
"""

from __future__ import annotations

import _thread
import asyncio
import ctypes
import datetime
import gc
import os
import random
import sys
import threading
import time
import uuid
import zoneinfo
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, cast

import tzdata  # type: ignore[import-untyped]

import perdure.clock  # noqa: F401 - it has to see the real functions, so it comes before `install`
from perdure.host.machine import Machine
from perdure.host.refusal import refusal

_get_running_loop = asyncio._get_running_loop

_ONCE_MORE = "inside a turn: replay would do it again"
_AS_A_STEP = "Put it into a function marked @step and await that."


def _turn() -> Machine | None:
    loop: Any = _get_running_loop()
    return loop if loop.__class__ is Machine else None


_installed = False


def install() -> None:
    """Put the guards in place; a second call does nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    replaced: dict[int, Any] = {}
    for module, name, replacement in [
        *_time_functions(),
        *_chance_functions(),
        *_asyncio_functions(),
        *_thread_functions(),
    ]:
        original = getattr(module, name)
        replaced[id(original)] = (original, replacement)
        setattr(module, name, replacement)
    _replace_stale_references(replaced)
    _replace_datetime_methods()
    _seed_unseeded_generators()
    sys.addaudithook(_audit)


# --- time


def _time_functions() -> list[tuple[ModuleType, str, Callable[..., Any]]]:
    return [
        *(
            _seconds(name)
            for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time")
        ),
        *(
            _nanoseconds(name)
            for name in (
                "time_ns",
                "monotonic_ns",
                "perf_counter_ns",
                "process_time_ns",
                "thread_time_ns",
            )
        ),
        *(_broken_down(name) for name in ("localtime", "gmtime", "ctime")),
        (time, "asctime", _asctime),
        (time, "strftime", _strftime),
        (time, "clock_gettime", _clock_gettime),
        (time, "clock_gettime_ns", _clock_gettime_ns),
        (time, "sleep", _sleep),
    ]


def _seconds(name: str) -> tuple[ModuleType, str, Callable[..., Any]]:
    real = getattr(time, name)

    def now() -> float:
        loop: Any = _get_running_loop()
        return loop.now_ns / 1e9 if loop.__class__ is Machine else real()

    return time, name, _dress(now, real)


def _nanoseconds(name: str) -> tuple[ModuleType, str, Callable[..., Any]]:
    real = getattr(time, name)

    def now() -> int:
        loop: Any = _get_running_loop()
        return loop.now_ns if loop.__class__ is Machine else real()

    return time, name, _dress(now, real)


def _broken_down(name: str) -> tuple[ModuleType, str, Callable[..., Any]]:
    real = getattr(time, name)

    def convert(seconds: float | None = None, /) -> Any:
        if seconds is None and (turn := _turn()) is not None:
            seconds = turn.now_ns / 1e9
        return real(seconds)

    return time, name, _dress(convert, real)


_real_asctime = time.asctime
_real_strftime = time.strftime
_real_localtime = time.localtime
_real_clock_gettime = time.clock_gettime
_real_clock_gettime_ns = time.clock_gettime_ns
_real_sleep = time.sleep


def _asctime(*when: Any) -> str:
    turn = _turn()
    return _real_asctime(
        *(when or ((_real_localtime(turn.now_ns / 1e9),) if turn is not None else ()))
    )


def _strftime(form: str, *when: Any) -> str:
    turn = _turn()
    return _real_strftime(
        form, *(when or ((_real_localtime(turn.now_ns / 1e9),) if turn is not None else ()))
    )


def _clock_gettime(clock: int, /) -> float:
    turn = _turn()
    return _real_clock_gettime(clock) if turn is None else turn.now_ns / 1e9


def _clock_gettime_ns(clock: int, /) -> int:
    turn = _turn()
    return _real_clock_gettime_ns(clock) if turn is None else turn.now_ns


def _sleep(seconds: float, /) -> None:
    if _turn() is not None:
        raise refusal(
            "time.sleep() would hold up every object of the process",
            "Await asyncio.sleep() instead.",
        )
    _real_sleep(seconds)


def _replace_datetime_methods() -> None:
    methods = gc.get_referents(datetime.datetime.__dict__)[0]
    real_now, real_utcnow = methods["now"], methods["utcnow"]

    def now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
        turn = _turn()
        if turn is None:
            return cast(datetime.datetime, real_now.__get__(None, cls)(tz))
        return _from_ns(cls, turn.now_ns, tz)

    def utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
        turn = _turn()
        if turn is None:
            return cast(datetime.datetime, real_utcnow.__get__(None, cls)())
        return _from_ns(cls, turn.now_ns, datetime.UTC).replace(tzinfo=None)

    # A C type refuses setattr, but its dict is an ordinary one, and the interpreter is told that
    # it changed. `datetime.today` and `date.today` go through time.time and need nothing.
    methods["now"] = classmethod(_dress(now, real_now))
    methods["utcnow"] = classmethod(_dress(utcnow, real_utcnow))
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))


def _from_ns(
    cls: type[datetime.datetime], ns: int, tz: datetime.tzinfo | None
) -> datetime.datetime:
    # From whole microseconds: a float of nanoseconds would round.
    seconds, rest = divmod(ns, 1_000_000_000)
    return cls.fromtimestamp(seconds, tz).replace(microsecond=rest // 1000)


# --- chance


def _chance_functions() -> list[tuple[ModuleType, str, Callable[..., Any]]]:
    functions: list[tuple[ModuleType, str, Callable[..., Any]]] = [
        (os, "urandom", _urandom),
        (random, "_urandom", _urandom),
        (uuid, "uuid1", _uuid1),
    ]
    if hasattr(os, "getrandom"):
        functions.append((os, "getrandom", _getrandom))
    hidden = random._inst
    for name in dir(random.Random):
        if (
            not name.startswith("_")
            and getattr(getattr(random, name, None), "__self__", None) is hidden
        ):
            functions.append((random, name, _random_function(name)))
    return functions


_real_urandom = os.urandom
_real_uuid1 = uuid.uuid1


def _urandom(size: int, /) -> bytes:
    turn = _turn()
    return _real_urandom(size) if turn is None else turn.chance.bytes(size)


def _getrandom(size: int, flags: int = 0) -> bytes:
    return _urandom(size)


def _uuid1(node: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
    turn = _turn()
    if turn is None:
        return _real_uuid1(node, clock_seq)
    # RFC 9562: 100 ns since 1582-10-15; a node of chance has its multicast bit set.
    ticks = turn.now_ns // 100 + 0x01B21DD213814000
    node = node if node is not None else int.from_bytes(turn.chance.bytes(6), "big") | (1 << 40)
    sequence = clock_seq if clock_seq is not None else int.from_bytes(turn.chance.bytes(2), "big")
    fields = (
        ticks & 0xFFFFFFFF,
        (ticks >> 32) & 0xFFFF,
        (ticks >> 48) & 0x0FFF,
        (sequence >> 8) & 0x3F,
        sequence & 0xFF,
        node,
    )
    return uuid.UUID(fields=fields, version=1)


def _random_function(name: str) -> Callable[..., Any]:
    real = getattr(random, name)

    def draw(*args: Any, **kwargs: Any) -> Any:
        turn = _turn()
        if turn is None:
            return real(*args, **kwargs)
        return getattr(turn.chance.random, name)(*args, **kwargs)

    return _dress(draw, real)


def _seed_unseeded_generators() -> None:
    """`random.Random()` takes its seed from the system, in C; inside a turn it must not."""
    real_init = random.Random.__init__

    def init(self: random.Random, x: Any = None) -> None:
        turn = _turn()
        if x is None and turn is not None and not isinstance(self, random.SystemRandom):
            x = turn.chance.bytes(16)
        real_init(self, x)

    random.Random.__init__ = init  # type: ignore[method-assign]


# --- asyncio


def _asyncio_functions() -> list[tuple[ModuleType, str, Callable[..., Any]]]:
    real = asyncio.all_tasks
    real_as_completed = asyncio.as_completed

    def all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[Any]:
        # Tasks of objects are not in asyncio's register: it would hold those of all objects.
        target: Any = loop if loop is not None else _get_running_loop()
        if target.__class__ is Machine:
            return {*(target.tasks or {}).values(), asyncio.current_task(cast(Any, target))} - {
                None
            }
        return real(loop)

    def as_completed(fs: Any, *, timeout: float | None = None) -> Any:
        # It walks a set of what it is given: coroutines by their address, so in another order at
        # a replay. Tasks hash by number.
        if _turn() is not None and not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)):
            fs = [asyncio.ensure_future(each) for each in dict.fromkeys(fs)]
        return real_as_completed(fs, timeout=timeout)

    functions = [_dress(all_tasks, real), _dress(as_completed, real_as_completed)]
    return [
        (module, function.__name__, function)
        for module in (asyncio, asyncio.tasks)
        for function in functions
    ]


# --- threads


def _thread_functions() -> list[tuple[ModuleType, str, Callable[..., Any]]]:
    if sys.version_info >= (3, 12):
        return []  # the audit hook hears of them
    real = _thread.start_new_thread

    def start_new_thread(*args: Any) -> int:
        if _turn() is not None:
            raise refusal(f"starting a thread {_ONCE_MORE}", _AS_A_STEP)
        return real(*args)

    dressed = _dress(start_new_thread, real)
    return [(_thread, "start_new_thread", dressed), (threading, "_start_new_thread", dressed)]


# --- stale references


def _replace_stale_references(replaced: dict[int, Any]) -> None:
    """Modules that did `from time import time` before now hold the old function."""
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        if name.partition(".")[0] in sys.stdlib_module_names or name.partition(".")[0] == "perdure":
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in replaced and replaced[id(value)][0] is value:
                setattr(module, attribute, replaced[id(value)][1])


def _dress(function: Callable[..., Any], real: Any) -> Callable[..., Any]:
    function.__name__ = real.__name__
    function.__qualname__ = real.__name__
    function.__doc__ = real.__doc__
    return function


# --- direct I/O

_REFUSED: dict[str, str] = {
    "open": "opening a file",
    "socket.__new__": "opening a socket",
    "socket.connect": "connecting a socket",
    "socket.bind": "binding a socket",
    "socket.getaddrinfo": "looking up a host",
    "socket.gethostbyname": "looking up a host",
    "socket.sendto": "sending on a socket",
    "subprocess.Popen": "starting a process",
    "os.system": "running a shell command",
    "os.exec": "replacing the process",
    "os.fork": "forking the process",
    "os.forkpty": "forking the process",
    "os.spawn": "starting a process",
    "os.posix_spawn": "starting a process",
    "os.kill": "signalling a process",
    "os.listdir": "listing a directory",
    "os.scandir": "listing a directory",
    "os.walk": "walking a directory",
    "os.remove": "removing a file",
    "os.rename": "renaming a file",
    "os.mkdir": "making a directory",
    "os.rmdir": "removing a directory",
    "os.link": "linking a file",
    "os.symlink": "linking a file",
    "os.truncate": "truncating a file",
    "os.chmod": "changing a file's mode",
    "os.chown": "changing a file's owner",
    "os.utime": "changing a file's times",
    "os.chdir": "changing the directory",
    "os.putenv": "changing the environment",
    "os.unsetenv": "changing the environment",
    "shutil.rmtree": "removing a directory",
    "shutil.copyfile": "copying a file",
    "shutil.move": "moving a file",
    "tempfile.mkstemp": "making a temporary file",
    "tempfile.mkdtemp": "making a temporary directory",
    "glob.glob": "listing a directory",
    "pathlib.Path.glob": "listing a directory",
    "sqlite3.connect": "opening a database",
    "_thread.start_new_thread": "starting a thread",
    "_thread.start_joinable_thread": "starting a thread",
    "urllib.Request": "an HTTP request",
    "http.client.connect": "an HTTP request",
    "smtplib.connect": "sending mail",
    "ftplib.connect": "connecting to a server",
    "webbrowser.open": "opening a browser",
    "mmap.__new__": "mapping a file",
    "time.sleep": "time.sleep()",
}

# An import reads files, and so does a traceback that shows source lines; neither decides anything.
_READERS = (
    "<frozen importlib",
    "linecache.py",
    "tokenize.py",
    "traceback.py",
    "inspect.py",
    "zipimport",
)


# The files of time zones. Their rules are read once by a process, and change with laws: so what a
# schedule makes of them stands in the journal.
_ZONES = (*zoneinfo.TZPATH, os.path.dirname(tzdata.__file__))


def _audit(event: str, args: tuple[Any, ...]) -> None:
    what = _REFUSED.get(event)
    if what is None or _turn() is None:
        return
    if event == "open" and str(args[0]).startswith(_ZONES):
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if any(reader in frame.f_code.co_filename for reader in _READERS):
            return
        if frame.f_code is Machine.turn.__code__:
            break
        frame = frame.f_back
    detail = f" {args[0]!r}" if args and isinstance(args[0], (str, bytes)) else ""
    raise refusal(f"{what}{detail} {_ONCE_MORE}", _AS_A_STEP)
