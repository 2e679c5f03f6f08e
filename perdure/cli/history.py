"""`perdure history`: an object's journal, and what comes to it as it comes."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from perdure.cli.client import Server, object_path, remote
from perdure.cli.output import Complaint, examples, print_json, shorten, show_time

_FOLLOW_S = 0.5
_PAGE = 1000
_WIDTH = 60


@click.command(epilog=examples("perdure history Counter/lobby --after 100 --follow"))
@click.argument("address")
@click.option("--follow", "-f", is_flag=True, help="Go on as new entries come; Ctrl-C ends it.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries behind this seq.")
@click.option("--limit", type=click.IntRange(1), help="At most so many entries.")
@remote
def history(
    address: str,
    follow: bool,
    after: int,
    limit: int | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Show the journal of an object: seq, time, kind, what came in, what went out, how long.

    With --follow and --json an entry a line, else --json prints a list.
    """
    path = f"objects/{object_path(address)}/history"
    server = Server(url, token)
    entries: list[dict[str, Any]] = []
    count = 0
    while limit is None or count < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - count)
        page = _page(server, path, after, size, patient=follow)
        for entry in page:
            after = max(after, entry["seq"])
            count += 1
            if as_json and not follow:
                entries.append(entry)
            elif as_json:
                click.echo(json.dumps(entry, ensure_ascii=False))
            else:
                click.echo(_line(entry))
        if len(page) < size:
            if not follow:
                break
            time.sleep(_FOLLOW_S)
    if as_json and not follow:
        print_json(entries)


def _page(
    server: Server, path: str, after: int, limit: int, *, patient: bool
) -> list[dict[str, Any]]:
    while True:
        try:
            page: list[dict[str, Any]] = server.get(path, after=after, limit=limit)
            return page
        except Complaint as complaint:
            # The worker starts again; its successor has the same journal.
            if not (patient and complaint.code == "outcome-unknown"):
                raise
        time.sleep(_FOLLOW_S)


def _line(entry: dict[str, Any]) -> str:
    seq = click.style(f"{entry['seq']:>6}", bold=True)
    what = shorten(_text(entry.get("input")), _WIDTH)
    out = shorten(_text(entry.get("output")), _WIDTH)
    took = f"{entry.get('duration_us', 0)} µs"
    arrow = f"  → {out}" if out else ""
    kind = click.style(f"{entry['kind']:<8}", fg="cyan")
    stamp = click.style(show_time(entry["time"]), dim=True)
    return f"{seq}  {stamp}  {kind} {what}{arrow}  {click.style(took, dim=True)}"


def _text(value: Any) -> str:
    if value in (None, [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
