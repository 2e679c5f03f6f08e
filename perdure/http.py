"""HTTP as a step: `from perdure import http`, then `r = await http.get(url)` inside a handler.

The functions are shaped as those of httpx, which does the work. Inside an object each request is a
step: made outside the turn, at least once, with the step's id as `Idempotency-Key`; what came back
is recorded once, as a plain value that can be kept. Elsewhere, and inside of other steps, it is
simply a request. Connections are pooled for each event loop and closed when the node drains.
"""

from __future__ import annotations

import asyncio
import codecs
import json as _json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from perdure import attempt as within
from perdure.inside import inside
from perdure.steps import Retry, Seconds, at_drain, run_with, step

__all__ = [
    "HTTPStatusError",
    "Response",
    "ServerSentEvent",
    "aclose",
    "configure",
    "delete",
    "events",
    "get",
    "head",
    "lines",
    "options",
    "patch",
    "post",
    "put",
    "request",
    "stream",
]

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that are tried again where a request has a Retry."""

STREAM_TIMEOUT = httpx.Timeout(5.0, read=300.0)
"""For streams, where nothing else is said: a model may think for a while between two tokens."""

_ERROR_BODY_MAX = 64 * 1024


# --- what comes back


@dataclass(frozen=True)
class Response:
    """An answer as a value: it is recorded, and can be kept, sent and compared."""

    status_code: int
    raw_headers: tuple[tuple[str, str], ...] = field(repr=False)
    """In the order in which they came."""
    content: bytes = field(repr=False)
    url: str
    """Where it came from, behind redirects."""
    method: str = "GET"
    reason_phrase: str = ""
    http_version: str = "HTTP/1.1"

    @property
    def headers(self) -> httpx.Headers:
        """A mapping that takes no notice of case."""
        return httpx.Headers(list(self.raw_headers))

    @property
    def encoding(self) -> str:
        """The charset that the answer claims, or UTF-8."""
        kind = Message()
        kind["content-type"] = self.headers.get("content-type", "")
        charset = str(kind.get_param("charset") or "utf-8")
        try:
            return codecs.lookup(charset).name
        except LookupError:
            return "utf-8"

    @property
    def text(self) -> str:
        """The body as text; what does not decode is replaced."""
        return self.content.decode(self.encoding, "replace")

    def json(self, **kwargs: Any) -> Any:
        """The body as JSON. Raises json.JSONDecodeError."""
        return _json.loads(self.content, **kwargs)

    @property
    def is_informational(self) -> bool:
        return 100 <= self.status_code <= 199

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code <= 299

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status_code <= 399

    @property
    def is_client_error(self) -> bool:
        return 400 <= self.status_code <= 499

    @property
    def is_server_error(self) -> bool:
        return 500 <= self.status_code <= 599

    @property
    def is_error(self) -> bool:
        return 400 <= self.status_code <= 599

    def raise_for_status(self) -> Response:
        """Itself if it is a success; else raises HTTPStatusError."""
        if self.is_success:
            return self
        raise HTTPStatusError(self)


class HTTPStatusError(httpx.HTTPStatusError):
    """An answer that is no success; `response` is that answer. Also an `httpx.HTTPStatusError`."""

    response: Response  # type: ignore[assignment]
    retry_after: float | None
    """Seconds that the server asked to wait; a Retry does."""

    def __init__(self, response: Response) -> None:
        text = f"{response.status_code} {response.reason_phrase}".rstrip()
        Exception.__init__(self, f"{text} from {response.method} {response.url}")
        self._request = None
        self.response = response
        self.retry_after = _retry_after(response.headers.get("retry-after", ""))


def _retry_after(text: str) -> float | None:
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())  # noqa: TID251


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream of them."""

    data: str = ""
    event: str = "message"
    id: str = ""
    """The last id that the server gave."""
    retry: int | None = None
    """Milliseconds that the server asks to wait before a reconnection."""

    def json(self) -> Any:
        """The data as JSON."""
        return _json.loads(self.data)


# --- requests


async def request(
    method: str,
    url: str,
    *,
    retry: Retry | None = None,
    total_timeout: Seconds | None = None,
    **options: Any,
) -> Response:
    """Make a request; as a step if an object does.

    Options are those of httpx: `params`, `headers`, `cookies`, `content`, `data`, `files`,
    `json`, `auth`, `follow_redirects`, `timeout`, `extensions`. With `retry`, failures of the
    connection and the statuses 408, 425, 429, 500, 502, 503 and 504 are tried again, not before
    `Retry-After`; the last answer is given as it is. Raises what httpx raises where there is no
    answer (`httpx.ConnectError`, `httpx.ReadTimeout` …).
    """
    _check(options)
    args = (method.upper(), str(url), options)
    if inside() is None:
        return await _request(*args)
    kinds = retry.on if retry is not None else ()
    attempts = retry.attempts if retry is not None and issubclass(HTTPStatusError, kinds) else 1
    found: Response = await run_with(
        _request, (*args, attempts), {}, retry=retry, total_timeout=total_timeout
    )
    return found


async def get(url: str, **options: Any) -> Response:
    """GET; see `request` for the options."""
    return await request("GET", url, **options)


async def options(url: str, **options: Any) -> Response:
    """OPTIONS; see `request` for the options."""
    return await request("OPTIONS", url, **options)


async def head(url: str, **options: Any) -> Response:
    """HEAD; see `request` for the options."""
    return await request("HEAD", url, **options)


async def post(url: str, **options: Any) -> Response:
    """POST; see `request` for the options."""
    return await request("POST", url, **options)


async def put(url: str, **options: Any) -> Response:
    """PUT; see `request` for the options."""
    return await request("PUT", url, **options)


async def patch(url: str, **options: Any) -> Response:
    """PATCH; see `request` for the options."""
    return await request("PATCH", url, **options)


async def delete(url: str, **options: Any) -> Response:
    """DELETE; see `request` for the options."""
    return await request("DELETE", url, **options)


def stream(
    method: str,
    url: str,
    *,
    retry: Retry | None = None,
    total_timeout: Seconds | None = None,
    **options: Any,
) -> AsyncGenerator[bytes, None]:
    """The body of an answer, piece by piece: `async for chunk in http.stream("GET", url)`.

    Each piece is recorded as it comes. After a crash the request is made again, with the same
    key, and as many bytes as are recorded are passed over. An answer that is no success raises
    HTTPStatusError.
    """
    return _streaming(_chunks, method, url, options, retry, total_timeout)


def lines(
    method: str,
    url: str,
    *,
    retry: Retry | None = None,
    total_timeout: Seconds | None = None,
    **options: Any,
) -> AsyncGenerator[str, None]:
    """The lines of an answer, without their ends: for newline-delimited JSON and the like.

    As `stream`; after a crash as many lines as are recorded are passed over.
    """
    return _streaming(_lines, method, url, options, retry, total_timeout)


def events(
    method: str,
    url: str,
    *,
    retry: Retry | None = None,
    total_timeout: Seconds | None = None,
    **options: Any,
) -> AsyncGenerator[ServerSentEvent, None]:
    """The server-sent events of an answer.

    As `stream`; after a crash the request is made again with `Last-Event-ID`, if the events have
    ids, and else as many events as are recorded are passed over.
    """
    return _streaming(_events, method, url, options, retry, total_timeout)


_OPTIONS = frozenset(
    {"auth", "content", "cookies", "data", "extensions", "files", "follow_redirects", "headers"}
    | {"json", "params", "timeout"}
)


def _check(options: Mapping[str, Any]) -> None:
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(f"a request has no option {min(unknown)!r}")


def _streaming(
    function: Any,
    method: str,
    url: str,
    options: dict[str, Any],
    retry: Retry | None,
    total_timeout: Seconds | None,
) -> AsyncGenerator[Any, None]:
    _check(options)
    args = (method.upper(), str(url), options)
    if inside() is None:
        plain: AsyncGenerator[Any, None] = function(*args)
        return plain
    found: AsyncGenerator[Any, None] = run_with(
        function, args, {}, retry=retry, total_timeout=total_timeout
    )
    return found


# --- the steps behind them


@step
async def _request(method: str, url: str, options: dict[str, Any], attempts: int = 1) -> Response:
    """`attempts`: how often this is tried, so that all but the last may fail for their status."""
    try:
        answer = await _client().request(method, url, **_prepared(options))
    except httpx.RequestError as error:
        raise _plain(error, method, url) from None
    response = _value(answer, answer.content)
    running = within.running()
    if response.status_code in RETRIED and running is not None and running.number < attempts:
        raise HTTPStatusError(_value(answer, answer.content[:_ERROR_BODY_MAX]))
    return response


@step
async def _chunks(method: str, url: str, options: dict[str, Any]) -> AsyncIterator[bytes]:
    skip = sum(map(len, within.step_items()))
    async with aclosing(_body(method, url, options)) as body:
        async for chunk in body:
            if skip >= len(chunk):
                skip -= len(chunk)
            else:
                yield chunk[skip:]
                skip = 0


@step
async def _lines(method: str, url: str, options: dict[str, Any]) -> AsyncIterator[str]:
    skip = len(within.step_items())
    async with aclosing(_body(method, url, options)) as body:
        async for line in _split(body, _END):
            if skip:
                skip -= 1
            else:
                yield line


@step
async def _events(method: str, url: str, options: dict[str, Any]) -> AsyncIterator[ServerSentEvent]:
    given = within.step_items()
    headers = httpx.Headers(options.get("headers"))
    headers.setdefault("accept", "text/event-stream")
    skip = len(given)
    if given and given[-1].id:
        headers["last-event-id"] = given[-1].id
        skip = 0
    last_id = given[-1].id if given else ""
    options = options | {"headers": headers.multi_items()}
    async with aclosing(_body(method, url, options)) as body:
        async for event in _parsed(_split(body, _ANY_END), last_id):
            if skip:
                skip -= 1
            else:
                yield event


async def _parsed(lines_: AsyncIterator[str], last_id: str) -> AsyncIterator[ServerSentEvent]:
    """Events by the rules of the HTML standard."""
    data: list[str] = []
    name, retry = "", None
    async for line in lines_:
        if not line:
            if data:
                yield ServerSentEvent("\n".join(data), name or "message", last_id, retry)
            data, name, retry = [], "", None
            continue
        key, _, value = line.removeprefix("\ufeff").partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            data.append(value)
        elif key == "event":
            name = value
        elif key == "id" and "\0" not in value:
            last_id = value
        elif key == "retry" and value.isascii() and value.isdigit():
            retry = int(value)


_END = re.compile(b"\r?\n")
_ANY_END = re.compile(b"\r\n|\n|\r")


async def _split(body: AsyncIterator[bytes], end: re.Pattern[bytes]) -> AsyncIterator[str]:
    """Lines by their ends alone: `str.splitlines` would also cut at U+2028, which JSON allows."""
    rest = b""
    async for chunk in body:
        rest += chunk
        # An end may itself be cut in two: what looks like one at the very end waits.
        held = b"\r" if rest.endswith(b"\r") else b""
        *whole, rest = end.split(rest.removesuffix(held))
        rest += held
        for line in whole:
            yield line.decode("utf-8", "replace")
    *whole, rest = end.split(rest)
    for line in whole:
        yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


async def _body(method: str, url: str, options: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    options = {"timeout": STREAM_TIMEOUT} | _prepared(options)
    try:
        async with _client().stream(method, url, **options) as answer:
            if not answer.is_success:
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) >= _ERROR_BODY_MAX:
                        break
                raise HTTPStatusError(_value(answer, body[:_ERROR_BODY_MAX]))
            async for chunk in answer.aiter_bytes():
                yield chunk
    except httpx.RequestError as error:
        raise _plain(error, method, url) from None


def _prepared(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the idempotency key of this request among the headers."""
    attempt = within.running()
    if attempt is None:
        return options
    attempt.requests += 1
    headers = httpx.Headers(options.get("headers"))
    # A step of the app may make several: each has a key of its own, the same in each attempt.
    number = f".{attempt.requests}" if attempt.requests > 1 else ""
    headers.setdefault("Idempotency-Key", attempt.step_id + number)
    return options | {"headers": headers}


def _value(answer: httpx.Response, body: bytes) -> Response:
    return Response(
        answer.status_code,
        tuple(answer.headers.multi_items()),
        body,
        str(answer.url),
        answer.request.method,
        answer.reason_phrase,
        answer.http_version,
    )


def _plain(error: httpx.RequestError, method: str, url: str) -> httpx.RequestError:
    """The same error as a value: without its request, and with what was asked in its text."""
    late = isinstance(error, httpx.TimeoutException)
    text = str(error) or ("no answer in time" if late else "the connection was lost")
    return type(error)(f"{text} ({method} {url})")


# --- connections


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
_configured: dict[str, Any] = {}


def configure(**options: Any) -> None:
    """Options for the client of httpx: `limits`, `verify`, `cert`, `proxy`, `http2`, `transport` …

    They hold for connections made from now on; the default is httpx's own.
    """
    httpx.AsyncClient(**options)
    _configured.clear()
    _configured.update(options)
    _clients.clear()


def _client() -> httpx.AsyncClient:
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None or client.is_closed:
        client = _clients[loop] = httpx.AsyncClient(**_configured)
    return client


async def aclose() -> None:
    """Close the connections of the running event loop; the next request opens new ones.

    A node does so when it drains; a program without one does it at its end.
    """
    client = _clients.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.aclose()


at_drain(aclose)
