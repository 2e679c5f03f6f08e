"""However a stream of requests is cut into pieces, the answers are the same."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.gateway.front import Front, Limits
from perdure.gateway.http import Gateway
from perdure.gateway.http1 import Connection
from perdure.settings import Settings
from tests.gateway.fakes import FakeClock, FakeHost, get, post

CHUNKED = (
    b"POST /Counter/c/increment HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'4;e=1\r\n{"by\r\n5\r\n": 2}\r\n0\r\nTrailer: x\r\n\r\n'
)
REQUESTS = [
    post("/Counter/a/increment", '{"by": 2}'),
    post("/Counter/b/increment", "", "Connection: keep-alive"),
    post("/Counter/a/label", b'"' + b"x" * 3000 + b'"'),
    post("/Counter/a/label", b"y" * 5000),
    get("/Counter/a/plus?by=3&tags=a"),
    get("/Counter/a/read", method="HEAD"),
    get("/nothing/at/all", "X-Special: 1"),
    CHUNKED,
]
LAST = [
    b"",
    b"nonsense\r\n\r\n",
    post("/Counter/z/increment", "", "Connection: close") + REQUESTS[0],
    b"GET /Counter/a/read HTTP/1.0\r\n\r\n",
    get("/Counter/z/read", "Connection: Upgrade", "Upgrade: h2c") + REQUESTS[0],
]


class FakeTransport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    write_eof = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)


async def answers(pieces: list[bytes], *, later: list[int] | None = None) -> tuple[bytes, bool]:
    """What is written for a stream in these pieces, and whether the connection is ended."""
    fake: Any = FakeHost()
    fake.holding = later is not None
    front = Front(Gateway(fake, Settings(max_body_bytes=4000), clock=FakeClock()), Limits())
    connection, transport = Connection(front), FakeTransport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    for piece in pieces:
        connection.data_received(piece)
    waiting = list(fake.calls)
    for place in later or []:
        if waiting:
            fake.answer(waiting.pop(place % len(waiting)))
    for call in waiting if later is not None else []:
        fake.answer(call)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    return transport.written, transport.closed


@given(
    requests=st.lists(st.sampled_from(REQUESTS), max_size=6),
    last=st.sampled_from(LAST),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    later=st.none() | st.lists(st.integers(0, 10), max_size=8),
)
def test_the_answers_are_the_same(
    requests: list[bytes], last: bytes, cuts: list[int], later: list[int] | None
) -> None:
    # What comes after a body that is too large is not read, so it ends the stream.
    stream = b"".join(requests) + last
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]

    async def compare() -> None:
        whole = await answers([stream])
        assert await answers(pieces, later=later) == whole
        assert await answers([stream[n : n + 1] for n in range(len(stream))]) == whole

    asyncio.run(compare())


@given(
    noise=st.lists(
        st.binary(max_size=50) | st.sampled_from(REQUESTS + LAST[1:]), min_size=1, max_size=10
    )
)
def test_noise_is_survived(noise: list[bytes]) -> None:
    asyncio.run(answers(noise))
    asyncio.run(answers(noise, later=[3, 1]))
