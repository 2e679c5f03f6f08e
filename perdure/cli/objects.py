"""`perdure ls`, `show` and `delete`: what there is, and an end to it."""

from __future__ import annotations

import json
from typing import Any

import click

from perdure.cli.client import Server, object_path, remote
from perdure.cli.output import Complaint, examples, print_json, print_table, show_age, show_time
from perdure.cli.waits import print_waits, rebuild_text

_PAGE = 1000


@click.command(
    epilog=examples(
        "perdure ls Counter --prefix lob --limit 20",
        "perdure ls Order --where status=open --where 'total>=100'",
    )
)
@click.argument("class_name", metavar="[CLASS]", required=False)
@click.option("--prefix", help="Only keys that begin with it.")
@click.option(
    "--status",
    type=click.Choice(["active", "asleep", "quarantined", "unserved"]),
    help="Only those in memory, those that are not, those set aside, or of a class not served.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Only those whose Indexed attribute is so: NAME=VALUE; also <, <=, >, >= and ^= (prefix).",
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@remote
def ls(
    class_name: str | None,
    prefix: str | None,
    status: str | None,
    where: tuple[str, ...],
    limit: int,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """List objects by class and key."""
    if where and (class_name is None or prefix or status):
        raise click.UsageError("--where takes a CLASS, and neither --prefix nor --status")
    rows = _list(Server(url, token), class_name, prefix, status, where, limit + 1)
    more = len(rows) > limit
    del rows[limit:]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no objects" + (" like that" if class_name or prefix or status else " yet"))
        return
    print_table(
        ("ADDRESS", "STATUS", "SEQ", "UPDATED"),
        [
            (row["address"], row["status"], str(row["seq"]), _updated(row["updated"]))
            for row in rows
        ],
    )
    if more:
        click.echo(f"… and more; --limit {limit * 10} shows them", err=True)


def _list(
    server: Server,
    kind: str | None,
    prefix: str | None,
    status: str | None,
    where: tuple[str, ...],
    limit: int,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while len(rows) < limit:
        size = min(limit - len(rows), _PAGE)
        query: dict[str, Any] = {"class": kind, "prefix": prefix, "status": status, "limit": size}
        if where:
            query["where"] = where
        page = server.get("objects", **query, after=rows[-1]["address"] if rows else None)
        rows += page
        if len(page) < size:
            break
    return rows


def _updated(time: Any) -> str:
    age = show_age(time)
    return f"{age} ago" if age else ""


@click.command(epilog=examples("perdure show Counter/lobby"))
@click.argument("address")
@remote
def show(address: str, url: str, token: str | None, as_json: bool) -> None:
    """Show one object: state, seq, timers, steps, and where its code waits, like a traceback."""
    shown = Server(url, token).get(f"objects/{object_path(address)}")
    if as_json:
        print_json(shown)
        return
    heading = click.style(shown.pop("address"), bold=True)
    click.echo(f"{heading}  {shown.pop('status', '')}")
    shown.pop("class", None)
    shown.pop("key", None)
    state, waits, rebuild = (shown.pop(name, None) for name in ("state", "waits", "rebuild"))
    for name, value in shown.items():
        if name.endswith(("_at", "_ns")) or name in ("created", "updated"):
            value = show_time(value) if value else ""
        if value in (None, "", [], {}):
            continue
        if name == "timers":
            value = [_timer_line(timer) for timer in value]
        if name == "connections":
            value = [_connection_line(conn) for conn in value]
        if name == "steps":
            value = [_step_line(step) for step in value]
        if name == "failed_steps":
            name, value = "failed steps", [_failed_line(step) for step in value]
        _print_fact(name, value)
    if state is not None:
        _print_fact("state", state if state != {} else "{}")
    if waits:
        click.echo(click.style("waits:", dim=True))
        print_waits(waits)
    if rebuild:
        _print_fact("rebuild", rebuild_text(rebuild))


def _timer_line(timer: dict[str, Any]) -> str:
    due = show_time(timer["due"]) if timer["due"] else "not again"
    line = f"{due}  {timer['calls']}"
    if timer.get("id"):
        line += f"  ({timer['id']}{', ' + timer['rhythm'] if timer['rhythm'] else ''})"
    if timer.get("error"):
        line += click.style(f"  failed: {timer['error']}", fg="red")
    return line


def _connection_line(conn: dict[str, Any]) -> str:
    line = f"{conn['id']}  {conn['path']}"
    if conn["query"]:
        line += "?" + "&".join(f"{name}={value}" for name, value in conn["query"].items())
    line += f"  since {show_time(conn['since'])}"
    if conn["tags"]:
        line += f"  [{', '.join(conn['tags'])}]"
    if conn["line"] == "lost":
        line += click.style("  line lost", fg="yellow")
    return line


def _step_line(step: dict[str, Any]) -> str:
    line = f"{step['name'].rpartition(':')[2]}{step['arguments'] or ''}  {step['status']}"
    line += f", attempt {step['attempt']}, since {show_time(step['since'])}"
    if step.get("next_try"):
        line += f", next try {show_time(step['next_try'])}"
    if step.get("items"):
        line += f", {step['items']} items"
    if step.get("progress") is not None:
        line += f", progress {json.dumps(step['progress'], ensure_ascii=False)}"
    if step.get("heartbeat"):
        line += f" ({show_age(step['heartbeat'])} ago)"
    if step.get("last_error"):
        line += click.style(f"  {step['last_error']}", fg="red")
    return line


def _failed_line(step: dict[str, Any]) -> str:
    error = click.style(step["error"], fg="red")
    name = step["name"].rpartition(":")[2]
    return f"{show_time(step['at'])}  {name}, attempt {step['attempt']}  {error}"


def _print_fact(name: str, value: Any) -> None:
    label = click.style(f"{name}:", dim=True)
    if isinstance(value, dict) and name != "state":
        click.echo(f"{label} " + ", ".join(f"{key} {inner}" for key, inner in value.items()))
    elif isinstance(value, dict):
        click.echo(label)
        for key, inner in value.items():
            click.echo(f"  {key} = {_one_line(inner)}")
    elif isinstance(value, list):
        click.echo(label)
        for inner in value:
            click.echo(f"  {inner if isinstance(inner, str) else _one_line(inner)}")
    else:
        click.echo(f"{label} {value}")


def _one_line(value: Any) -> str:
    if isinstance(value, dict) and all(isinstance(inner, str | int) for inner in value.values()):
        compact = json.dumps(value, ensure_ascii=False)
        return compact if len(compact) < 80 else json.dumps(value, ensure_ascii=False, indent=2)
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 100:
        return text
    return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\n  ")


@click.command(epilog=examples("perdure delete Counter/lobby --yes"))
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def delete(address: str, yes: bool, url: str, token: str | None, as_json: bool) -> None:
    """End an object: its state, its timers and its waiting code. Its history stays."""
    path, server = object_path(address), Server(url, token)
    if not yes:
        confirm(f"Delete {address}? Its state cannot be brought back")
    # A mistyped name must not pass for done; the server itself has nothing against it.
    server.get(f"objects/{path}")
    server.request("DELETE", f"/_perdure/objects/{path}")
    if as_json:
        print_json({"deleted": address})
    else:
        click.echo(f"{address} is deleted")


def confirm(question: str) -> None:
    """Ask on stderr; anything but yes, and nobody to ask, is a Complaint."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        raise Complaint("nothing was done", hint="Without asking: --yes", code="declined")
