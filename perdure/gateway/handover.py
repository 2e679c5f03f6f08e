"""WebSockets that stay open while one worker takes over from another.

The worker that stops has read nothing more from them since it began to drain, and all that its
objects sent has left. So what there is to know of a socket is little: whose it is, and what of a
frame has come already. It goes ahead of the sockets in a file, by the socket's number in the
kernel, which is the same in both processes. A client notices nothing.

What cannot be passed on (a message in fragments, a client that does not read) ends with 1012.
"""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from perdure.gateway.websocket import Passed, WebSocket

if TYPE_CHECKING:
    from perdure.gateway.front import Front

# For what is on its way to the clients.
_LAST_BYTES_S = 1.0
_LOOK_S = 0.01
# Descriptors that the supervisor has need of besides.
_SPARE = 64


async def pass_sockets(front: Front, pass_on: Callable[[int], None]) -> None:
    """Pass on all sockets that can be; the host has stopped, and everything it did is on disk."""
    for _ in range(round(_LAST_BYTES_S / _LOOK_S)):
        if not any(socket.is_writing() for socket in front.sockets):
            break
        await asyncio.sleep(_LOOK_S)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE
    chosen: dict[int, tuple[WebSocket, Passed]] = {}
    left = 0
    for socket in list(front.sockets):
        passed = socket.to_pass() if len(chosen) < most else None
        if passed is None:
            socket.restart()
            left += 1
        else:
            chosen[os.fstat(socket.fileno()).st_ino] = socket, passed
    with tempfile.TemporaryFile() as file:
        file.write(write_passed({number: passed for number, (_, passed) in chosen.items()}))
        file.flush()
        pass_on(file.fileno())
        for socket, _ in chosen.values():
            pass_on(socket.fileno())
            socket.let_go()
    if left:
        # For their close frames.
        await asyncio.sleep(_LOOK_S)
    front.close()


write_passed = msgspec.json.Encoder().encode
_read = msgspec.json.Decoder(dict[int, Passed]).decode


def read_passed(fd: int) -> dict[int, Passed]:
    """What is known of the sockets that follow, by their numbers in the kernel."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return _read(file.read())
