"""Long bodies and kill -9: whoever read one is told once that the rest will not come."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from tests.crash.conftest import Server, wait_until

pytestmark = [pytest.mark.crash]

MB = 1024 * 1024


def begin(server: Server, key: str, length: int, body: bytes) -> socket.socket:
    """A client that has sent the head of a request and some of its body."""
    client = socket.create_connection(("127.0.0.1", server.port))
    head = f"PUT /Depot/{key}/file HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def read(server: Server, key: str) -> Any:
    return server.call(f"/Depot/{key}/read")


def checkpoints(server: Server) -> float:
    client = server.client()
    lines = client.get("/_perdure/metrics").body.decode().splitlines()
    client.close()
    (line,) = (one for one in lines if one.startswith("perdure_checkpoints_total"))
    return float(line.split()[-1])


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("alone", [False, True], ids=["all at once", "the worker alone"])
def test_each_body_that_is_cut_off_is_told_once(
    serve: Any, checkpointed: bool, alone: bool
) -> None:
    server = serve("uploads.py", "--checkpoint-seconds", "0.2" if checkpointed else "600")
    server.start()
    keys = ["a", "b", "c"]
    with contextlib.ExitStack() as stack:
        for key in keys:
            stack.enter_context(begin(server, key, 5 * MB, b"x" * MB))
        with begin(server, "d", MB, b"x" * MB) as complete:
            assert complete.recv(1000).startswith(b"HTTP/1.1 200")
        for key in keys:
            wait_until(lambda key=key: read(server, key)[0] == MB, "what was sent is taken")
        before = checkpoints(server)
        if checkpointed:
            wait_until(lambda: checkpoints(server) > before, "it is checkpointed")
        if alone:
            assert server.kill_worker()
            server.wait_ready()
        else:
            server.kill()
            server.start()
        for key in keys:
            wait_until(lambda key=key: read(server, key)[1], "it is told")
    for _ in range(2):
        for key in keys:
            assert read(server, key) == [MB, ["cut off"]]
        assert read(server, "d") == [MB, ["whole"]]
        server.kill()
        server.start()


def test_a_stop_waits_for_a_body_and_then_cuts_it_off(serve: Any) -> None:
    server = serve("uploads.py", "--drain-timeout", "1")
    server.start()
    with begin(server, "a", 5 * MB, b"x" * MB) as client:
        wait_until(lambda: read(server, "a")[0] == MB, "what was sent is taken")
        server.stop()
        assert b" 504 " in client.recv(1000)
    server.start()
    wait_until(lambda: read(server, "a")[1], "it is told")
    assert read(server, "a") == [MB, ["cut off"]]
