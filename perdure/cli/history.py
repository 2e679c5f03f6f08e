"""`perdure history`: an object's journal, or its calls, up to now or for as long as one watches."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from perdure.cli.client import Server, object_path, only_time, remote
from perdure.cli.output import Complaint, WrongUse, examples, print_json, shorten, show_time

_PAGE = 1000
_WIDTH = 60
# How long the server holds a request of one who follows, and how long we wait before the next
# where it could not be asked.
_HOLD_S = 20
_AGAIN_S = 0.5


@click.command(
    epilog=examples(
        "perdure history Counter/lobby --after 100 --follow",
        "perdure history Order/42 --failed --since 2h",
        "perdure history Order/42 --calls --handler pay",
    )
)
@click.argument("address")
@click.option("--follow", "-f", is_flag=True, help="Go on as new entries come; Ctrl-C ends it.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries behind this seq.")
@click.option("--limit", type=click.IntRange(1), help="At most so many entries.")
@click.option("--kind", "kinds", multiple=True, help="Only such: call, send, timer, step …")
@click.option("--handler", "handlers", multiple=True, help="Only calls of this handler.")
@click.option(
    "--since",
    callback=only_time,
    metavar="TIME",
    help="Not before: ISO 8601, or an age such as 10m.",
)
@click.option("--until", callback=only_time, metavar="TIME", help="Not after.")
@click.option("--failed", is_flag=True, help="Only entries in which a call failed.")
@click.option("--calls", is_flag=True, help="The calls that came in, each with its end.")
@remote
def history(
    address: str,
    follow: bool,
    after: int,
    limit: int | None,
    kinds: tuple[str, ...],
    handlers: tuple[str, ...],
    since: str | None,
    until: str | None,
    failed: bool,
    calls: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Show the journal of an object: seq, time, kind, what came in, what went out, how long.

    With --follow and --json an entry a line, else --json prints a list.
    """
    if calls and follow:
        raise WrongUse("--calls shows calls with their ends, and does not follow")
    path = f"objects/{object_path(address)}/{'calls' if calls else 'history'}"
    server = Server(url, token)
    query = {
        "kind": ",".join(kinds) or None,
        "handler": ",".join(handlers) or None,
        "since": since,
        "until": until,
        "failed": 1 if failed else None,
    }
    tell = _call_line if calls else _line
    entries: list[dict[str, Any]] = []
    count = 0
    while limit is None or count < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - count)
        page = _page(server, path, query | {"after": after, "limit": size}, patient=follow)
        for entry in page:
            after = max(after, entry["seq"])
            count += 1
            if as_json and not follow:
                entries.append(entry)
            elif as_json:
                click.echo(json.dumps(entry, ensure_ascii=False))
            else:
                click.echo(tell(entry))
        if len(page) < size and not follow:
            break
    if as_json and not follow:
        print_json(entries)


def _page(
    server: Server, path: str, query: dict[str, Any], *, patient: bool
) -> list[dict[str, Any]]:
    while True:
        try:
            page: list[dict[str, Any]] = server.get(
                path, **query, wait=_HOLD_S if patient else None
            )
            return page
        except Complaint as complaint:
            # The worker starts again; its successor has the same journal.
            if not (patient and complaint.code in ("outcome-unknown", "unavailable")):
                raise
        time.sleep(_AGAIN_S)


def _line(entry: dict[str, Any]) -> str:
    seq = click.style(f"{entry['seq']:>6}", bold=True)
    what = shorten(_text(entry.get("input")), _WIDTH)
    out = shorten(_text(entry.get("output")), _WIDTH)
    took = f"{entry.get('duration_us', 0)} µs"
    arrow = f"  → {out}" if out else ""
    kind = click.style(f"{entry['kind']:<8}", fg="cyan")
    stamp = click.style(show_time(entry["time"]), dim=True)
    return f"{seq}  {stamp}  {kind} {what}{arrow}  {click.style(took, dim=True)}"


def _call_line(call: dict[str, Any]) -> str:
    seq = click.style(f"{call['seq']:>6}", bold=True)
    stamp = click.style(show_time(call["began"]), dim=True)
    what = shorten(f"{call['handler']} {call['arguments']}", _WIDTH)
    by = f" from {call['caller']}" if call["caller"] else ""
    colours = {"failed": "red", "done": "green"}
    status = click.style(call["status"], fg=colours.get(call["status"], "yellow"))
    end = ""
    if call["ended_seq"] is not None:
        end = f" in turn {call['ended_seq']}: {shorten(call['answer'] or '', _WIDTH)}"
    return f"{seq}  {stamp}  {what}{by}  → {status}{end}"


def _text(value: Any) -> str:
    if value in (None, [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
