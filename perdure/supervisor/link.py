"""What supervisor and worker say to each other, over one socket pair.

The worker gets its `Orders` in the environment. It answers over the link, a JSON object a line:
`Loaded` once it knows its settings, whereupon the supervisor hands it the listening socket, then
`Ready` when it serves, or `Refused` when it will not; asked to make place for another worker, it
says `Prepared`, and `Released` in the end. The supervisor says nothing but that socket;
its end of the link closes when it is gone, however it went, and then the worker drains.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

_ORDERS = "PERDURE_WORKER_ORDERS"
FDS_MAX = 64
"""In one message; the kernel takes up to 253."""


@dataclass(slots=True)
class Orders:
    """What the worker is to serve."""

    app: str
    """`module:name`, `module` or a file."""
    flags: dict[str, Any]
    """Settings given on the command line; they win over those in the code."""
    dev: bool
    successor: bool = False
    """Another worker serves: import and be ready, and begin when the socket comes."""
    link_fd: int = -1
    slot_fd: int = -1

    def to_environ(self, environ: dict[str, str]) -> dict[str, str]:
        """The environment for the worker. Not its arguments: those anybody on the machine sees."""
        return {**environ, _ORDERS: json.dumps(asdict(self))}

    @classmethod
    def from_environ(cls) -> Orders:
        """The orders of this process, taken out of its environment."""
        return cls(**json.loads(os.environ.pop(_ORDERS)))


@dataclass(slots=True)
class Loaded:
    """The app is loaded: this is what the supervisor has to know of it."""

    host: str
    port: int
    turn_timeout: float
    drain_timeout: float
    deaths: str | None
    """Where deaths are recorded; None: the store is memory alone."""
    files: list[str]
    """The user's source files that were loaded."""


@dataclass(slots=True)
class Ready:
    """Requests are answered from now on."""

    hash_seed: str
    data: str
    """Where the data is, for people: a directory or `memory:`."""
    classes: list[dict[str, Any]] = field(default_factory=list)
    example: dict[str, Any] | None = None
    """A call to try: `class`, `handler`, `query`, `arguments`."""


@dataclass(slots=True)
class Refused:
    """The worker will not start with this app and these settings; it has said why on stderr."""

    code: str
    fixable: bool
    """A change of the user's code may mend it, so `perdure dev` may wait for one."""
    files: list[str]


@dataclass(slots=True)
class Prepared:
    """Little is left to write: a hand-over would be short."""


@dataclass(slots=True)
class Released:
    """The store is closed, and the next worker may have it."""


Message = Loaded | Ready | Refused | Prepared | Released

_KINDS: dict[str, type[Message]] = {
    "loaded": Loaded,
    "ready": Ready,
    "refused": Refused,
    "prepared": Prepared,
    "released": Released,
}


class SupervisorEnd:
    """The supervisor's end of the link."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._socket.setblocking(False)
        self._rest = b""
        self.connections: list[int] = []
        """Open connections that the worker has passed on, for the next one."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Iterator[Message]:
        """What the worker has said since the last time."""
        while True:
            try:
                got, fds, _, _ = socket.recv_fds(self._socket, 65536, FDS_MAX)
            except (BlockingIOError, ConnectionError):
                break
            self.connections += fds
            if not got:
                break
            *lines, self._rest = (self._rest + got).split(b"\n")
            for line in lines:
                if not line:
                    continue
                said = json.loads(line)
                yield _KINDS[said.pop("say")](**said)

    def hand_over(self, listening: socket.socket) -> None:
        """Give the worker the socket it accepts connections from."""
        try:
            socket.send_fds(self._socket, [b"."], [listening.fileno()])
        except OSError:
            pass  # It died meanwhile, which is noticed elsewhere.

    def pass_on(self, connections: list[int]) -> None:
        """Give the worker connections of the one before it; they are no longer ours."""
        self._socket.setblocking(True)
        for fd in connections:
            try:
                socket.send_fds(self._socket, [b"+"], [fd])
            except OSError:
                pass
            os.close(fd)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()
        for fd in self.connections:
            os.close(fd)
        self.connections = []


class WorkerEnd:
    """The worker's end of the link."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def say(self, message: Message) -> None:
        """Tell the supervisor; if it is gone, the watching thread learns that as well."""
        for name, kind in _KINDS.items():
            if isinstance(message, kind):
                line = json.dumps({"say": name, **asdict(message)}) + "\n"
                try:
                    self._socket.sendall(line.encode())
                except OSError:
                    pass

    def pass_on(self, fd: int) -> None:
        """Give a connection to the supervisor, for the worker that takes over; or a file that
        says something of those that follow."""
        try:
            # A line of nothing: file descriptors travel with bytes only.
            socket.send_fds(self._socket, [b"\n"], [fd])
        except OSError:
            pass

    def receive_socket(self) -> socket.socket | None:
        """The listening socket; None if the supervisor is gone."""
        try:
            got, fds, _, _ = socket.recv_fds(self._socket, 1, 1)
        except OSError:
            return None
        if not got or not fds:
            return None
        # Else a process that a step starts would hold the port open.
        os.set_inheritable(fds[0], False)
        return socket.socket(fileno=fds[0])

    def watch(
        self,
        on_gone: Callable[[], None],
        on_passed: Callable[[int], None] | None = None,
    ) -> None:
        """Call `on_gone`, in a thread of its own, when the supervisor is no more; and `on_passed`
        with each descriptor that the worker before has passed on."""

        def wait() -> None:
            try:
                while True:
                    got, fds, _, _ = socket.recv_fds(self._socket, 1, 1)
                    if not got:
                        break
                    for fd in fds:
                        os.set_inheritable(fd, False)
                        if on_passed is not None:
                            on_passed(fd)
                        else:
                            os.close(fd)
            except OSError:
                pass
            on_gone()

        threading.Thread(target=wait, name="perdure-supervisor-link", daemon=True).start()
