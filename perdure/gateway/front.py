"""The own front: HTTP/1.1 on a listening socket, each connection an `http1.Connection`.

It serves what `perdure serve` serves, at a fifth of the cost of the ASGI face. One timer serves
all connections: each second it renews the Date, and every few seconds it sweeps over them for
clients that take too long, so that no request pays for a timer of its own.

A drain stops accepting, closes what is idle, and lets what has begun be answered (the last answer
of a connection says `Connection: close`). What still waits for its call at the end of the drain is
answered 504: the call itself goes on after the restart.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from perdure.clock import NS
from perdure.gateway.http import Gateway
from perdure.gateway.http1 import Connection
from perdure.gateway.websocket import Passed, WebSocket
from perdure.gateway.wire import date_line, result_head
from perdure.journal.identity import oid_of

# A chunk of bytes up to this size needs no limits checked: nothing in it can be over one.
_SMALL = 16 * 1024
_SWEEP_EVERY = 5
_ACCEPT_BACKLOG = 2048
# For the last answers of a drain to reach their sockets.
_LAST_WORDS_S = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take; beyond it the client is refused, or has to wait."""

    target_bytes_max: int = 16 * 1024
    head_bytes_max: int = 64 * 1024
    fields_max: int = 128
    in_flight_max: int = 64
    """Pipelined requests with the gateway at one time."""
    head_s: float = 20.0
    """A head that is not complete after this time is given up."""
    stall_s: float = 30.0
    """So is a body of which nothing came for this time,"""
    body_bytes_per_s: float = 4096.0
    """and one that comes more slowly than this, beyond the first `head_s` seconds."""
    idle_s: float = 75.0
    """A connection without a request is closed after this time."""
    stuck_s: float = 60.0
    """One whose client does not read its answers is cut off after this time, and one that its
    client has closed (its own half at least) while an answer is still to come."""
    linger_s: float = 5.0
    """How long a refused client is read from, so that it gets to see why."""


class Front:
    """All connections of one listening socket. Made by `serve_front`."""

    def __init__(self, gateway: Gateway, limits: Limits) -> None:
        self.gateway = gateway
        self.limits = limits
        self.body_bytes_max = gateway.settings.max_body_bytes
        self.upload_bytes_max = gateway.settings.upload_bytes_max
        self.small = min(_SMALL, self.body_bytes_max)
        self.in_flight_max = limits.in_flight_max
        self.loop = asyncio.get_running_loop()
        self.port = 0
        """The port it listens on."""
        self.draining = False
        self.pass_on: Callable[[int], None] | None = None
        """In a drain: takes connections between two requests, for a process that goes on."""
        self.connections: set[Connection] = set()
        self.sockets: set[WebSocket] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._ticks = 0
        self._renew()

    async def listen(self, sock: socket.socket | None, host: str, port: int) -> None:
        if sock is not None:
            self._server = await self.loop.create_server(
                lambda: Connection(self), sock=sock, backlog=_ACCEPT_BACKLOG
            )
        else:
            self._server = await self.loop.create_server(
                lambda: Connection(self), host, port, backlog=_ACCEPT_BACKLOG
            )
        name = self._server.sockets[0].getsockname()
        # A Unix socket's name is a path.
        self.port = name[1] if isinstance(name, tuple) else 0
        self._schedule()

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting and let what has begun be answered; True if all of it was in time."""
        assert self._server is not None
        self._server.close()
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        for websocket in list(self.sockets):
            if self.pass_on is None:
                websocket.restart()
            else:
                # What the client sends from now on is for the next worker to read.
                websocket.pause(True)
        if not self._is_empty():
            self._empty = self.loop.create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)
        whole = self._is_empty()
        for connection in list(self.connections):
            connection.give_up()
        if self._empty is not None:
            await asyncio.wait([self._empty], timeout=_LAST_WORDS_S)
        if self.pass_on is None:
            self.close()
        return whole

    async def adopt(self, sock: socket.socket) -> None:
        """Go on with a connection of a process that has gone."""
        await self.loop.connect_accepted_socket(lambda: Connection(self), sock)

    async def adopt_socket(self, sock: socket.socket, passed: Passed) -> None:
        """Go on with a WebSocket of a process that has gone. Raises OSError if its client has."""
        host = self.gateway.host
        kind = host.kinds.get(passed.kind)
        if kind is None or kind.hooks is None:
            sock.close()  # Nobody is there to talk to any more.
            return
        websocket = WebSocket(
            self,
            None,
            host.lines,
            kind,
            passed.key,
            oid_of(kind.name, passed.key),
            resumable=passed.resumable,
            websocket_key=b"",
            deflate=(passed.bits, "") if passed.bits else None,
        )
        websocket.take_up(passed)
        await self.loop.connect_accepted_socket(lambda: websocket, sock)

    def close(self) -> None:
        """Stop at once: connections that are left are cut off."""
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.transport.abort()
        for websocket in list(self.sockets):
            websocket.abort()

    # ---- for the connections ----

    def joined(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.gateway.connections += 1

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.gateway.connections -= 1
        if self._empty is not None and self._is_empty() and not self._empty.done():
            self._empty.set_result(None)

    # ---- for the sockets ----

    def socket_joined(self, socket: WebSocket) -> None:
        self.sockets.add(socket)
        self.gateway.connections += 1

    def socket_left(self, socket: WebSocket) -> None:
        self.sockets.discard(socket)
        self.gateway.connections -= 1
        if self._empty is not None and self._is_empty() and not self._empty.done():
            self._empty.set_result(None)

    def _is_empty(self) -> bool:
        return not (self.connections or (self.sockets and self.pass_on is None))

    # ---- time ----

    def tick(self) -> None:
        """A second has passed."""
        self._renew()
        self._ticks += 1
        if self._ticks % _SWEEP_EVERY == 0:
            for connection in list(self.connections):
                connection.sweep()
            for websocket in list(self.sockets):
                websocket.sweep()

    def _renew(self) -> None:
        clock = self.gateway.clock
        self.now = clock.monotonic()
        self.date = date_line(clock.now_ns() / NS)
        self.result_head = result_head(self.date)

    def _schedule(self) -> None:
        self._timer = self.loop.call_later(1.0, self._on_timer)

    def _on_timer(self) -> None:
        self._schedule()
        self.tick()


async def serve_front(
    gateway: Gateway,
    *,
    sock: socket.socket | None = None,
    host: str | None = None,
    port: int | None = None,
    limits: Limits | None = None,
) -> Front:
    """Serve a gateway on a socket that listens already, or on an address; returns at once.

    Without arguments, on the `host` and `port` of the settings. Raises OSError if the address
    cannot be had.
    """
    settings = gateway.settings
    front = Front(gateway, limits or Limits())
    await front.listen(
        sock,
        settings.host if host is None else host,
        settings.port if port is None else port,
    )
    return front
