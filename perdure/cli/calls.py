"""`perdure cancel`: an end to a call before it has a result."""

from __future__ import annotations

from urllib.parse import quote

import click

from perdure.cli.client import Server, remote
from perdure.cli.output import examples, print_json


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
