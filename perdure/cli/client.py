"""The running server as the commands see it: one request, one answer, and errors in words.

http.client and nothing above it: a command is over before a larger client is imported.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click

from perdure.cli.output import Complaint, WrongUse, json_option

DEFAULT_URL = "http://127.0.0.1:7373"
PATIENCE_S = 30.0

F = TypeVar("F", bound=Callable[..., Any])


def remote(command: F) -> F:
    """The options of each command that talks to a server: `url`, `token` and `as_json`."""
    options: list[Callable[[F], F]] = [
        json_option(),
        click.option(
            "--token",
            envvar="PERDURE_ADMIN_TOKEN",
            show_envvar=True,
            help="The server's admin token; not needed on the same machine.",
        ),
        click.option(
            "--url",
            envvar="PERDURE_URL",
            default=DEFAULT_URL,
            show_default=True,
            show_envvar=True,
            help="The server, with the path it is mounted at.",
        ),
    ]
    for option in options:
        command = option(command)
    return command


def turn_or_time(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """A turn or a time as typed, looked at here: a mistake in it is one of use.

    It goes to the server as it is: an age counts from the server's now.
    """
    return _looked_at(value, turns=True)


def only_time(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A time as typed; otherwise like `turn_or_time`."""
    return _looked_at(value, turns=False)


def _looked_at(value: str | None, *, turns: bool) -> str | None:
    from perdure.errors import BadArguments
    from perdure.past.moment import read_moment, read_time

    try:
        if value is not None:
            (read_moment if turns else read_time)(value, time.time_ns())
    except BadArguments as error:
        raise WrongUse(error.message, hint=error.hint, code=error.code) from None
    return value


class Answer(NamedTuple):
    """What the server has answered; errors are Complaints already."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


class Server:
    """A server at a URL."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WrongUse(f"{url!r} is no URL of a server", hint=f"It looks like {DEFAULT_URL}.")
        try:
            self._port = parts.port
        except ValueError as error:
            raise WrongUse(
                f"{url!r} is no URL: {error}", hint=f"It looks like {DEFAULT_URL}."
            ) from None
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._prefix = quote(parts.path.rstrip("/"), safe="/%")
        self._token = token
        self.url = url.rstrip("/")

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: bytes | None = None,
        headers: Iterable[tuple[str, str]] = (),
        timeout_s: float | None = PATIENCE_S,
    ) -> Answer:
        """Ask once. Raises Complaint for an answer that is an error, and where there is none.

        `path` is quoted already. A query's None values are left out.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = self._prefix + path + (f"?{urlencode(given, doseq=True)}" if given else "")
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout_s)
        sent = dict(headers)
        if self._token:
            sent.setdefault("Authorization", f"Bearer {self._token}")
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, target, body=body, headers=sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except TimeoutError:
            raise Complaint(
                f"{self.url} has not answered within {timeout_s:g} s",
                hint="Whether the call has happened is not known: perdure calls lists what runs.",
                code="timeout",
            ) from None
        except ConnectionRefusedError:
            raise self._nobody() from None
        except (ConnectionError, http.client.RemoteDisconnected) as error:
            raise Complaint(
                f"{self.url} broke the connection: {error.strerror or error!r}",
                hint="Whether the call has happened is not known. The server's output may say why.",
                code="outcome-unknown",
            ) from None
        except http.client.HTTPException as error:
            raise Complaint(
                f"{self.url} does not speak HTTP: {error!r}",
                hint="Is it the address of a perdure server? --url and PERDURE_URL say which.",
            ) from None
        except OSError as error:
            raise Complaint(
                f"cannot reach {self.url}: {error}",
                hint="--url and PERDURE_URL say which server is meant.",
                code="unreachable",
            ) from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise self._refusal(answer)
        return answer

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at an administration path."""
        answer = self.request("GET", f"/_perdure/{path}", query=query)
        try:
            return answer.json()
        except ValueError:
            raise self._stranger(answer) from None

    def _nobody(self) -> Complaint:
        return Complaint(
            f"no perdure server at {self.url}; start one with: perdure dev APP",
            hint="Is it somewhere else? Then: --url http://HOST:PORT, or set PERDURE_URL.",
            code="unreachable",
        )

    def _stranger(self, answer: Answer) -> Complaint:
        kind = answer.headers.get_content_type()
        return Complaint(
            f"what answers at {self.url} is no perdure server (status {answer.status}, {kind})",
            hint="Is the App mounted at a path? Then it belongs into --url, as in http://host/objects.",
            code="no-perdure",
        )

    def _refusal(self, answer: Answer) -> Complaint:
        try:
            problem = answer.json()
            code = problem["code"]
        except (ValueError, TypeError, KeyError):
            return self._stranger(answer)
        lines = [f"{problem.get('detail') or problem.get('title')} ({code})"]
        lines += [f"{error['path']}: {error['message']}" for error in problem.get("errors", ())]
        if problem.get("traceback"):
            lines += [f"    {line}" for line in problem["traceback"].rstrip().splitlines()]
        return Complaint(
            "\n".join(lines), hint=problem.get("hint") or _HINTS.get(code), code=code, facts=problem
        )


_HINTS = {
    "unauthorized": "Give the token: --token TOKEN, or set PERDURE_ADMIN_TOKEN.",
    "unknown-class": "What is served: perdure ls; names of classes are case-sensitive.",
    "object-quarantined": "Why: perdure quarantine list. Again: perdure quarantine retry ADDRESS.",
    "outcome-unknown": "It may have happened. With --idempotency-key it can be asked again safely.",
}


def object_path(address: str) -> str:
    """`Class/key` as typed, as a path segment pair. Raises InvalidKey."""
    from perdure.ref import parse_address, quote_address

    return quote_address(*parse_address(address))
