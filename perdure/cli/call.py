"""`perdure call` and `perdure send`: a handler of an object, from the shell."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import click

from perdure.cli.client import PATIENCE_S, Answer, Server, object_path, remote
from perdure.cli.output import Complaint, as_header, examples, in_seconds, print_json

F = TypeVar("F", bound=Callable[..., Any])

# -5 is an argument and no option; `read_arguments` refuses what may be a mistyped one.
_ARGUMENTS = {"ignore_unknown_options": True}
_NAMED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def read_arguments(arguments: Sequence[str], read_stdin: Callable[[], bytes]) -> bytes | None:
    """What was typed behind the handler, as the body of a request.

    `name=value` for named arguments, else values by position; a value is JSON where it parses,
    else a string. One JSON object or array alone is the body itself; `-` is what stdin brings.
    """
    if not arguments:
        return None
    if list(arguments) == ["-"]:
        return read_stdin()
    for argument in arguments:
        if argument.startswith("-") and not isinstance(read_value(argument), int | float):
            raise click.UsageError(
                f"there is no option {argument!r}; as an argument it is written "
                f"""'{json.dumps(argument)}', or with its name: text={argument}"""
            )
    named = [_NAMED.fullmatch(argument) for argument in arguments]
    if not any(named):
        if len(arguments) == 1 and arguments[0].lstrip()[:1] in ("{", "["):
            return _whole_body(arguments[0])
        return _dump([read_value(argument) for argument in arguments])
    values: dict[str, Any] = {}
    for argument, match in zip(arguments, named, strict=True):
        if match is None:
            raise click.UsageError(
                f"{argument!r} has no name and others have one; give all by name or all by position"
            )
        if match[1] in values:
            raise click.UsageError(f"{match[1]!r} is given twice")
        values[match[1]] = read_value(match[2])
    return _dump(values)


def read_value(text: str) -> Any:
    """JSON where it parses, else the text itself."""
    try:
        return _loads(text)
    except ValueError:
        return text


def _whole_body(text: str) -> bytes:
    try:
        _loads(text)
    except ValueError as error:
        raise click.UsageError(f"the body is no JSON: {error}") from None
    return text.encode()


def _loads(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise click.UsageError(f"{text[:20]}… is nested too deeply") from None


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")


def _request_options(command: F) -> F:
    options: list[Callable[[F], F]] = [
        click.option(
            "-H",
            "--header",
            "headers",
            multiple=True,
            metavar="'NAME: VALUE'",
            help="A header field for the app's own authorize.",
        ),
        click.option("--idempotency-key", metavar="KEY", help="The same key again runs it once."),
    ]
    for option in options:
        command = option(command)
    return remote(command)


def _post(
    server: Server,
    address: str,
    handler: str,
    arguments: Sequence[str],
    headers: Sequence[str],
    more: dict[str, str | None],
    timeout_s: float | None,
) -> Answer:
    sent = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"{header!r} is no header field; it looks like 'Name: value'")
        sent.append((name.strip(), value.strip()))
    sent += [(name, value) for name, value in more.items() if value is not None]
    return server.request(
        "POST",
        f"/{object_path(address)}/{quote(handler, safe='')}",
        body=read_arguments(arguments, sys.stdin.buffer.read),
        headers=sent,
        timeout_s=timeout_s,
    )


@click.command(
    epilog=examples(
        "perdure call Counter/lobby increment by=2",
        """perdure call Cart/7 add '{"sku": "tea", "count": 1}'""",
        "perdure call Room/lobby post - < arguments.json",
    ),
    context_settings=_ARGUMENTS,
)
@click.argument("address")
@click.argument("handler")
@click.argument("arguments", nargs=-1)
@click.option(
    "--timeout",
    type=in_seconds,
    metavar="SECONDS",
    help="Give up waiting; the call itself goes on.",
)
@click.option(
    "--deadline",
    type=in_seconds,
    metavar="SECONDS",
    help="Cancel the call if it has not ended by then.",
)
@_request_options
def call(
    address: str,
    handler: str,
    arguments: tuple[str, ...],
    timeout: float | None,
    deadline: float | None,
    idempotency_key: str | None,
    headers: tuple[str, ...],
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Call HANDLER of the object ADDRESS (Class/key) and print its result.

    ARGUMENTS are name=value pairs, or values by position, or one JSON object or array, or - for
    stdin. A value is JSON where it parses, else a string.
    """
    more = {"Idempotency-Key": idempotency_key, "Perdure-Timeout": None}
    if timeout is not None:
        more["Perdure-Timeout"] = as_header(timeout)
    if deadline is not None:
        more["Perdure-Deadline"] = as_header(deadline)
    # Without a timeout it waits: a handler may well take a month.
    patience_s = timeout + PATIENCE_S if timeout is not None else None
    answer = _post(Server(url, token), address, handler, arguments, headers, more, patience_s)
    try:
        print_json(answer.json())
    except ValueError:
        raise Complaint(f"{url} has answered with something else than JSON") from None


@click.command(epilog=examples("perdure send Order/42 run cart=7"), context_settings=_ARGUMENTS)
@click.argument("address")
@click.argument("handler")
@click.argument("arguments", nargs=-1)
@_request_options
def send(
    address: str,
    handler: str,
    arguments: tuple[str, ...],
    idempotency_key: str | None,
    headers: tuple[str, ...],
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Call HANDLER of the object ADDRESS without waiting for its end; print the call's id.

    The id is printed once the call is on disk. GET /_perdure/calls/ID brings the result.
    """
    more = {"Prefer": "respond-async", "Idempotency-Key": idempotency_key}
    answer = _post(Server(url, token), address, handler, arguments, headers, more, PATIENCE_S)
    location = answer.headers.get("Location", "")
    call_id = location.rsplit("/", 1)[-1]
    if as_json:
        print_json({"id": call_id, "location": location})
    else:
        click.echo(call_id)
