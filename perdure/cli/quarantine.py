"""`perdure quarantine`: objects that were set aside so that the others can go on.

An object gets there when the same event has ended its process three times, or when replay asked for
something else than its journal holds. It answers 503 until it is retried, or the event skipped.
"""

from __future__ import annotations

import click

from perdure.cli.client import Server, object_path, remote
from perdure.cli.output import examples, print_json, print_table, shorten


@click.group(epilog=examples("perdure quarantine list"))
def quarantine() -> None:
    """Objects that were set aside: why, and what to do with them."""


@quarantine.command("list", epilog=examples("perdure quarantine list --json"))
@remote
def list_(url: str, token: str | None, as_json: bool) -> None:
    """List them, each with its reason."""
    rows = Server(url, token).get("quarantine")
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("nothing is in quarantine")
    else:
        print_table(
            ("ADDRESS", "REASON"),
            [(row["object"], shorten(row["reason"], 160)) for row in rows],
        )


@quarantine.command(epilog=examples("perdure quarantine retry Counter/lobby"))
@click.argument("address")
@remote
def retry(address: str, url: str, token: str | None, as_json: bool) -> None:
    """Take an object out and let the event run again: the code is mended."""
    _post(Server(url, token), address, "retry")
    _done(address, "is out of quarantine; the event runs again", as_json)


@quarantine.command(epilog=examples("perdure quarantine skip Counter/lobby"))
@click.argument("address")
@remote
def skip(address: str, url: str, token: str | None, as_json: bool) -> None:
    """Take an object out without the event: it counts as delivered, and nothing ran."""
    _post(Server(url, token), address, "skip")
    _done(address, "is out of quarantine; the event is skipped", as_json)


def _post(server: Server, address: str, what: str) -> None:
    server.request("POST", f"/_perdure/quarantine/{object_path(address)}/{what}")


def _done(address: str, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"address": address})
    else:
        click.echo(f"{address} {text}")
