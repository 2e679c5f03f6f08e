"""The resume protocol: the same Connection on another line, nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from perdure import Connection, Object, ephemeral
from tests.sessions.faces import Served, closing, faces, own_front, texts
from tests.sessions.resuming import Gone, ResumeClient


class Log(Object):
    """Everybody gets everything, numbered."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.gone: list[str] = []

    def on_connect(self, conn: Connection) -> None:
        conn.state["sent"] = 0

    def on_message(self, conn: Connection, text: str) -> None:
        if text == "bye":
            conn.close(4000, "bye")
            return
        conn.state["sent"] += 1
        self.lines.append(text)
        self.broadcast(f"{len(self.lines)} {text}")

    def on_disconnect(self, conn: Connection) -> None:
        self.gone.append(conn.id)

    @ephemeral
    def on_ephemeral(self, conn: Connection, text: str) -> Any:
        if not text.startswith("typing"):
            return NotImplemented
        self.broadcast(text, exclude=conn)
        return None

    async def add(self, text: str) -> None:
        self.lines.append(text)
        self.broadcast(f"{len(self.lines)} {text}")

    async def read(self) -> list[Any]:
        return [self.lines, self.gone, [conn.id for conn in self.connections]]

    async def tell(self, id: str, text: str) -> None:
        conn = self.connections.get(id)
        assert conn is not None
        conn.send(text.encode())


def client(served: Served, path: str = "/Log/a") -> ResumeClient:
    return ResumeClient(f"ws://127.0.0.1:{served.port}{path}")


@faces
async def test_a_lost_line_is_made_good(face: Any, tmp_path: Path) -> None:
    async with (
        face(tmp_path, Log, max_message_bytes=1000) as served,
        client(served) as one,
        client(served) as two,
    ):
        await one.send("first")
        await two.until(lambda: two.received == ["1 first"])
        one.cut()
        await served.call("/Log/a/add", {"text": "missed"})
        await served.call("/Log/a/tell", {"id": one.id, "text": "for you"})
        await one.until(lambda: len(one.received) == 3)
        assert one.received == ["1 first", "2 missed", b"for you"]
        assert one.lives == 2
        await one.send("x" * 1000)
        await two.until(lambda: len(two.received) == 3)
        await one.until(lambda: not one.unacknowledged)
        read = await served.call("/Log/a/read")
        assert read[1:] == [[], [one.id, two.id]]


@faces
async def test_what_is_sent_twice_is_handled_once(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Log) as served:
        async with served.connect("/Log/a", subprotocols=["perdure.v1"]) as line:
            _, token, grace, id_, resumed, received = str(await line.recv()).split()
            assert (float(grace), id_, resumed, received) == (30, "c1", "0", "0")
            for head in ("m 1", "m 2", "m 1", "m 2", "m 3 and words to come"):
                await line.send(f"{head}\n{head}")
            await line.send("ping a b\n")
            got: set[str] = set()
            while not {"ack 3", "pong a b"} <= {one.partition("\n")[0] for one in got}:
                got.add(str(await line.recv()))
            await line.send("m 5\nout of order")
            assert (await closing(line))[0] == 1002
        lines, gone, there = await served.call("/Log/a/read")
        assert lines == ["m 1", "m 2", "m 3 and words to come"]
        assert (gone, there) == (["c1"], [])
        with pytest.raises(Gone):
            back = client(served)
            back.token, back.id = token, id_
            async with asyncio.timeout(20):
                await back._run()


@faces
async def test_what_is_no_message_of_the_protocol(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Log) as served:
        for head in ("x", "m", "m 0", "m one", "m -1", "m 01", "", None):
            wrong = "no newline" if head is None else f"{head}\nx"
            async with served.connect("/Log/a", subprotocols=["perdure.v1"]) as line:
                await line.send(wrong)
                assert (await closing(line))[0] == 1002, wrong


@faces
async def test_ephemeral_messages_have_no_position(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Log) as served, client(served) as one, client(served) as two:
        await one.send_ephemeral("typing")
        await two.until(lambda: two.passing == ["typing"])
        await one.send_ephemeral("nobody takes this")
        await one.send("typing as well, but kept")
        await two.until(lambda: two.received == ["1 typing as well, but kept"])
        two.cut()
        await one.send_ephemeral("typing, unheard")
        await two.until(lambda: two.lives == 2)
        await one.send("after")
        await two.until(lambda: len(two.received) == 2)


@faces
async def test_the_newest_line_counts(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Log) as served, client(served) as one:
        url = f"/Log/a?resume={one.token}&at=0.0"
        async with served.connect(url, subprotocols=["perdure.v1"]) as other:
            assert str(await other.recv()).split()[4] == "1"
            with pytest.raises(Gone) as stopped:
                await one.until(lambda: False)
            assert stopped.value.args == (4409,)
            await served.call("/Log/a/add", {"text": "x"})
            assert str((await texts(other, 1))[0]).endswith("\n1 x")
        assert (await served.call("/Log/a/read"))[1] == [one.id]


@faces
async def test_a_token_that_means_nothing_is_4404(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Log) as served, client(served) as one, client(served, "/Log/b") as b:
        token = one.token
        forged = token[:-1] + ("A" if token[-1] != "A" else "B")
        for wrong in ("x", "", forged, b.token, token[4:], "é"):
            if not wrong:
                continue
            url = f"/Log/a?resume={wrong}&at=0.0"
            async with served.connect(url, subprotocols=["perdure.v1"]) as line:
                assert (await closing(line))[0] == 4404
        # A position that is not there yet: the store is an older one.
        async with served.connect(
            f"/Log/a?resume={token}&at=99.0", subprotocols=["perdure.v1"]
        ) as line:
            assert (await closing(line))[0] == 4404
        assert one.lives == 1
        # To a plain client it is a parameter like any other.
        async with served.connect("/Log/a?resume=x"):
            pass


class Named(Object):
    def on_connect(self, conn: Connection) -> None:
        conn.send(str(conn.principal))


@faces
async def test_only_who_was_connected_comes_back(face: Any, tmp_path: Path) -> None:
    def who(request: Any) -> dict[str, str]:
        return {"name": request.headers["x-name"]}

    options: dict[str, Any] = {"subprotocols": ["perdure.v1"]}
    async with face(tmp_path, Named, authorize=who) as served:
        ada = await served.connect("/Named/a", additional_headers={"X-Name": "ada"}, **options)
        token = str(await ada.recv()).split()[1]
        await texts(ada, 1)
        ada.transport.abort()
        url = f"/Named/a?resume={token}&at=0.0"
        async with served.connect(url, additional_headers={"X-Name": "eve"}, **options) as eve:
            assert (await closing(eve))[0] == 4404
        async with served.connect(url, additional_headers={"X-Name": "ada"}, **options) as back:
            assert str((await texts(back, 2))[1]).endswith("{'name': 'ada'}")


@faces
async def test_closing_and_leaving_end_it_for_good(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Log) as served:
        async with client(served) as one:
            await one.send("bye")
            with pytest.raises(Gone):
                await one.until(lambda: False)
        async with client(served) as two:
            pass
        await served.eventually("/Log/a/read", lambda read: read[1] == [one.id, two.id])


async def test_the_grace_time_ends(tmp_path: Path) -> None:
    async with own_front(tmp_path, Log, resume_grace=0.2) as served:
        async with served.connect("/Log/a", subprotocols=["perdure.v1"]) as line:
            token = str(await line.recv()).split()[1]
            line.transport.abort()
            await served.eventually("/Log/a/read", lambda read: read[1:] == [["c1"], []])
        url = f"/Log/a?resume={token}&at=0.0"
        async with served.connect(url, subprotocols=["perdure.v1"]) as line:
            assert (await closing(line))[0] == 4404


async def test_what_was_missed_long_ago_comes_out_of_history(tmp_path: Path) -> None:
    async with own_front(tmp_path, Log) as served, client(served) as one:
        await one.send("before")
        await one.until(lambda: one.received)
        one.cut()
        one._task.cancel()  # type: ignore[union-attr]
        for number in range(100):
            await served.call("/Log/a/add", {"text": f"t{number}"})
            if number % 40 == 20:
                await served.host.checkpointer.run()
                await served.hibernate()
        one._task = asyncio.create_task(one._run())
        await one.until(lambda: len(one.received) == 101)
        wanted = [f"{number + 2} t{number}" for number in range(100)]
        assert one.received == ["1 before", *wanted]


async def test_a_past_that_is_not_kept_cannot_be_resumed(tmp_path: Path) -> None:
    async with own_front(tmp_path, Log, history="none") as served, client(served) as one:
        await one.send("before")
        await one.until(lambda: one.received)
        one.cut()
        one._task.cancel()  # type: ignore[union-attr]
        for number in range(10):
            await served.call("/Log/a/add", {"text": f"t{number}"})
        await served.host.checkpointer.run()
        await served.call("/Log/a/add", {"text": "last"})
        with pytest.raises(Gone):
            await one._run()
        await served.eventually("/Log/a/read", lambda read: read[1] == [one.id])


async def test_lines_that_are_cut_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    count, sent = 12, 25
    async with own_front(tmp_path, Log, checkpoint_bytes=20_000) as served:
        clients = [client(served) for _ in range(count)]
        for one in clients:
            await one.__aenter__()

        async def talk(number: int) -> None:
            for message in range(sent):
                await clients[number].send(f"{number}:{message}")
                await asyncio.sleep(chance.random() * 0.01)

        async def cut() -> None:
            for _ in range(40):
                await asyncio.sleep(chance.random() * 0.02)
                one = chance.choice(clients)
                if one.line is not None:
                    one.cut()

        await asyncio.gather(*(talk(number) for number in range(count)), cut())
        for one in clients:
            await one.until(lambda one=one: len(one.received) == count * sent)
            assert one.received == clients[0].received
            assert not one.unacknowledged
        lines = (await served.call("/Log/a/read"))[0]
        assert [str(text).partition(" ")[2] for text in clients[0].received] == lines
        for number in range(count):
            own = [line for line in lines if line.startswith(f"{number}:")]
            assert own == [f"{number}:{message}" for message in range(sent)]
        for one in clients:
            await one.__aexit__()
