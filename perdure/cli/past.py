"""`perdure state`, `diff` and `errors`: what an object was like, what changed, what went wrong."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from perdure.cli.client import Server, object_path, remote, turn_or_time
from perdure.cli.output import WrongUse, examples, print_json, shorten, show_time

# The first look at a long past runs its turns again.
_LOOK_S = 300.0


@click.command(
    epilog=examples("perdure state Counter/lobby --at 17", "perdure state Counter/lobby --at 10m")
)
@click.argument("address")
@click.option(
    "--at",
    callback=turn_or_time,
    metavar="SEQ|TIME",
    help="A turn, an ISO 8601 time, or an age. Default: now.",
)
@remote
def state(address: str, at: str | None, url: str, token: str | None, as_json: bool) -> None:
    """Show the state of an object as it was. The object itself is not touched."""
    found = look(Server(url, token), address, "state", at=at)
    if as_json:
        print_json(found)
        return
    when = f", {show_time(found['time'])}" if found["time"] else ""
    heading = click.style(found["address"], bold=True)
    click.echo(f"{heading}  after turn {found['seq']}{when}")
    if found["state"] is None:
        click.echo("  not there: before its first call, or deleted")
        return
    for name, value in found["state"].items():
        click.echo(f"  {name} = {_value(value)}")


@click.command(epilog=examples("perdure diff Counter/lobby 17 20", "perdure diff Order/42 1h 5m"))
@click.argument("address")
@click.argument("a", callback=turn_or_time, metavar="A")
@click.argument("b", callback=turn_or_time, metavar="B")
@remote
def diff(address: str, a: str, b: str, url: str, token: str | None, as_json: bool) -> None:
    """Show what changed in an object between two turns or times, a place a line."""
    found = look(Server(url, token), address, "diff", a=a, b=b)
    if as_json:
        print_json(found)
        return
    print_changes(found["changes"])
    if not found["changes"]:
        click.echo(f"nothing changed between turn {found['from']} and turn {found['to']}")


def print_changes(changes: list[dict[str, Any]]) -> None:
    """Changes, a place a line, coloured by what happened to it."""
    colours = {"added": "green", "removed": "red", "changed": "yellow"}
    for change in changes:
        click.echo(click.style(change["text"], fg=colours[change["what"]]))


@click.command(epilog=examples("perdure errors Order/42", "perdure errors Order/42 --at 17"))
@click.argument("address")
@click.option("--at", metavar="SEQ", type=click.IntRange(1), help="Only those of this turn.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only those behind this seq.")
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True)
@remote
def errors(
    address: str,
    at: int | None,
    after: int,
    limit: int,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Show what was raised in an object, with traceback and the locals of each frame.

    Each failing turn is run again on a copy, so the locals are as they were then.
    """
    found = look(Server(url, token), address, "errors", at=at, after=after, limit=limit)
    if as_json:
        print_json(found)
        return
    for error in found:
        print_error(error)
    if not found:
        click.echo("no call failed" + ("" if at is None else f" in turn {at}"))


def print_error(error: dict[str, Any]) -> None:
    """One error like a traceback, with locals."""
    what = error["handler"] or error["kind"]
    click.echo(
        click.style(f"turn {error['seq']}", bold=True)
        + f"  {show_time(error['time'])}  {what}  "
        + click.style(f"{error['error']}: {error['message']}", fg="red")
    )
    for frame in error["frames"]:
        click.echo(f"  {frame['file']}:{frame['line']} in {frame['function']}")
        if frame["text"]:
            click.echo(f"    {frame['text']}")
        if not frame["library"]:
            for name, value in frame.get("locals", {}).items():
                click.echo(click.style(f"      {name} = {value}", dim=True))


def look(server: Server, address: str, what: str, **query: Any) -> Any:
    """A look at the past, which may take a while the first time."""
    path = f"/_perdure/objects/{object_path(address)}/{what}"
    return server.request("GET", path, query=query, timeout_s=_LOOK_S).json()


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 100:
        return text
    return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\n  ")


@click.command(
    "what-if",
    epilog=examples(
        """perdure what-if Order/42 --at 17 --with '{"cents": 500}'""",
        "perdure what-if Order/42 --at 17 --without",
    ),
)
@click.argument("address")
@click.option("--at", metavar="SEQ", type=click.IntRange(1), required=True, help="The call's turn.")
@click.option("--with", "arguments", metavar="JSON", help="The arguments it comes with instead.")
@click.option("--handler", help="The handler that is called instead.")
@click.option("--without", is_flag=True, help="Leave the call out.")
@remote
def what_if(
    address: str,
    at: int,
    arguments: str | None,
    handler: str | None,
    without: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Show what would have become of an object if one call had been another.

    The rest of its past is run again on a copy, as far as it still fits. Nothing outside happens.
    """
    if without == (arguments is not None or handler is not None):
        raise WrongUse("say what the call is instead: --with JSON, --handler NAME, or --without")
    asked: dict[str, Any] = {"at": at, "handler": handler}
    if arguments is not None:
        try:
            asked["arguments"] = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise WrongUse(f"--with is no JSON: {error}") from None
    path = f"/_perdure/objects/{object_path(address)}/what-if"
    body = json.dumps(asked).encode()
    found = Server(url, token).request("POST", path, body=body, timeout_s=_LOOK_S).json()
    if as_json:
        print_json(found)
    else:
        _tell_story(found)


def _tell_story(found: dict[str, Any]) -> None:
    what = f"with {found['call']}" if found["call"] else "without its call"
    click.echo(f"{click.style(found['address'], bold=True)}  turn {found['at']} {what}")
    for turn in found["changed"]:
        click.echo(f"{turn['seq']:>6}  {turn['kind']} {shorten(turn['input'], 80)}")
        click.echo(f"        was: {shorten(turn['expected'], 100) or 'nothing'}")
        click.echo(f"        now: {shorten(turn['found'], 100) or 'nothing'}")
    for turn in found["left_out"]:
        click.echo(
            click.style(
                f"{turn['seq']:>6}  {turn['kind']} {shorten(turn['input'], 60)}  left out: "
                f"{turn['why']}",
                dim=True,
            )
        )
    for name in found["waiting"]:
        click.echo(f"  waits for {name}, which has no answer in the past")
    click.echo("the state at the end, and what it would be:" if found["changes"] else
               "the state at the end is the same")  # fmt: skip
    print_changes(found["changes"])


def print_turn(
    turn: dict[str, Any], errors: list[dict[str, Any]], *, as_json: bool = False
) -> None:
    """A turn that ran once more, and what it raised."""
    if as_json:
        click.echo(json.dumps(turn | {"errors": errors}, ensure_ascii=False))
        return
    seq = click.style(f"{turn['seq']:>6}", bold=True)
    kind = click.style(f"{turn['kind']:<8}", fg="cyan")
    stamp = click.style(show_time(turn["time"]), dim=True)
    click.echo(f"{seq}  {stamp}  {kind} {shorten(turn['input'], 100)}")
    if turn["output"]:
        click.echo(f"        → {shorten(turn['output'], 100)}")
    for error in errors:
        where = error["frames"][-1] if error["frames"] else None
        at = f"  at {where['file']}:{where['line']}" if where else ""
        click.echo(click.style(f"        ! {error['error']}: {error['message']}{at}", fg="red"))


def read_place(text: str) -> tuple[str, int]:
    """The file's name and the line of a breakpoint."""
    file, _, line = text.rpartition(":")
    if not file or not line.isdecimal():
        raise WrongUse(f"{text!r} is no FILE:LINE")
    return os.path.basename(file), int(line)
