"""Where processes of single objects come from, and how the node hears that one has ended.

The node forks once, at its start and before there is a disk to hold: the **nursery**, a process
with the app's code and nothing else. It does no more than fork again when an object needs a
process, so such a start costs no import, has the node's own code and hash seed, and holds nothing
of the node's memory, files or sockets. The nursery ends with the node and takes its processes with
it: by the end of its socket, and on Linux by the kernel, whatever kills the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from perdure.errors import PerdureError, Unavailable

OUT_OF_MEMORY = 71
"""The exit code of a process that reached its memory limit."""

_REPORT = struct.Struct("<Qi")
_LENGTH = struct.Struct("<Q")
_GO = b"g"
_END_S = 5.0
_PR_SET_PDEATHSIG = 1


class ProcessEnded(Exception):
    """The process of an object is gone, and what it was asked for with it."""


class Refused(Exception):
    """The process could not do what it was asked for; it lives on."""


class Nursery:
    """The nursery as the node sees it."""

    def __init__(self, serve: Callable[[Link], None]) -> None:
        self._serve = serve
        """What a process of an object does, until its link ends."""
        self._control: socket.socket | None = None
        self._pid = 0
        self._known: set[int] = set()
        """Processes whose end somebody may ask for."""
        self._ends: dict[int, str] = {}
        self._awaited: dict[int, asyncio.Future[str]] = {}
        self._closed = False
        self.processes: set[Process] = set()
        self.started = 0

    def begin(self) -> None:
        """Fork it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        with warnings.catch_warnings():
            # Other threads may run in here. None of them is in the new process, which touches
            # nothing of theirs: it closes what it has from here and only ever forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                _nurse(theirs.fileno(), self._serve)
            finally:
                os._exit(1)
        theirs.close()
        ours.setblocking(False)
        self._control, self._pid = ours, pid
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    def _read(self) -> None:
        assert self._control is not None
        try:
            body = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            body = b""
        if not body:
            self._gone()
            return
        pid, status = _REPORT.unpack(body)
        self._ended(pid, _told(status))

    def _gone(self) -> None:
        """The nursery has ended, and all its processes with it; the next start makes another."""
        control, self._control = self._control, None
        if control is None:
            return
        asyncio.get_running_loop().remove_reader(control.fileno())
        control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        for pid in list(self._awaited):
            self._ended(pid, "its nursery was killed")

    def _ended(self, pid: int, how: str) -> None:
        future = self._awaited.pop(pid, None)
        if future is None:
            if pid in self._known:
                self._ends[pid] = how
        elif not future.done():
            future.set_result(how)

    async def start(self) -> Process:
        """A new process. Raises ProcessEnded."""
        if self._closed:
            raise Unavailable("the node is shutting down", hint="Try again in a moment.")
        if self._control is None:
            self.begin()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [_GO], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise ProcessEnded(f"it could not be started: {error}") from error
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        process = Process(self, reader, writer)
        try:
            process.pid = await process.receive()
        except ProcessEnded:
            process.end()
            raise ProcessEnded("it could not be started") from None
        self._known.add(process.pid)
        self.started += 1
        self.processes.add(process)
        return process

    def kill(self, pid: int) -> None:
        """End a process at once. By the nursery, which knows whether the number is still its."""
        if self._control is not None and pid:
            with contextlib.suppress(OSError):
                self._control.send(_LENGTH.pack(pid))

    def forget(self, process: Process) -> None:
        """Nobody is going to ask how it has ended."""
        self.processes.discard(process)
        self._known.discard(process.pid)
        self._ends.pop(process.pid, None)

    async def end_of(self, pid: int) -> str:
        """How a process has ended, in words."""
        how = self._ends.pop(pid, None)
        if how is not None:
            return how
        if self._control is None:
            return "its nursery was killed"
        future = self._awaited.setdefault(pid, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(_END_S):
                return await asyncio.shield(future)
        except TimeoutError:
            return "nobody knows how"

    async def close(self) -> None:
        """End it and all its processes; returns when they are gone."""
        self._closed = True
        for process in list(self.processes):
            process.end()
        control, self._control = self._control, None
        if control is None:
            return
        asyncio.get_running_loop().remove_reader(control.fileno())
        control.close()
        pid = self._pid
        await asyncio.get_running_loop().run_in_executor(None, _wait, pid)


def _wait(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _told(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == OUT_OF_MEMORY:
        return "it reached its memory_limit"
    if code == -signal.SIGXCPU:
        return "it reached its cpu_limit"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


class Process:
    """One object's process as the node sees it."""

    def __init__(
        self, nursery: Nursery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._nursery = nursery
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()
        self._why = ""
        self.pid = 0
        self.needs: Callable[[str, tuple[Any, ...]], Awaitable[Any]] = _nothing
        """Gives it what it asks of the store in the middle of its work."""

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended, while nobody asked it anything."""
        return self._reader.at_eof() and not self._lock.locked()

    async def ask(self, what: str, *args: Any, within_s: float | None = None) -> Any:
        """Have it do something; it is killed if that takes longer.

        Raises ProcessEnded, Refused, and what the process reports as a PerdureError.
        """
        async with self._lock:
            timer = None
            if within_s is not None:
                timer = asyncio.get_running_loop().call_later(within_s, self._overdue, within_s)
            try:
                return await self._ask(what, args)
            finally:
                if timer is not None:
                    timer.cancel()

    async def _ask(self, what: str, args: tuple[Any, ...]) -> Any:
        await self._send((what, args))
        while True:
            kind, told = await self.receive()
            if kind == "done":
                return told
            if kind == "failed":
                if isinstance(told, PerdureError):
                    raise told
                raise Refused(told)
            try:
                reply = "done", await self.needs(kind, told)
            except PerdureError as error:
                reply = "failed", error
            await self._send(reply)

    async def _send(self, message: Any) -> None:
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._writer.write(_LENGTH.pack(len(body)) + body)
            await self._writer.drain()
        except (OSError, RuntimeError):
            # uvloop raises RuntimeError for a socket that it has closed.
            await self._is_gone()

    async def receive(self) -> Any:
        """Its next message. Raises ProcessEnded."""
        try:
            size = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))[0]
            return pickle.loads(await self._reader.readexactly(size))
        except (OSError, EOFError):
            await self._is_gone()

    async def _is_gone(self) -> NoReturn:
        how = await self._nursery.end_of(self.pid) if self.pid else "it was not started"
        raise ProcessEnded(self._why or how)

    def _overdue(self, within_s: float) -> None:
        self._why = f"its turn did not end within {within_s:g} s (turn_timeout)"
        self._nursery.kill(self.pid)

    def end(self) -> None:
        """It is needed no longer, or its memory is not to be believed."""
        self._nursery.forget(self)
        self._nursery.kill(self.pid)
        self._writer.close()


async def _nothing(what: str, args: tuple[Any, ...]) -> Any:
    raise Refused(what)


# --- in the nursery


def _nurse(control_fd: int, serve: Callable[[Link], None]) -> NoReturn:
    """Fork when told to, tell how each has ended, and end with the node."""
    _leave_parent(control_fd)
    control = socket.socket(fileno=control_fd)
    children: set[int] = set()
    # By a socket and not in the handler: a signal just before a wait would not end the wait.
    rung, bell = socket.socketpair()
    rung.setblocking(False)
    bell.setblocking(False)
    signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control, rung], [], [])
        if rung in ready:
            with contextlib.suppress(BlockingIOError):
                rung.recv(4096)
            _reap(control, children)
        if control not in ready:
            continue
        try:
            body, fds, _, _ = socket.recv_fds(control, 64, 1)
        except OSError:
            body, fds = b"", []
        if not body:
            break
        if fds:
            _fork(control_fd, fds[0], children, serve)
        elif (pid := _LENGTH.unpack(body)[0]) in children:
            # Not yet reaped, so the number is nobody else's.
            os.kill(pid, signal.SIGKILL)
    for pid in children:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    os._exit(0)


def _reap(control: socket.socket, children: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            children.discard(ended[0])
            with contextlib.suppress(OSError):
                control.send(_REPORT.pack(*ended))


def _fork(control_fd: int, fd: int, children: set[int], serve: Callable[[Link], None]) -> None:
    try:
        pid = os.fork()
    except OSError:
        pid = -1  # The node sees the end of its socket, and says so.
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _be_object(control_fd, fd, serve)
    if pid > 0:
        children.add(pid)
    os.close(fd)


def _leave_parent(keep: int) -> None:
    """Hold nothing of the node: no file, no socket, no lock, no signal handler."""
    asyncio._set_running_loop(None)
    gc.freeze()
    with contextlib.suppress(ValueError, OSError):
        signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C on a terminal is for the node, which drains.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.closerange(3, keep)
    os.closerange(keep + 1, 65536)
    _die_with_parent()


def _die_with_parent() -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_object(control_fd: int, fd: int, serve: Callable[[Link], None]) -> NoReturn:
    try:
        os.close(control_fd)
        _die_with_parent()
        link = Link(socket.socket(fileno=fd))
        link.send(os.getpid())
        serve(link)
    except (EOFError, OSError):
        os._exit(0)  # The node has let go of it.
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException:
        with contextlib.suppress(Exception):
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)
    os._exit(0)


class Link:
    """The node as the process of an object sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, message: Any) -> None:
        """Raises what pickle raises, with nothing sent."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._socket.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self) -> Any:
        """The next message. Raises EOFError when the node has closed its end."""
        size = _LENGTH.unpack(self._exactly(_LENGTH.size))[0]
        return pickle.loads(self._exactly(size))

    def need(self, what: str, *args: Any) -> Any:
        """Something that the node has to give; for as long, the node waits for nothing else."""
        self.send((what, args))
        kind, told = self.receive()
        if kind == "failed":
            raise told
        return told

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._socket.recv(min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
