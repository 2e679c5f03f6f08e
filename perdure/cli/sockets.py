"""`perdure connect` and `perdure tail`: an object's socket on the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from contextlib import AsyncExitStack, suppress
from typing import Any

import click

from perdure.cli.client import remote
from perdure.cli.output import Complaint, WrongUse, examples
from perdure.client import Connection, ConnectionEnded
from perdure.client import connect as server_at
from perdure.client.line import Status
from perdure.client.session import Data
from perdure.errors import PerdureError
from perdure.ref import parse_address

_ARGUMENTS = {"ignore_unknown_options": True}


@click.command(
    context_settings=_ARGUMENTS,
    epilog=examples(
        "perdure connect Room/lobby name=ada",
        "echo hello | perdure connect Room/lobby name=ada",
    ),
)
@click.argument("address")
@click.argument("query", nargs=-1)
@click.option("--plain", is_flag=True, help="Like any WebSocket: end when the line is lost.")
@remote
def connect(
    address: str, query: tuple[str, ...], plain: bool, url: str, token: str | None, as_json: bool
) -> None:
    """Connect to an object: what it sends is printed, each line that is typed is sent.

    QUERY is `name=value …`, the connection's query. A lost line is taken up again and nothing is
    missed. From a pipe, it ends when all that was sent is on disk.
    """
    _run(_Talk(address, query, url, token, as_json=as_json, resumes=not plain, listens_only=False))


@click.command(
    context_settings=_ARGUMENTS,
    epilog=examples("perdure tail Room/lobby", "perdure tail Room/lobby name=watcher --json | jq"),
)
@click.argument("address")
@click.argument("query", nargs=-1)
@remote
def tail(address: str, query: tuple[str, ...], url: str, token: str | None, as_json: bool) -> None:
    """Print what an object sends to its connections, from now on, until Ctrl-C.

    It is a connection like any other (`on_connect` runs for it) that says nothing.
    """
    _run(_Talk(address, query, url, token, as_json=as_json, resumes=True, listens_only=True))


def _run(talk: _Talk) -> None:
    try:
        asyncio.run(talk.run())
    except ConnectionEnded as ended:
        if ended.close_code != 1000:
            raise Complaint(
                f"{talk.address} has closed the connection: {ended.close_code} {ended.reason}",
                code="connection-ended",
            ) from None
        if not talk.as_json:
            _say(f"closed {ended.reason}".rstrip())


class _Talk:
    def __init__(
        self,
        address: str,
        query: tuple[str, ...],
        url: str,
        token: str | None,
        *,
        as_json: bool,
        resumes: bool,
        listens_only: bool,
    ) -> None:
        self.address = address
        self.as_json = as_json
        self._class_name, self._key = parse_address(address)
        self._query = _read_query(query)
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._resumes = resumes
        self._listens_only = listens_only
        self._was_lost = False

    async def run(self) -> None:
        """Print and send until either side has had enough."""
        async with server_at(self._url, headers=self._headers) as client:
            connection = client.at(self._class_name, self._key).connect(
                resume=self._resumes,
                on_status=self._status,
                on_ephemeral=self._print,
                on_lost=self._lost,
                **self._query,
            )
            async with AsyncExitStack() as stack:
                await self._open(connection, stack)
                sending = asyncio.create_task(self._send_lines(connection))
                printing = asyncio.create_task(self._print_all(connection))
                done, _ = await asyncio.wait(
                    [printing] if self._listens_only else [sending, printing],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                sending.cancel()
                if printing not in done:
                    await connection.close()
                    with suppress(ConnectionEnded):
                        await printing
                for task in done:
                    task.result()

    async def _open(self, connection: Connection, stack: AsyncExitStack) -> None:
        try:
            await stack.enter_async_context(connection)
        except PerdureError:
            raise
        except Exception as error:
            # What on_connect raises arrives as the same type.
            raise Complaint(
                f"{self.address} takes no connection: {type(error).__name__}: {error}",
                code="handler-error",
            ) from None

    async def _print_all(self, connection: Connection) -> None:
        while True:
            self._print(await connection.receive())

    def _print(self, data: Data) -> None:
        if self.as_json:
            shown: Any = data if isinstance(data, str) else {"bytes": data.hex()}
            if isinstance(data, str):
                with suppress(ValueError):
                    shown = json.loads(data)
            click.echo(json.dumps(shown, ensure_ascii=False))
        elif isinstance(data, str):
            click.echo(data)
        else:
            click.echo(f"({len(data)} bytes) {data[:64].hex(' ')}")

    async def _send_lines(self, connection: Connection) -> None:
        if self._listens_only:
            return
        async for line in _lines():
            await connection.send(line)
        await connection.acknowledged()

    def _status(self, status: Status) -> None:
        if self.as_json:
            return
        if status == "waiting":
            self._was_lost = True
            _say("the line is lost; trying again")
        elif status == "open":
            _say("back again" if self._was_lost else f"connected to {self.address}")

    def _lost(self, unacknowledged: list[Data]) -> None:
        _say("the connection could not be taken up again; this is a new one")
        for data in unacknowledged:
            _say(f"perhaps not received: {data!r}")


def _say(text: str) -> None:
    click.echo(click.style(text, dim=True), err=True)


def _read_query(given: tuple[str, ...]) -> dict[str, str]:
    query: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals) or name.startswith("-"):
            raise WrongUse(f"{one!r} is no name=value", hint="As in: perdure connect Room/a name=b")
        query[name] = value
    return query


async def _lines() -> Any:
    """Lines from stdin, read in a thread: a terminal, a pipe and a file are all the same to it."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(arrived.put_nowait, line.rstrip("\n"))
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(arrived.put_nowait, None)

    # A daemon: it stands in a read that nothing can interrupt.
    threading.Thread(target=read, daemon=True).start()
    while (line := await arrived.get()) is not None:
        yield line
