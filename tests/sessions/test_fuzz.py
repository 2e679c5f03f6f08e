"""Whatever a client sends: no error of the server's own, no hang, a close code that says why."""

from __future__ import annotations

import asyncio
import os
import random
import resource
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from perdure import Connection, Object, ephemeral
from tests.sessions.faces import faces, own_front, texts
from tests.sessions.test_framing import HANDSHAKE, frame

_CODES = {1000, 1002, 1003, 1007, 1009, 1011}


class Anything(Object):
    """Takes JSON, keeps some of it."""

    kept: list[Any] = []

    @ephemeral
    def on_ephemeral(self, conn: Connection, data: list[int]) -> Any:
        return None if sum(data) % 2 else NotImplemented

    async def on_message(self, conn: Connection, data: dict[str, int] | list[int]) -> None:
        self.kept = [*self.kept[-10:], data]
        conn.send_json(data)


class Echo(Object):
    def on_message(self, conn: Connection, data: str | bytes) -> None:
        conn.send(data)


def some_message(chance: random.Random) -> str | bytes:
    pieces = ['{"a":', "1", "}", "[1,2]", "null", '"', "\x00", "\N{SNOWMAN}", "m 1\n", "e\n", "{}"]
    text = "".join(chance.choices(pieces, k=chance.randrange(6)))
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(40))
    return "m 1\n" + text if chance.random() < 0.3 else text


@faces
@pytest.mark.parametrize("protocols", [None, ["perdure.v1"]], ids=["plain", "v1"])
async def test_messages_at_random(face: Any, protocols: Any, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with face(tmp_path, Anything, Echo) as served:
        for _ in range(40):
            kind = chance.choice(["Anything", "Echo"])
            async with served.connect(f"/{kind}/a", subprotocols=protocols) as client:
                try:
                    for _ in range(chance.randrange(1, 8)):
                        await client.send(some_message(chance))
                except ConnectionClosed:
                    pass
                await client.close()
                assert client.close_code in _CODES, (client.close_code, client.close_reason)
        problems = served.host.quarantine.objects
        assert not problems


@faces
async def test_upgrades_at_random(face: Any, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pieces = ["Echo", "a", "/", "%2F", "%00", "%ff", "?", "resume=x", "&at=1.1", "at=-1", "é", ".."]
    async with face(tmp_path, Echo) as served:
        for _ in range(60):
            path = "/" + "".join(chance.choices(pieces, k=chance.randrange(7)))
            protocols = chance.choice([None, ["perdure.v1"], ["x", "perdure.v1"]])
            status = 101
            try:
                async with connect(
                    f"ws://127.0.0.1:{served.port}{path}", subprotocols=protocols
                ) as client:
                    await client.close()
            except InvalidStatus as refused:
                status = refused.response.status_code
            assert status < 500, path


async def test_bytes_at_random(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with own_front(tmp_path, Echo) as served:
        for _ in range(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            firsts = [0x81, 0x82, 0x89, 0x01, 0x80, 0x8A]
            good = b"".join(
                frame(chance.choice(firsts), b"x" * chance.randrange(9))
                for _ in range(chance.randrange(4))
            )
            writer.write(HANDSHAKE + good + chance.randbytes(chance.randrange(60)))
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(20):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 101 ")
            writer.close()
        # It serves on.
        async with served.connect("/Echo/a") as client:
            await client.send("still")
            assert await texts(client, 1) == ["still"]


@pytest.mark.slow
async def test_five_thousand_idle_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Both ends of each are in this process.
    wanted = 5000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * wanted + 500), hard))
    room = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2
    count = min(wanted, room)
    assert count >= 100, "too few files may be open to try anything"
    try:
        async with own_front(tmp_path, Echo, ping_interval=3600.0) as served:
            ends = []
            for number in range(count):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(HANDSHAKE.replace(b"/Echo/a", b"/Echo/%d" % (number % 50)))
                await reader.readuntil(b"\r\n\r\n")
                ends.append((reader, writer))
            assert len(served.front.sockets) == count
            await served.hibernate()
            for number in random.sample(range(count), 200):
                reader, writer = ends[number]
                body = os.urandom(20)
                writer.write(frame(0x82, body))
                assert await reader.readexactly(22) == b"\x82\x14" + body
            for _, writer in ends:
                writer.transport.abort()
            async with asyncio.timeout(120):
                while served.front.sockets or served.host.lines.open:
                    await asyncio.sleep(0.05)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
