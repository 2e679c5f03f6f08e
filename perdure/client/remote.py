"""A server over HTTP: its objects, their handlers, and what becomes of a call.

    async with perdure.connect("http://127.0.0.1:7373") as client:
        counter = client.at(Counter, "lobby")         # typed as Counter
        assert await counter.increment(2) == 2
        await client.at("Counter", "lobby").call("increment", by=2)

With the class at hand, arguments are checked before they leave and results become what their
annotations say; without it they are JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload
from urllib.parse import quote

import httpx
import msgspec

from perdure import errors
from perdure.client.line import Connection, Status
from perdure.client.session import Data
from perdure.errors import CallError, HandlerError, PerdureError, UnknownHandler
from perdure.failure import Failure, exception_of
from perdure.kind import Handler, Kind, kind_of
from perdure.object import Object
from perdure.ref import check_key
from perdure.serde import from_json, to_json

T = TypeVar("T", bound=Object)

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


def connect(
    url: str = "http://127.0.0.1:7373",
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Client:
    """A server: `async with perdure.connect("http://…") as client`.

    `headers` go with each request (`Authorization`, say). `timeout` is how many seconds to wait
    for an answer; a call that takes longer goes on (CallTimeout). Nothing is asked of the server
    yet.
    """
    return Client(url, headers=headers, timeout=timeout)


class Client:
    """A server and its objects. Made by `perdure.connect`; an async context manager."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.headers = dict(headers or {})
        self.timeout = timeout
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections to the server go."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    @overload
    def at(
        self,
        cls: type[T],
        key: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> T: ...

    @overload
    def at(
        self,
        cls: str,
        key: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> RemoteObject: ...

    def at(
        self,
        cls: type[T] | str,
        key: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> T | RemoteObject:
        """An object. With its class it is typed as one, by a class's name it has `call`.

        `idempotency_key` makes a call happen once, however often it is sent: where no answer came,
        it is asked for again. It is for one call. Raises InvalidKey.
        """
        made = RemoteObject(self, cls, key, idempotency_key, timeout or self.timeout)
        return made if isinstance(cls, str) else cast(T, made)

    async def result(self, call_id: str, *, wait: float | None = None) -> Any:
        """The result of a call that was sent. Raises what it raised, UnknownCall, and CallTimeout
        while it runs, after `wait` seconds (None: as long as it takes)."""
        clock = asyncio.get_running_loop().time
        end = None if wait is None else clock() + wait
        while True:
            left = 30.0 if end is None else min(30.0, max(0.0, end - clock()))
            path = f"/_perdure/calls/{quote(call_id, safe='')}?wait={left:.3f}"
            response = await self.request("GET", path)
            if response.status_code != 202:
                return response.json()
            if end is not None and clock() >= end:
                raise errors.CallTimeout(f"call {call_id} still runs")

    async def cancel(self, call_id: str) -> None:
        """Cancel a call. Raises UnknownCall."""
        await self.request("DELETE", f"/_perdure/calls/{quote(call_id, safe='')}")

    async def resolve(self, token: str, value: Any = None) -> None:
        """Resolve a promise. Raises UnknownPromise, Conflict, BadArguments."""
        path = f"/_perdure/promises/{quote(token, safe='')}"
        await self.request("POST", path, to_json(value))

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Ask the server once. Raises what the problem stands for; Unavailable or OutcomeUnknown
        where there is no answer."""
        try:
            response = await self._open().request(
                method, self.url + path, content=body, headers=self._sent(body, headers)
            )
        except httpx.TransportError as error:
            raise _no_answer(self.url, error) from error
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content)
        return response

    def _open(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(
                timeout=httpx.Timeout(10.0, read=None, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
                headers={"user-agent": "perdure"},
            )
        return self._http

    def _sent(self, body: bytes | None, headers: Mapping[str, str] | None) -> dict[str, str]:
        sent = {**self.headers, **(headers or {})}
        if body is not None:
            sent["content-type"] = "application/json"
        return sent


class RemoteObject:
    """An object on a server. Handlers are its attributes, or called by name."""

    def __init__(
        self,
        client: Client,
        cls: type[Object] | str,
        key: str,
        idempotency_key: str | None,
        timeout: float | None,
    ) -> None:
        self._client = client
        self._kind: Kind | None = None if isinstance(cls, str) else kind_of(cls)
        self._class_name = cls if isinstance(cls, str) else cls.__perdure_name__
        self._key = check_key(key)
        self._idempotency_key = idempotency_key
        self._timeout = timeout
        self._path = f"/{quote(self._class_name, safe='')}/{_segment(key)}"

    @property
    def key(self) -> str:
        """The object's own name."""
        return self._key

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{self!r} has no {name!r}: only handlers can be reached")
        if self._kind is None:
            return lambda *args, **kwargs: self.call(name, *args, **kwargs)
        handler = self._handler(name)
        go = self.stream if handler is not None and handler.streams else self.call
        return lambda *args, **kwargs: go(name, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self._class_name}/{self._key} at {self._client.url}>"

    async def call(self, handler: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a handler and wait for its result. Raises what it raises, as far as its class is
        known here; else HandlerError."""
        body = self._body(handler, args, kwargs)
        headers = self._headers()
        path = f"{self._path}/{quote(handler, safe='')}"
        pause = _FIRST_PAUSE_S
        while True:
            try:
                response = await self._client.request("POST", path, body, headers)
                return self._result(handler, response.content)
            except HandlerError as error:
                raise self._own_error(error) from None
            except (errors.OutcomeUnknown, errors.Unavailable, errors.Overloaded):
                # Only by a key can it be told from another call, and so be sent again.
                if self._idempotency_key is None:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def send(self, handler: str, /, *args: Any, **kwargs: Any) -> str:
        """Call a handler without waiting for its result; gives the id of the call, for
        `client.result`. Returns when the call is on disk."""
        body = self._body(handler, args, kwargs)
        headers = {**self._headers(), "prefer": "respond-async"}
        path = f"{self._path}/{quote(handler, safe='')}"
        response = await self._client.request("POST", path, body, headers)
        return str(response.json()["id"])

    async def stream(self, handler: str, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """The items of a handler that streams. A lost line is taken up where it was."""
        body = self._body(handler, args, kwargs)
        headers = {**self._headers(), "accept": "text/event-stream"}
        headers.setdefault("idempotency-key", uuid.uuid4().hex)
        url = f"{self._client.url}{self._path}/{quote(handler, safe='')}"
        last, pause = "", _FIRST_PAUSE_S
        while True:
            if last:
                headers["last-event-id"] = last
            try:
                async with self._client._open().stream(
                    "POST", url, content=body, headers=self._client._sent(body, headers)
                ) as response:
                    if response.status_code >= 400:
                        raise error_of(response.status_code, await response.aread())
                    async for event in _server_sent_events(response):
                        if event["event"] == "end":
                            return
                        if event["event"] == "error":
                            problem = event["data"].encode()
                            raise error_of(json.loads(problem)["status"], problem)
                        yield self._result(handler, event["data"].encode())
                        last, pause = event["id"], _FIRST_PAUSE_S
            except HandlerError as error:
                raise self._own_error(error) from None
            except (httpx.TransportError, errors.Unavailable, errors.Overloaded):
                pass
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def connect(
        self,
        *,
        resume: bool = True,
        on_status: Callable[[Status], None] | None = None,
        on_ephemeral: Callable[[Data], None] | None = None,
        on_lost: Callable[[list[Data]], None] | None = None,
        **query: Any,
    ) -> Connection:
        """A connection: `async with room.connect(name="ada") as connection`.

        `query` is the connection's, in `conn.query`. With `resume=False` it ends with its line.
        """
        scheme, _, rest = self._client.url.partition("://")
        return Connection(
            f"{'wss' if scheme == 'https' else 'ws'}://{rest}{self._path}",
            query,
            lambda: dict(self._client.headers),
            error_of,
            on_status=on_status,
            on_ephemeral=on_ephemeral,
            on_lost=on_lost,
            resumes=resume,
        )

    # --- values

    def _own_error(self, error: HandlerError) -> BaseException:
        """The exception as a class of the app, where the object's module has one of that name."""
        module = sys.modules.get(self._kind.cls.__module__) if self._kind is not None else None
        cls = getattr(module, error.error, None)
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            return error
        try:
            return cls(error.message)
        except TypeError:
            return error  # It is made of more than a text.

    def _handler(self, name: str) -> Handler | None:
        if self._kind is None:
            return None
        handler = self._kind.handlers.get(name)
        if handler is None:
            raise UnknownHandler(f"{self._class_name} has no handler {name!r}")
        return handler

    def _body(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        handler = self._handler(name)
        if handler is not None:
            handler.signature.bind(args, kwargs)
            if args and kwargs:
                names = iter(handler.signature.parameters)
                kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
                args = ()
        elif args and kwargs:
            raise TypeError("give arguments by name or by position; both need the object's class")
        return to_json(list(args) if args else kwargs)

    def _result(self, name: str, body: bytes) -> Any:
        handler = self._handler(name)
        return (
            msgspec.json.decode(body)
            if handler is None
            else from_json(body, handler.signature.returns)
        )

    def _headers(self) -> dict[str, str]:
        headers = {}
        if self._idempotency_key is not None:
            headers["idempotency-key"] = self._idempotency_key
        if self._timeout is not None:
            headers["perdure-timeout"] = f"{self._timeout:.3f}"
        return headers


def _segment(key: str) -> str:
    # A dot or two alone would be taken out of the URL on its way, as the folder that they name.
    return quote(key, safe="") if key.strip(".") else key.replace(".", "%2E")


async def _server_sent_events(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    event = {"event": "message", "id": "", "data": ""}
    async for line in response.aiter_lines():
        name, _, value = line.partition(":")
        if name:
            event[name] = value.removeprefix(" ")
        elif not line:
            if event["data"]:
                yield event
            event = {"event": "message", "id": "", "data": ""}


def error_of(status: int, body: bytes | bytearray) -> BaseException:
    """The exception that an answer stands for."""
    try:
        problem = json.loads(body)
        code, detail = problem["code"], problem.get("detail") or problem["title"]
    except (ValueError, TypeError, KeyError):
        text = body[:200].decode(errors="replace")
        return PerdureError(f"what answers there is no perdure server (status {status}): {text}")
    if code == HandlerError.code:
        failure = Failure(code, problem.get("error", ""), problem.get("message", detail))
        return exception_of(failure)
    if code == errors.BadArguments.code:
        found = [(one["path"], one["message"]) for one in problem.get("errors", ())]
        return errors.BadArguments(detail, errors=found)
    own = _BY_CODE.get(code)
    return own(detail, hint=problem.get("hint")) if own is not None else CallError(detail)


_BY_CODE: dict[str, Callable[..., PerdureError]] = {
    cls.code: cls
    for cls in vars(errors).values()
    if isinstance(cls, type)
    and issubclass(cls, PerdureError)
    and cls not in (HandlerError, errors.ResultTypeError, errors.BadArguments)
}


def _no_answer(url: str, error: httpx.TransportError) -> PerdureError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return errors.Unavailable(
            f"nobody answers at {url}: {error}", hint="Does it run? perdure serve APP"
        )
    return errors.OutcomeUnknown(
        f"{url} broke the connection: {error!r}; it may have happened",
        hint="With an idempotency_key a call can be sent again safely.",
    )
