"""`perdure calls`, `stuck`, `cancel`: which calls there are, what cannot go on, an end to one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from perdure.cli.client import Server, only_time, remote
from perdure.cli.output import examples, print_json, print_table, read_age, shorten, show_age

_STATUSES = ("open", "running", "queued", "done", "failed", "cancelled")


@click.command(
    epilog=examples("perdure calls --status failed --since 1h", "perdure calls --object Order/42")
)
@click.option("--status", type=click.Choice(_STATUSES), help="Only those; open: not ended.")
@click.option("--class", "class_name", metavar="CLASS", help="Only calls of this class.")
@click.option("--object", "address", metavar="ADDRESS", help="Calls of this object, all of them.")
@click.option(
    "--since",
    callback=only_time,
    metavar="TIME",
    help="Begun since then: ISO 8601, or an age (10m).",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@remote
def calls(
    status: str | None,
    class_name: str | None,
    address: str | None,
    since: str | None,
    limit: int,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """List calls, the newest first: open, failed and cancelled ones, with what they wait for.

    Those that ended well are listed with --status done, and for an object with --object.
    """
    query = {"status": status, "class": class_name, "object": address, "since": since}
    rows = Server(url, token).get("calls", **query, limit=limit)
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no calls like that" if any(query.values()) else "no calls are open or failed")
        return
    print_table(
        ("ID", "CALL", "STATUS", "SINCE", "", "CALLER"),
        [
            (
                row["id"],
                f"{row['object']}.{row['handler']}",
                row["status"],
                f"{show_age(row['since'])} ago",
                shorten(row["waiting_on"] or row["error"] or "", 100),
                row["caller"] or "",
            )
            for row in rows
        ],
    )


@click.command(epilog=examples("perdure stuck --older-than 1h"))
@click.option(
    "--older-than",
    default="10m",
    show_default=True,
    metavar="AGE",
    help="Of open calls, only those.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@remote
def stuck(older_than: str, limit: int, url: str, token: str | None, as_json: bool) -> None:
    """List what cannot go on: what is quarantined, fails, runs late, or waits for nobody.

    Exit code 1: something is.
    """
    read_age(older_than)
    rows: list[dict[str, Any]] = Server(url, token).get("stuck", older_than=older_than, limit=limit)
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("nothing is stuck")
    else:
        print_table(
            ("WHAT", "OBJECT", "SINCE", "", "CALL"),
            [
                (
                    row["what"] + (f" ({row['count']} times)" if row["count"] > 1 else ""),
                    row["object"] + (f".{row['handler']}" if row["handler"] else ""),
                    f"{show_age(row['since'])} ago" if row["since"] else "",
                    shorten(row["detail"], 120),
                    row["call_id"] or "",
                )
                for row in rows
            ],
        )
    if rows:
        raise SystemExit(1)


@click.command(epilog=examples("perdure cancel 3d087f143d39292f-2.9c1e.7"))
@click.argument("call_id", metavar="ID")
@click.option("--again", is_flag=True, help="Also if it was cancelled before and still runs.")
@remote
def cancel(call_id: str, again: bool, url: str, token: str | None, as_json: bool) -> None:
    """Cancel the call ID: its code meets CancelledError where it waits, and may undo things."""
    query = {"again": "1"} if again else None
    path = f"/_perdure/calls/{quote(call_id, safe='')}"
    answer = Server(url, token).request("DELETE", path, query=query)
    if as_json:
        print_json(answer.json())
    else:
        click.echo(f"{call_id} is cancelled")
