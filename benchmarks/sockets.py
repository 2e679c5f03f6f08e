"""The two ends of the figures of sessions.py: load from picows' client, and a bare picows server.

As a server: `python -m benchmarks.sockets PORT`; `/echo` sends each message back, anything else
sends it to all that are connected to the same path. It keeps nothing and promises nothing: the
yardstick for framing and system calls alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server

MESSAGE = b"x" * 32
_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


def cpu_us(pid: int) -> float:
    """CPU that a process has used."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(stat[11]) + int(stat[12])) * _TICK_US


# --- load


class _Counted(WSListener):
    """Counts what comes in, and sends anew what it is told to."""

    count = 0
    answers = True

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        _Counted.count += 1
        if _Counted.answers:
            transport.send(WSMsgType.TEXT, MESSAGE)


class _Joined(_Counted):
    def __init__(self) -> None:
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if not self.first.done():
            self.first.set_result(None)


async def _open(port: int, path: str, count: int) -> list[Any]:
    listeners = []
    for _ in range(count):
        _, listener = await ws_connect(_Counted, f"ws://127.0.0.1:{port}{path}")
        listeners.append(listener)
    await asyncio.sleep(0.3)
    return listeners


def echo(port: int, path: str, pid: int, connections: int, seconds: float) -> dict[str, float]:
    """Each connection has one message under way."""
    return _run(_load(port, path, pid, connections, seconds, senders=connections))


def broadcast(port: int, path: str, pid: int, connections: int, seconds: float) -> dict[str, float]:
    """A few connections talk, and each message goes to all."""
    _Counted.answers = False
    return _run(_load(port, path, pid, connections, seconds, senders=0))


async def _load(
    port: int, path: str, pid: int, connections: int, seconds: float, *, senders: int
) -> dict[str, float]:
    listeners = await _open(port, path, connections)
    for one in listeners[:senders]:
        one.transport.send(WSMsgType.TEXT, MESSAGE)
    talking = asyncio.create_task(_talk(listeners)) if not senders else None
    await asyncio.sleep(0.3)
    cpu, count, began = cpu_us(pid), _Counted.count, time.perf_counter()
    await asyncio.sleep(seconds)
    cpu, count = cpu_us(pid) - cpu, _Counted.count - count
    took = time.perf_counter() - began
    if talking is not None:
        talking.cancel()
    return {"rate": count / took, "cpu_us": cpu / max(count, 1)}


async def _talk(listeners: list[Any]) -> None:
    """Four messages are under way at any time: a room is never without work, nor flooded."""
    sent = 0
    while True:
        while sent * len(listeners) - _Counted.count < 4 * len(listeners):
            listeners[sent % len(listeners)].transport.send(WSMsgType.TEXT, MESSAGE)
            sent += 1
        await asyncio.sleep(0.0005)


def joins(port: int, paths: list[str]) -> list[float]:
    """Microseconds from the connect to the first message, one after the other."""
    return _run(_joins(port, paths))


async def _joins(port: int, paths: list[str]) -> list[float]:
    took = []
    for path in paths:
        began = time.perf_counter_ns()
        transport, listener = await ws_connect(_Joined, f"ws://127.0.0.1:{port}{path}")
        await listener.first
        took.append((time.perf_counter_ns() - began) / 1000)
        transport.disconnect()
        await transport.wait_disconnected()
    return took


def idle(port: int, paths: list[str], pid: int, seconds: float) -> float:
    """Bytes of the server's memory for each connection, when all is asleep."""
    return _run(_idle(port, paths, pid, seconds))


async def _idle(port: int, paths: list[str], pid: int, seconds: float) -> float:
    # An answer to each message of a room would breed more of them.
    _Counted.answers = False
    before = _resident(pid)
    for path in paths:
        await ws_connect(_Counted, f"ws://127.0.0.1:{port}{path}")
    await asyncio.sleep(seconds)
    return (_resident(pid) - before) / len(paths)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _run(main: Any) -> Any:
    logging.disable(logging.CRITICAL)
    return uvloop.run(main)


# --- the yardstick


_rooms: dict[str, set[WSTransport]] = {}


class _Echo(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, b"welcome")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


class _Room(WSListener):
    def __init__(self, path: str) -> None:
        self.room = _rooms.setdefault(path, set())

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.room.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.room.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        body = frame.get_payload_as_bytes()
        for one in self.room:
            one.send(WSMsgType.TEXT, body)


async def _serve(port: int) -> None:
    def listener(request: Any) -> WSListener:
        path = request.path.decode()
        return _Echo() if path == "/echo" else _Room(path)

    server = await ws_create_server(listener, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    _run(_serve(int(sys.argv[1])))
