"""`perdure repair`, `erase`, `prune` and `du`: what an operator changes, removes and counts."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path
from typing import Any

import click

from perdure.cli.call import read_value
from perdure.cli.client import Server, object_path, remote
from perdure.cli.objects import confirm
from perdure.cli.output import WrongUse, examples, json_option, print_json, print_table, read_age
from perdure.operations.sizes import sizes


@click.group(epilog=examples("perdure repair set Order/42 status '\"paid\"' --why 'ticket 7'"))
def repair() -> None:
    """Change one thing of an object by hand; its journal says who did it, and why."""


_WHY = click.option("--why", required=True, help="For the record.")


@repair.command("set", epilog=examples("perdure repair set Order/42 status paid --why 'ticket 7'"))
@click.argument("address")
@click.argument("attribute")
@click.argument("value")
@_WHY
@remote
def set_(
    address: str, attribute: str, value: str, why: str, url: str, token: str | None, as_json: bool
) -> None:
    """Set an attribute. VALUE is JSON, else text; the attribute's annotation decides what it is."""
    _repair(Server(url, token), address, {"attribute": attribute, "value": read_value(value)}, why)
    _told(as_json, f"{address}: {attribute} is set")


@repair.command(epilog=examples("perdure repair step Order/42 STEP_ID '{\"id\": 7}' --why …"))
@click.argument("address")
@click.argument("step_id")
@click.argument("value", required=False)
@click.option("--fail", metavar="TEXT", help="Let it fail for good instead.")
@_WHY
@remote
def step(
    address: str,
    step_id: str,
    value: str | None,
    fail: str | None,
    why: str,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Give a step that is under way its result (JSON, else text), or let it fail for good.

    `perdure show` has the ids. What its attempt brings later is dropped.
    """
    if (value is None) == (fail is None):
        raise WrongUse("give a VALUE, or --fail TEXT")
    change = {"fail": fail} if fail is not None else {"value": read_value(str(value))}
    _repair(Server(url, token), address, {"step": step_id, **change}, why)
    _told(as_json, f"{address}: the step {'has failed' if fail is not None else 'is done'}")


@repair.command(epilog=examples("perdure repair call CALL_ID --why 'the bank is back'"))
@click.argument("call_id")
@_WHY
@remote
def call(call_id: str, why: str, url: str, token: str | None, as_json: bool) -> None:
    """Begin a call anew that has failed, with the arguments it had; prints its result."""
    answer = Server(url, token).request(
        "POST",
        f"/_perdure/calls/{call_id}/again",
        body=json.dumps({"by": getpass.getuser(), "why": why}).encode(),
        timeout_s=None,
    )
    print_json(answer.json())


@click.command(epilog=examples("perdure erase User/ada@example.org", "perdure erase User/7 --yes"))
@click.argument("address")
@click.option("--name", is_flag=True, help="The name as well: not even that it existed is kept.")
@click.option("--compact", is_flag=True, help="Rewrite the store, so that free space has no trace.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def erase(
    address: str,
    name: bool,
    compact: bool,
    yes: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """End an object and remove all that is stored of it: state, journal, snapshots, large values.

    What other objects were told stays with them. Copies (`perdure backup`) lose it when they are
    next brought up to date.
    """
    if not yes:
        confirm(f"Erase {address} and its past? It cannot be undone")
    answer = Server(url, token).request(
        "POST",
        f"/_perdure/objects/{object_path(address)}/erase",
        body=json.dumps({"name": name, "compact": compact}).encode(),
        timeout_s=None,
    )
    found = answer.json()
    _told(as_json, f"{address} is erased, with {found['turns']} turns of its past", found)


@click.command(
    epilog=examples("perdure prune --older 30d --class Order", "perdure prune --older 30d --apply")
)
@click.option("--older", metavar="AGE", help="As 30d or 12h; without it, what the settings say.")
@click.option("--over", metavar="SIZE", help="What each object has beyond its newest 10MB, say.")
@click.option("--class", "classes", multiple=True, help="Of this class alone; may be repeated.")
@click.option("--apply", "apply_", is_flag=True, help="Do it; without it, only say what would go.")
@remote
def prune(
    older: str | None,
    over: str | None,
    classes: tuple[str, ...],
    apply_: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Remove old history, as far as no rebuild needs it. Looking back ends where it begins then."""
    server = Server(url, token)
    asked: dict[str, Any] = {"apply": apply_}
    if older is not None or over is not None:
        names = classes or tuple(kind["class"] for kind in server.get("classes"))
        if older is not None:
            asked["older"] = dict.fromkeys(names, read_age(older))
        if over is not None:
            asked["over"] = dict.fromkeys(names, _bytes(over))
    elif classes:
        raise WrongUse("--class needs --older AGE or --over SIZE")
    body = json.dumps(asked).encode()
    found = server.request("POST", "/_perdure/prune", body=body, timeout_s=None).json()
    verb = "removed" if apply_ else "would go (--apply does it)"
    _told(
        as_json,
        f"{found['segments']} segments of {found['objects']} objects, "
        f"{found['bytes'] / 1e6:.1f} MB, {verb}",
        found,
    )


@click.command(epilog=examples("perdure du", "perdure du --data /var/lib/shop --top 20"))
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".perdure"),
    show_default=True,
    help="The data directory; it may be served at the moment.",
)
@click.option("--top", type=int, default=5, show_default=True, help="So many largest objects.")
@json_option()
def du(data: Path, top: int, as_json: bool) -> None:
    """Say what takes how much room: by class, and the largest objects."""
    found = sizes(data, top)
    if as_json:
        print_json(found)
        return
    columns = ("CLASS", "OBJECTS", "STATE", "HISTORY", "LARGE VALUES")
    names = ("class", "objects", "state", "history", "blobs")
    print_table(columns, [_cells(row, names) for row in found["classes"]])
    if found["largest"]:
        click.echo()
        print_table(
            ("ADDRESS", "TURNS", "STATE", "HISTORY", "LARGE VALUES"),
            [
                _cells(row, ("address", "turns", "state", "history", "blobs"))
                for row in found["largest"]
            ],
        )
    click.echo()
    click.echo(
        f"log {_size(found['log'])}, looks at the past {_size(found['waypoints'])}, code "
        f"{_size(found['versions'])}, the file {_size(found['file'])}, of it free "
        f"{_size(found['free'])}"
    )


def _cells(row: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    counts = ("objects", "turns")
    return [
        _size(row[name]) if isinstance(row[name], int) and name not in counts else str(row[name])
        for name in names
    ]


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def _repair(server: Server, address: str, change: dict[str, Any], why: str) -> None:
    document = {**change, "by": getpass.getuser(), "why": why}
    path = f"/_perdure/objects/{object_path(address)}/repair"
    server.request("POST", path, body=json.dumps(document).encode())


def _told(as_json: bool, text: str, found: dict[str, Any] | None = None) -> None:
    if as_json:
        print_json(found or {"done": True})
    else:
        click.echo(text)


def _bytes(size: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB)", size, re.IGNORECASE)
    if found is None:
        raise WrongUse(f"{size!r} is no size", hint="As in 500KB, 10MB, 1.5GB.")
    return int(float(found[1]) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[found[2].upper()])
