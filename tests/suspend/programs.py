"""Writes programs at random: a class whose one handler does everything Python and asyncio have.

A program is a function of its seed, so that another process can write the same. It ends within a
bounded number of turns, or is stopped; it never reads a clock or an address, so whatever it logs
must come out the same however often its object went through bytes in between.
"""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Callable
from typing import Any

PRELUDE = """
import asyncio, collections, contextlib, contextvars, functools, itertools, re, sys, traceback
from dataclasses import dataclass, field
from perdure import Object
MISSING = object()
var = contextvars.ContextVar("var", default=0)
async def step(x=0, d=1):
    await asyncio.sleep(d / 100)
    return asyncio.get_running_loop().seq * 7 % 5
@dataclass
class Box:
    value: object = None
    others: list = field(default_factory=list)
class Failed(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")
        self.a, self.b = a, b
class CM:
    def __init__(self, log, swallow=None):
        self.log, self.swallow = log, swallow
    def __enter__(self):
        self.log.append("enter")
        return 5
    def __exit__(self, t, v, tb):
        self.log.append(("exit", t and t.__name__))
        return bool(t and self.swallow and issubclass(t, self.swallow))
    async def __aenter__(self):
        await step("aenter")
        return 6
    async def __aexit__(self, t, v, tb):
        await step("aexit")
        self.log.append(("aexit", t and t.__name__))
        return bool(t and self.swallow and issubclass(t, self.swallow))
class Counting:
    def __init__(self, n):
        self.n = n
    def __aiter__(self):
        return self
    async def __anext__(self):
        if self.n <= 0:
            raise StopAsyncIteration
        self.n -= 1
        await step("anext")
        return self.n
class Awaitable:
    def __init__(self, v):
        self.v = v
    def __await__(self):
        got = yield from step("await").__await__()
        return got + self.v
class Base:
    async def m(self, x):
        return x + await step(x)
class Derived(Base):
    async def m(self, x, *, k=2, **more):
        return k + await super().m(x) + len(more)
async def leaf(log, a, b=2, *rest, k=3, missing=MISSING, **more):
    got = await step("leaf")
    log.append((got, missing is MISSING, len(rest), sorted(more)))
    return got + a
async def items(log, n):
    try:
        for i in range(n):
            await step("item")
            yield i
    finally:
        log.append("items end")
async def amore(log):
    try:
        for i in range(3):
            yield i
    finally:
        await step("amore end")
        log.append("amore end")
@contextlib.contextmanager
def managed(log):
    log.append("managed")
    try:
        yield 3
    finally:
        log.append("unmanaged")
@contextlib.asynccontextmanager
async def amanaged(log):
    await step("am")
    try:
        yield 4
    finally:
        await step("am end")
        log.append("aunmanaged")
def traced(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs) + 1
    return wrapper
@traced
async def decorated(log, a):
    await step("decorated")
    return a
async def number(d, n):
    await step("number", d)
    return n
async def failing(d, kind):
    await step("failing", d)
    raise kind("failed")
"""

MAIN = """
class Fuzz(Object):
    log: list = []
    x: int = 0
    table: dict = {}
    box: object = None
    shared: object = None
    async def main(self) -> None:
        log = self.log
        try:
            log.append(await self._main(log))
        except (Exception, asyncio.CancelledError) as error:
            log.append(repr(error))
    async def _main(self, log):
        a = 1; b = 2; n = 0; w = 0; dd = {"k": 0}; box = self.box = Box()
        def bump(t):
            nonlocal n
            n = (n + 1) % 7
            return n + t
"""


class Writer:
    """Writes one program."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = 0

    def source(self) -> str:
        body = "".join(self.block(4, 2, loop=False) for _ in range(3))
        return f"{PRELUDE}{MAIN}{body}        return a, b, n, dd, self.x, box.value\n"

    # --- expressions

    def expression(self, depth: int) -> str:
        if depth <= 0 or self.random.random() < 0.2:
            return self.random.choice(
                ["1", "a", "b", "self.x", "len(log)", "(await step(0))", "(await step('s'))"]
            )
        form: str = self.random.choice(EXPRESSIONS)
        return self.fill(form, depth)

    def fill(self, form: str, depth: int) -> str:
        while "@" in form:
            form = form.replace("@", self.expression(depth - 1), 1)
        return form

    # --- statements

    def name(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def block(self, depth: int, indent: int, *, loop: bool, most: int = 2) -> str:
        count = self.random.randint(1, most)
        return "".join(
            self.statement(depth - (self.random.random() < 0.3), indent, loop=loop)
            for _ in range(count)
        )

    def statement(self, depth: int, indent: int, *, loop: bool) -> str:
        pad = "    " * indent
        if depth <= 0:
            return f"{pad}{self.fill(self.random.choice(SIMPLE), 2)}\n"
        form: str = self.random.choice(STATEMENTS)
        if ("break" in form or "continue" in form) and not loop:
            form = SIMPLE[0]
        lines = []
        own = self.name()
        for line in form.strip("\n").splitlines():
            line = line.replace("$", own)
            spaces = len(line) - len(line.lstrip())
            if line.strip() in ("BLOCK", "LOOP", "LEAF"):
                inner = indent + spaces // 4
                inside = loop if line.strip() == "BLOCK" else line.strip() == "LOOP"
                less = 2 if line.strip() == "LEAF" else 1
                lines.append(self.block(depth - less, inner, loop=inside))
            else:
                lines.append(f"{pad}{self.fill(line, 2)}\n")
        return "".join(lines)


EXPRESSIONS = [
    "(@ + @)",
    "(@ if @ else @)",
    "(@ < @ <= @)",
    "[@, @, @][@ % 3]",
    "sum([@ for z in range(2)])",
    "sum({z: @ for z in 'xy'}.values())",
    "(await leaf(log, @, @, *[@], k=@, **{'q': @}))",
    "(lambda t, u=@: t + u + n)(@)",
    "len(f'{(await step(0))!r:>4}|{b}')",
    "(w := @)",
    "(await Awaitable(@))",
    "(await Derived().m(@, k=@, j=1))",
    "max(@, @, key=lambda q: q + n)",
    "dict(a=@, b=@)['a']",
    "[1, 2, 3, 4][@ % 2:@ % 4 + 1][0:1].count(@)",
    "(@ and @ or @)",
    "bump(@)",
    "sum(g for g in [@, 2] if g)",
    "sum([y async for y in Counting(2)])",
    "(*(1, @), @)[1]",
    "(await decorated(log, @))",
    "(await asyncio.wait_for(number(1, @), 5))",
    "sum(await asyncio.gather(number(2, @), number(1, @)))",
    "functools.reduce(lambda p, q: p + q, [@, @])",
    "(await asyncio.shield(number(1, @)))",
    "len(sorted({@, @, 3}))",
]

SIMPLE = [
    "log.append((@) % 97)",
    "a = (@) % 97",
    "b += (@) % 97",
    "dd['k'] += (@) % 97",
    "self.x += (@) % 97",
    "(a, b) = ((@) % 97, a)",
    "await step('plain')",
    "box.others.append((@) % 97)",
    "self.table[(@) % 5] = len(log)",
    "self.table.pop((@) % 5, None)",
    "log.append(box is self.box)",
    "var.set(var.get() + 1)",
]

STATEMENTS = [
    "if @ > 3:\n    BLOCK\nelse:\n    BLOCK",
    "for $ in range(3):\n    LOOP",
    "for $ in [1, 2]:\n    LOOP\nelse:\n    BLOCK",
    "for $ in {'a': 1, 'b': 2}.items():\n    LOOP",
    "for $ in (1, 2):\n    LOOP",
    "for $ in 'ab':\n    LOOP",
    "for $ in enumerate(zip([1, 2], 'ab')):\n    LOOP",
    "for $ in reversed([1, 2]):\n    LOOP",
    "for $ in map(str, filter(None, [0, 1, 2])):\n    LOOP",
    "for $ in itertools.chain([1], itertools.islice(itertools.count(5), 2)):\n    LOOP",
    "for $ in (q * 2 for q in [1, 2]):\n    LOOP",
    "for $ in sorted({1, 2, 3}):\n    LOOP",
    "for $ in frozenset([1, 2]):\n    LOOP",
    "for $ in b'ab':\n    LOOP",
    "for $ in list(self.table):\n    LOOP",
    "try:\n    for $ in self.table.items():\n        log.append($)\n        LOOP\n"
    "except RuntimeError as error:\n    log.append(str(error))",
    "try:\n    for $ in reversed(self.table):\n        log.append($)\n        await step()\n"
    "        self.table[$] = len(log)\n"
    "except RuntimeError as error:\n    log.append(str(error))",
    "for $ in box.others:\n    if len(box.others) > 8: break\n    box.others.append(1)\n    LOOP",
    "$ = 0\nwhile $ < 3:\n    $ += 1\n    LOOP",
    "with CM(log, KeyError) as $:\n    BLOCK",
    "with CM(log) as $, managed(log):\n    BLOCK",
    "async with CM(log, Exception) as $, CM(log):\n    BLOCK",
    "async with amanaged(log) as $:\n    BLOCK",
    "async with contextlib.AsyncExitStack() as $:\n"
    "    $.enter_context(managed(log))\n    await $.enter_async_context(CM(log, KeyError))\n"
    "    $.callback(log.append, 'callback')\n    BLOCK",
    "try:\n    BLOCK\nexcept KeyError as x:\n    BLOCK\n    log.append(repr(x))\n"
    "except Exception as y:\n    BLOCK\n    log.append((repr(y), repr(y.__context__)))\n"
    "else:\n    BLOCK\nfinally:\n    LEAF",
    "try:\n    LEAF\nfinally:\n    LEAF",
    "try:\n    raise KeyError(@)\nexcept KeyError:\n"
    "    try:\n        await step('re')\n        raise\n"
    "    except KeyError as again:\n        log.append(repr(again))",
    "try:\n    LEAF\n    raise ExceptionGroup('g', [KeyError(1), ValueError(2), Failed(3, 4)])\n"
    "except* KeyError as x:\n    LEAF\nexcept* ValueError:\n    LEAF\n"
    "except* Failed as f:\n    log.append([e.a for e in f.exceptions])",
    "async for $ in Counting(2):\n    LOOP",
    "async for $ in items(log, 2):\n    LOOP",
    "async for $ in items(log, 3):\n    LOOP\n    break",
    "async for $ in amore(log):\n    log.append($)\n    if @ > 2: break",
    "$ = items(log, 3)\nasync for i in $:\n    log.append(await step(i))\n    break\n"
    "await $.aclose()",
    "match (@, a):\n    case (int(q), _) if q > 2:\n        BLOCK\n    case _:\n        BLOCK",
    "async def f$(z, a=a, b=b):\n    nonlocal n\n    w = 0\n    LEAF\n    n += 1\n    return z\n"
    "log.append(await f$(@))",
    "async def r$(k):\n    if k:\n        return k + await r$(k - 1)\n"
    "    return await step('deep')\n"
    "log.append(await r$(3))",
    "if @ > 5: raise KeyError(a)",
    "if @ > 7: raise Failed(a, b)",
    "g$ = (q * i for i, q in enumerate([a, b, 3]))\nnext(g$)\nlog.append(@)\nlog.append(list(g$))",
    "$ = 1\nlog.append(@)\ndel $",
    "assert abs(@) >= 0, @",
    "if a > 60: return @",
    "if @ > 4: break",
    "if @ > 4: continue",
    "$ = list(range(4))\n$.append($)\nself.table['self'] = $\nlog.append(@)\n"
    "log.append(self.table['self'] is $)",
    "try:\n    async with asyncio.timeout(0.03):\n        await step('slow', 5)\n"
    "        BLOCK\nexcept TimeoutError:\n    log.append('timeout')",
    "try:\n    async with asyncio.TaskGroup() as $:\n        one$ = $.create_task(number(2, @))\n"
    "        $.create_task(number(1, 2))\n        LEAF\n    log.append(one$.result())\n"
    "except* Exception as error:\n    log.append(len(error.exceptions))",
    "try:\n    async with asyncio.TaskGroup() as $:\n        $.create_task(failing(1, KeyError))\n"
    "        $.create_task(number(50, 1))\n"
    "except* KeyError as error:\n    log.append(repr(error.exceptions))",
    "t$ = asyncio.create_task(number(3, @))\nawait step('meanwhile')\nlog.append(await t$)",
    "t$ = asyncio.create_task(number(30, 1))\nawait step('meanwhile')\nt$.cancel('why')\ntry:\n"
    "    await t$\nexcept asyncio.CancelledError as error:\n    log.append(error.args)",
    "lock$ = asyncio.Lock()\nasync def w$(k):\n    async with lock$:\n        log.append(k)\n"
    "        await step(k)\nawait asyncio.gather(*[w$(k) for k in range(3)])",
    "q$ = asyncio.Queue(1)\nasync def p$():\n    for k in range(3):\n        await q$.put(k)\n"
    "t$ = asyncio.create_task(p$())\nfor k in range(3):\n    log.append(await q$.get())\n"
    "    await step(k)\nawait t$",
    "self.shared = asyncio.get_running_loop().create_future()\nasync def s$(k):\n"
    "    got = await self.shared\n    log.append((k, got))\n    return got\n"
    "t$ = [asyncio.create_task(s$(k)) for k in range(2)]\nawait step('hold')\n"
    "self.shared.set_result(@)\nlog.append(await asyncio.gather(*t$))",
    "e$ = asyncio.Event()\nasyncio.get_running_loop().call_later(0.02, e$.set)\nawait e$.wait()",
    "$ = []\nasyncio.get_running_loop().call_later(0.01, lambda k: $.append(k + len(log)), 4)\n"
    "await step('later', 2)\nlog.append($)",
    "c$ = asyncio.Condition()\n$ = []\nasync def n$():\n    await step('before')\n"
    "    async with c$:\n        $.append(1)\n        c$.notify_all()\n"
    "t$ = asyncio.create_task(n$())\nasync with c$:\n    await c$.wait_for(lambda: $)\nawait t$",
    "s$ = asyncio.Semaphore(2)\nasync def u$(k):\n    async with s$:\n        await step(k)\n"
    "        log.append(k)\nawait asyncio.gather(*(u$(k) for k in range(4)))",
    "b$ = asyncio.Barrier(2)\nasync def m$():\n    await step('barrier')\n    await b$.wait()\n"
    "t$ = asyncio.create_task(m$())\nawait b$.wait()\nawait t$",
    "d$, p$ = await asyncio.wait([asyncio.create_task(number(k, k)) for k in (1, 3)],\n"
    "    return_when=asyncio.FIRST_COMPLETED)\nlog.append((len(d$), len(p$)))\n"
    "log.append(sorted(await asyncio.gather(*d$, *p$)))",
    "log.append(await asyncio.gather(failing(1, KeyError), number(2, 3), return_exceptions=True))",
    "for $ in asyncio.as_completed([number(2, 2), number(1, 1)]):\n    log.append(await $)",
    "async def v$():\n    var.set(var.get() + 10)\n    await step('var')\n    return var.get()\n"
    "log.append((await asyncio.create_task(v$()), var.get()))",
    "$ = functools.partial(number, 1)\nlog.append(await $(@))",
    "$ = Derived().m\nlog.append(await $(@))",
    "$ = collections.deque([1, 2])\nawait step('deque')\n$.append(a)\nlog.append(list($))",
    "$ = number(1, @)\nawait step('not begun')\nlog.append(await $)",
    "try:\n    async with amanaged(log):\n        LEAF\n        raise Failed(a, b)\n"
    "except Failed as error:\n    log.append(error.a)",
    "$ = var.set(@)\nLEAF\nvar.reset($)\nlog.append(var.get())",
    "$ = re.search('b+', 'abbb')\nawait step('match')\nlog.append($.span())",
    "async def c$():\n    try:\n        await step('long', 9)\n"
    "    except asyncio.CancelledError:\n        await step('cleanup')\n        raise\n"
    "    finally:\n        log.append('c end')\nt$ = asyncio.create_task(c$())\n"
    "await step('x')\nt$.cancel()\nlog.append(await asyncio.gather(t$, return_exceptions=True))",
    "q$ = asyncio.PriorityQueue()\nfor k in (3, 1, 2):\n    q$.put_nowait((k, 'x'))\n"
    "    await step(k)\nlog.append([q$.get_nowait()[0] for _ in range(3)])",
    "log.append([k async for k in items(log, 2) if await step(k) or k])",
    "def g$(k):\n    try:\n        while True:\n            k = yield k\n    finally:\n"
    "        log.append('g end')\n$ = g$(@)\nnext($)\nawait step('send')\n"
    "log.append($.send(@))\n$.close()",
    "def y$():\n    got = yield from (k for k in (1, 2))\n    yield got\n    return 3\n"
    "$ = y$()\nnext($)\nLEAF\nlog.append(list($))",
    "log.append([len(x) for x in await asyncio.wait(\n"
    "    [asyncio.create_task(number(k, k)) for k in (1, 4)], timeout=0.02)])",
    "with contextlib.suppress(KeyError):\n    LEAF\n    raise KeyError(@)",
    "while True:\n    if @ >= 0: break\nelse:\n    log.append('never')",
    "async with asyncio.TaskGroup() as $:\n    async def k$(m):\n        nonlocal n\n"
    "        async with asyncio.timeout(m / 50):\n            await step(m, 2)\n        n += m\n"
    "    for m in (3, 4):\n        $.create_task(k$(m))\n    await step('both')",
    "try:\n    try:\n        raise KeyError(1)\n    finally:\n        LEAF\n"
    "except KeyError as error:\n    log.append(repr(error.__context__))",
    "try:\n    try:\n        raise KeyError(1)\n    except KeyError as error:\n"
    "        await step('chain')\n        raise Failed(1, 2) from error\n"
    "except Failed as error:\n    await step('from')\n    log.append(repr(error.__cause__))",
    "$ = sys.exc_info()\ntry:\n    raise KeyError(5)\nexcept KeyError:\n    LEAF\n"
    "    log.append(sys.exc_info()[0].__name__)\nlog.append(sys.exc_info()[0])",
    "try:\n    LEAF\n    raise Failed(a, b)\nexcept Exception as error:\n    LEAF\n"
    "    log.append(traceback.format_exc())",
    "$ = items(log, 1)\nlog.append([await anext($, 'none'), await anext($, 'none')])",
    "$ = Derived()\nparent = super(Derived, $)\nawait step('super')\nlog.append(await parent.m(@))",
    "for $ in itertools.pairwise([1, 2, 3]):\n    LOOP",
    "$ = globals()\nawait step('globals')\nlog.append($ is globals())",
    "try:\n    self.absent\nexcept AttributeError as error:\n    await step('absent')\n"
    "    log.append((error.name, error.obj is self))",
    "x$, *y$ = [await step(z) for z in (1, 2, 3)]\nlog.append((x$, y$))",
]


def write(seed: int) -> str:
    """The source of the program of that seed."""
    return Writer(seed).source()


def load(seed: int) -> Any:
    """The class of the program of that seed, in a module of its own. Raises SyntaxError."""
    name = f"fuzzed_{seed}"
    source = write(seed)
    module = types.ModuleType(name)
    # Without a __file__ it counts as the app's.
    code = compile(source, f"{name}.py", "exec", dont_inherit=True)
    sys.modules[name] = module
    exec(code, vars(module))
    return module.Fuzz


def unload(seed: int) -> None:
    sys.modules.pop(f"fuzzed_{seed}", None)


Check = Callable[[int], str]
