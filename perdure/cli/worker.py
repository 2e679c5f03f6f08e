"""The worker process: loads the app, runs the node, serves the socket that it is handed.

Started by the supervisor alone (supervisor/process.py), with its orders in the environment. The
order of what happens here matters: the guard is in place before the user's code is imported,
nothing listens before an address beyond loopback is allowed, and no object runs before the hash
seed is the store's.

Exit code 0: drained. 2: it will not start with this app and these settings, and has said why.
Anything else is an accident, after which the supervisor starts another.
"""

from __future__ import annotations

import asyncio
import dataclasses
import faulthandler
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from perdure.errors import AuthorError, BadApp, BadSettings, OperatorError, PerdureError
from perdure.settings import Settings, load_settings
from perdure.supervisor.deaths import FILE_NAME as DEATHS_FILE
from perdure.supervisor.deaths import Deaths, ForgivingSlot
from perdure.supervisor.link import (
    Loaded,
    Orders,
    Prepared,
    Ready,
    Refused,
    Released,
    WorkerEnd,
)
from perdure.supervisor.listen import is_loopback
from perdure.supervisor.slot import TurnSlot
from perdure.supervisor.supervise import REFUSED

if TYPE_CHECKING:
    from perdure.cli.load import Loaded as LoadedApp
    from perdure.gateway.front import Front
    from perdure.gateway.websocket import Passed
    from perdure.node import Node

_DEV_DRAIN_S = 2.0
_BEAT_S = 1.0
_SAMPLE_AFTER_S = 1.0
_NEEDED_TO_SERVE = (
    *("uvloop", "perdure.gateway.front", "perdure.gateway.http", "perdure.node"),
    *("perdure.store.sqlite", "perdure.cli.banner"),
)
_LOST = 1
_LOST_DRAIN_S = 1.0
# Beyond the drain, when the supervisor is gone and nobody else would end a worker that hangs.
_ORPHAN_GRACE_S = 10.0


def main() -> NoReturn:
    """Run by `python -m perdure.cli.worker`."""
    # A segmentation fault prints where; the supervisor's SIGUSR2 asks a turn that does not end.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=False)
    orders = Orders.from_environ()
    for fd in (orders.link_fd, orders.slot_fd):
        os.set_inheritable(fd, False)
    link = WorkerEnd(orders.link_fd)
    from perdure.cli.logs import set_up_logs
    from perdure.cli.unfailing import make_output_unfailing

    make_output_unfailing()
    set_up_logs(dev=orders.dev)
    try:
        code = _Worker(orders, link).run()
    except PerdureError as error:
        _refuse(error, orders, link)
        code = REFUSED
    sys.exit(code)


def _refuse(error: PerdureError, orders: Orders, link: WorkerEnd) -> None:
    from perdure.cli.load import NoSuchApp, files_of_user
    from perdure.cli.output import Complaint

    told = Complaint(f"cannot start: {error.message}", hint=error.hint, code=error.code)
    told.show()
    # Only what is in the user's files can be mended by changing them.
    fixable = isinstance(error, AuthorError | BadApp) and not isinstance(error, NoSuchApp)
    link.say(Refused(error.code, fixable, files_of_user(orders.app, error)))


class _Worker:
    def __init__(self, orders: Orders, link: WorkerEnd) -> None:
        self._orders = orders
        self._link = link
        self._settings: Settings
        self._app: LoadedApp
        self._bundle: tuple[str, bytes] | None = None

    def run(self) -> int:
        from perdure.cli.load import files_of_user, load
        from perdure.host import guard

        guard.install()
        self._app = load(self._orders.app)
        self._settings = _merge(self._app, self._orders)
        self._refuse_open_door()
        settings = self._settings
        if self._orders.successor:
            self._warm_up()
        self._link.say(
            Loaded(
                host=settings.host,
                port=settings.port,
                turn_timeout=settings.turn_timeout,
                drain_timeout=settings.drain_timeout,
                deaths=str(path) if (path := _deaths_path(settings)) is not None else None,
                files=files_of_user(self._orders.app),
            )
        )
        listening = self._link.receive_socket()
        if listening is None:
            return 1
        if not self._orders.successor:
            self._take_seed()
        return self._serve(listening)

    def _warm_up(self) -> None:
        """Do beforehand what would otherwise be done while everybody waits."""
        import gc
        import importlib

        from perdure.kind import kind_of
        from perdure.suspend import probe
        from perdure.suspend.bundles import bundle_of

        for name in _NEEDED_TO_SERVE:
            importlib.import_module(name)
        probe.unfit()
        for cls in self._app.classes:
            for handler in kind_of(cls).handlers.values():
                handler.signature.prepare()
        self._bundle = bundle_of(self._app.classes)
        gc.collect()
        gc.freeze()

    # --- the hash seed

    def _take_seed(self) -> None:
        """Be a process with the store's hash seed: if this is none, start again as one.

        Sets of strings then iterate in the same order in each process that runs the objects. It is
        a first start only, or another store than the supervisor thought of, that comes here twice.
        """
        if _directory(self._settings) is None:
            return
        from perdure.store import prepare

        seed = str(prepare(self._settings).hash_seed)
        if os.environ.get("PYTHONHASHSEED") == seed:
            return
        environ = self._orders.to_environ({**os.environ, "PYTHONHASHSEED": seed})
        for fd in (self._orders.link_fd, self._orders.slot_fd):
            os.set_inheritable(fd, True)
        os.execve(sys.executable, [sys.executable, "-P", "-m", "perdure.cli.worker"], environ)

    # --- who may reach it

    def _refuse_open_door(self) -> None:
        """Raises BadSettings where anybody on the network could call every object."""
        settings = self._settings
        if is_loopback(settings.host):
            return
        authorize = self._app.app.authorize if self._app.app is not None else None
        if authorize is not None:
            return
        if settings.insecure:
            click.echo(
                f"{click.style('warning:', fg='yellow', bold=True)} {settings.host} is served "
                "without an authorize (--insecure): whoever can reach it may call every object",
                err=True,
            )
            return
        raise BadSettings(
            f"{settings.host} is no loopback address, and the app has no authorize: whoever can "
            "reach it could call every object",
            hint="Give the app one: App([...], authorize=check). Or say that it is meant so: "
            "--insecure.",
        )

    # --- serving

    def _serve(self, listening: socket.socket) -> int:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._serve_until_stopped(listening))

    async def _serve_until_stopped(self, listening: socket.socket) -> int:
        from perdure.gateway.front import serve_front
        from perdure.gateway.handover import pass_sockets
        from perdure.gateway.http import Gateway
        from perdure.node import Node

        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        adopting = _Adopting(loop)
        self._link.watch(lambda: self._orphaned(loop, stop), adopting.from_thread)
        lost: list[OperatorError] = []

        def on_lost(error: OperatorError) -> None:
            lost.append(error)
            stop.set()

        settings = self._settings
        deaths = Deaths.load(_deaths_path(settings))
        slot = _slot(self._orders.slot_fd, deaths, loop)
        node = Node(
            self._app.classes,
            settings,
            slot=slot,
            deaths=deaths,
            on_lost=on_lost,
            objects=self._app.app.objects if self._app.app is not None else (),
            bundle=self._bundle,
            takes_over=self._orders.successor,
        )
        await node.start()
        authorize = self._app.app.authorize if self._app.app is not None else None
        gateway = Gateway(node.host, settings, authorize, ready=lambda: node.ready)
        front = await serve_front(gateway, sock=listening)
        adopting.begin(front)
        preparing: list[asyncio.Task[None]] = []
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: preparing.append(loop.create_task(self._prepare(node)))
        )
        self._link.say(self._ready(node))
        _beat(loop, slot)
        sampling = loop.create_task(_sample(node))
        await stop.wait()
        if lost:
            # Memory may be ahead of what is on disk, so nothing of it may be kept: the next
            # process begins with the disk. Who waits hears that the outcome is unknown.
            click.echo(f"perdure: the store is lost: {lost[0]}", err=True)
            await front.drain(_LOST_DRAIN_S)
            os._exit(_LOST)
        drain_s = settings.drain_timeout
        if preparing:
            front.pass_on = self._link.pass_on
        await front.drain(min(drain_s, _DEV_DRAIN_S) if self._orders.dev else drain_s)
        for task in (sampling, *preparing):
            task.cancel()
        await node.drain(hands_over=bool(preparing))
        if preparing:
            await pass_sockets(front, self._link.pass_on)
        self._link.say(Released())
        if preparing:
            # Whoever takes over has need of the processor; there is nothing left to tidy up.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        return 0

    async def _prepare(self, node: Node) -> None:
        """Write what a hand-over would have to write, while calls go on."""
        try:
            await node.host.checkpointer.run_down()
        except OperatorError as error:
            click.echo(f"perdure: a checkpoint failed: {error}", err=True)
        self._link.say(Prepared())

    def _ready(self, node: Node) -> Ready:
        from perdure.cli.banner import describe, example

        kinds = list(node.host.kinds.values())
        directory = _directory(self._settings)
        return Ready(
            hash_seed=os.environ.get("PYTHONHASHSEED", ""),
            data=str(directory) if directory is not None else "memory:",
            classes=[describe(kind) for kind in kinds],
            example=example(kinds),
        )

    def _orphaned(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """The supervisor is gone: drain, and see to it that this ends. In a thread of its own."""
        try:
            loop.call_soon_threadsafe(stop.set)
        except RuntimeError:
            return  # The loop is closed: it is ending already.
        time.sleep(self._settings.drain_timeout + _ORPHAN_GRACE_S)
        faulthandler.dump_traceback(all_threads=False)
        os._exit(1)


async def _sample(node: Node) -> None:
    """Warn if objects would not go over to this code."""
    from perdure.sight.sample import try_sample

    # What waited for the start has precedence.
    await asyncio.sleep(_SAMPLE_AFTER_S)
    try:
        await try_sample(node.host)
    except OperatorError as error:
        click.echo(f"perdure: the objects that are there could not be tried: {error}", err=True)


class _Adopting:
    """Takes up connections of the worker before; those that come too early wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._early: list[int] = []
        self._front: Front | None = None
        self._sockets: dict[int, Passed] = {}
        """What is known of WebSockets, by their numbers in the kernel."""
        self._tasks: set[asyncio.Task[None]] = set()

    def from_thread(self, fd: int) -> None:
        """One has come, to the thread that listens to the supervisor."""
        try:
            self._loop.call_soon_threadsafe(self._take, fd)
        except RuntimeError:
            os.close(fd)

    def begin(self, front: Front) -> None:
        """From now on they can be served."""
        self._front = front
        early, self._early = self._early, []
        for fd in early:
            self._take(fd)

    def _take(self, fd: int) -> None:
        from perdure.gateway.handover import read_passed

        if self._front is None:
            self._early.append(fd)
        elif self._front.draining:
            os.close(fd)
        elif stat.S_ISREG(os.fstat(fd).st_mode):
            self._sockets |= read_passed(fd)
        else:
            task = self._loop.create_task(self._adopt(self._front, fd))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _adopt(self, front: Front, fd: int) -> None:
        passed = self._sockets.pop(os.fstat(fd).st_ino, None)
        sock = socket.socket(fileno=fd)
        try:
            if passed is None:
                await front.adopt(sock)
            else:
                await front.adopt_socket(sock, passed)
        except OSError:
            sock.close()  # Its client has gone.


def _slot(fd: int, deaths: Deaths, loop: asyncio.AbstractEventLoop) -> TurnSlot:
    # Only after a death is there something to forgive, and the plain slot is faster.
    return ForgivingSlot(fd, deaths, loop.call_soon) if deaths.suspects() else TurnSlot(fd)


def _beat(loop: asyncio.AbstractEventLoop, slot: TurnSlot) -> None:
    slot.beat()
    loop.call_later(_BEAT_S, _beat, loop, slot)


def _merge(app: LoadedApp, orders: Orders) -> Settings:
    """Flags over what the code says, that over variables, and those over defaults."""
    if app.app is None:
        return load_settings(orders.flags)
    settings: Settings = dataclasses.replace(app.app.settings, **orders.flags)
    return settings


def _directory(settings: Settings) -> Path | None:
    """The data directory; None for a store without one."""
    if settings.store is None:
        return Path(settings.data).absolute()
    scheme, _, rest = settings.store.partition(":")
    return Path(rest).absolute() if scheme == "sqlite" and rest else None


def _deaths_path(settings: Settings) -> Path | None:
    directory = _directory(settings)
    return directory / DEATHS_FILE if directory is not None else None


if __name__ == "__main__":
    main()
