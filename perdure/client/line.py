"""One connection to an object: a session on WebSockets that come and go.

A task of its own dials, reads, and dials again with growing, jittered pauses. What it received
waits in a bounded queue: while nobody reads it, the line is not read either, and the server sees a
slow consumer, as it should.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlencode

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from perdure.client.session import (
    SUBPROTOCOL,
    Data,
    Ephemeral,
    Message,
    Opened,
    PlainSession,
    ProtocolError,
    Session,
    message_of,
)
from perdure.errors import PerdureError, Unavailable
from perdure.serde import to_json

Status = Literal["connecting", "open", "waiting", "closed"]

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 15.0
_RECEIVED_MAX = 256
_UNACKNOWLEDGED_MAX = 10_000

_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


class ConnectionEnded(PerdureError):
    """The connection has ended and is not taken up again; `close_code` and `reason` say why."""

    code = "connection-ended"

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(f"the connection has ended: {close_code} {reason}".rstrip())
        self.close_code = close_code
        self.reason = reason


class Connection:
    """A connection to an object that outlives its line. Made by `RemoteObject.connect`.

    Iterate over it for the messages (`async for message in connection`); `send` to send one. It
    comes back by itself after a lost line or a restarted server, and misses nothing. Where that is
    not possible, since the server has given it up, a new one begins and `on_lost` is called with
    the messages of which nobody knows whether they had arrived.
    """

    def __init__(
        self,
        url: str,
        query: dict[str, Any],
        headers: Callable[[], dict[str, str]],
        refused: Callable[[int, bytes | bytearray], BaseException],
        *,
        on_status: Callable[[Status], None] | None = None,
        on_ephemeral: Callable[[Data], None] | None = None,
        on_lost: Callable[[list[Data]], None] | None = None,
        resumes: bool = True,
        max_size: int | None = None,
    ) -> None:
        self.status: Status = "connecting"
        self.on_status = on_status
        self.on_ephemeral = on_ephemeral
        self.on_lost = on_lost
        self._url = url
        self._query = query
        self._headers = headers
        self._refused = refused
        self._max_size = max_size
        self._session: Session | PlainSession = Session() if resumes else PlainSession()
        self._resumes = resumes
        self._received: asyncio.Queue[Data | None] = asyncio.Queue(_RECEIVED_MAX)
        self._flushing = asyncio.Lock()
        self._opened: asyncio.Future[None]
        self._to_send = asyncio.Event()
        self._settled = asyncio.Event()
        """Something was acknowledged, or has left; or nothing more will."""
        self._socket: ClientConnection | None = None
        self._error: BaseException | None = None
        self._leaving: tuple[int, str] | None = None
        self._task: asyncio.Task[None] | None = None

    # --- for its user

    @property
    def id(self) -> str:
        """`conn.id` on the server; it stays the same when the connection is taken up again."""
        return self._session.id

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._opened = loop.create_future()
        self._task = loop.create_task(self._run())
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Data:
        try:
            return await self.receive()
        except ConnectionEnded as ended:
            if ended.close_code in (1000, 1001):
                raise StopAsyncIteration from None
            raise

    async def receive(self) -> Data:
        """The next message. Raises ConnectionEnded at the end, or what ended it."""
        data = await self._received.get()
        if data is None:
            # For whoever asks again.
            self._received.put_nowait(None)
            assert self._error is not None
            raise self._error
        return data

    async def receive_json(self) -> Any:
        """The next message, read as JSON."""
        return msgspec.json.decode(await self.receive())

    async def send(self, data: Data) -> None:
        """Send a message; it is repeated until the server has it on disk.

        Returns at once, and waits only while too many are not acknowledged. Raises
        ConnectionEnded; TypeError and ValueError for what is no message.
        """
        data = message_of(data)
        self._check_open()
        while len(self._session.unacknowledged) >= _UNACKNOWLEDGED_MAX:
            self._settled.clear()
            await self._settled.wait()
            self._check_open()
        self._session.send(data)
        self._to_send.set()

    async def send_json(self, value: Any) -> None:
        """Send a value as JSON."""
        await self.send(to_json(value).decode())

    async def send_ephemeral(self, data: Data) -> None:
        """Send what may be lost, such as cursors; it is, while no line is up."""
        data = message_of(data)
        self._check_open()
        self._session.send_ephemeral(data)
        self._to_send.set()

    async def acknowledged(self) -> None:
        """Wait until the server has on disk what was sent. Raises ConnectionEnded."""
        while self._session.unacknowledged or self._session.outgoing:
            self._check_open()
            self._settled.clear()
            await self._settled.wait()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Leave: the connection ends at once."""
        task, self._task = self._task, None
        if task is None:
            return
        self._leaving = code, reason
        if self._socket is not None:
            await self._flush(self._socket)
            await self._socket.close(code, reason)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._end(ConnectionEnded(code, reason))

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error

    # --- the line

    async def _run(self) -> None:
        failures = 0
        try:
            while True:
                self._become("connecting")
                was_up = False
                try:
                    code, reason, was_up = await self._one_line()
                except InvalidStatus as refusal:
                    response = refusal.response
                    if response.status_code not in _TRY_AGAIN or not self._opened.done():
                        raise self._refused(response.status_code, response.body or b"") from None
                    code, reason = 1006, ""
                except (OSError, TimeoutError, WebSocketException) as error:
                    if not self._opened.done():
                        raise Unavailable(f"cannot reach {self._url}: {error}") from error
                    code, reason = 1006, str(error)
                unacknowledged = [data for _, data in self._session.unacknowledged]
                step = self._session.lost(code)
                if step == "ended" or self._leaving is not None:
                    raise ConnectionEnded(code, reason)
                if step == "anew":
                    if self.on_lost is not None:
                        self.on_lost(unacknowledged)
                    continue
                failures = 0 if was_up else failures + 1
                self._become("waiting")
                await asyncio.sleep(_pause_s(failures))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._end(error)

    async def _one_line(self) -> tuple[int, str, bool]:
        query = urlencode({**self._query, **self._session.query()}, doseq=True)
        async with dial(
            f"{self._url}?{query}" if query else self._url,
            subprotocols=[SUBPROTOCOL] if self._resumes else None,  # type: ignore[list-item]
            additional_headers=self._headers(),
            max_size=self._max_size,
            user_agent_header="perdure",
        ) as socket:
            self._socket = socket
            if not self._resumes:
                self._session.up = True
                self._is_open()
            sending = asyncio.create_task(self._keep_sending(socket))
            try:
                async for frame in socket:
                    await self._take(frame)
            except ConnectionClosed:
                pass
            finally:
                self._socket = None
                sending.cancel()
            return socket.close_code or 1006, socket.close_reason or "", self._session.up

    async def _take(self, frame: Data) -> None:
        try:
            event = self._session.receive(frame)
        except ProtocolError as error:
            raise ConnectionEnded(1002, f"the server speaks no {SUBPROTOCOL}: {error}") from None
        match event:
            case Opened():
                self._is_open()
            case Message(data):
                await self._received.put(data)
            case Ephemeral(data) if self.on_ephemeral is not None:
                self.on_ephemeral(data)
        self._settled.set()
        if self._session.outgoing:
            self._to_send.set()

    def _is_open(self) -> None:
        self._become("open")
        if not self._opened.done():
            self._opened.set_result(None)

    async def _keep_sending(self, socket: ClientConnection) -> None:
        try:
            while True:
                await self._flush(socket)
                self._to_send.clear()
                await self._to_send.wait()
        except ConnectionClosed:
            pass

    async def _flush(self, socket: ClientConnection) -> None:
        session = self._session
        # One at a time: who leaves sends the last frames behind those that are on their way.
        async with self._flushing:
            while session.outgoing and session.up:
                frames, session.outgoing = session.outgoing, []
                for frame in frames:
                    await socket.send(frame)
                self._settled.set()

    def _become(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            if self.on_status is not None:
                self.on_status(status)

    def _end(self, error: BaseException) -> None:
        if self._error is not None:
            return
        self._error = error
        if not self._opened.done():
            self._opened.set_exception(error)
            # Nobody may be waiting for it any more.
            self._opened.exception()
        if self._received.full():
            # The end comes behind what was received, for which there is room to the last place.
            unread, self._received = self._received, asyncio.Queue()
            while not unread.empty():
                self._received.put_nowait(unread.get_nowait())
        self._received.put_nowait(None)
        self._settled.set()
        self._become("closed")


def _pause_s(failures: int) -> float:
    longest = min(_FIRST_PAUSE_S * 2.0 ** min(failures, 16), _LONGEST_PAUSE_S)
    # After a restart everybody comes at the same moment: that is what the jitter is for.
    return longest * random.uniform(0.5, 1.0)
