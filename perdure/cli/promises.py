"""`perdure promises` and `perdure resolve`: what waits for a decision, and the decision."""

from __future__ import annotations

import json
import re
import sys
from typing import Any
from urllib.parse import quote, unquote

import click

from perdure.cli.call import read_value
from perdure.cli.client import Server, remote
from perdure.cli.output import WrongUse, examples, print_json, print_table, show_age, show_time

_PAGE = 1000
_NEXT = re.compile(r'[?&]after=([^&>]*)[^>]*>; rel="next"')


@click.command(
    epilog=examples("perdure promises", "perdure promises --object Order/42 --type Approval")
)
@click.option("--object", "address", metavar="ADDRESS", help="Only those of one object.")
@click.option("--class", "class_name", metavar="CLASS", help="Only those of objects of a class.")
@click.option("--type", "type_", metavar="TYPE", help="Only those of a type, such as Approval.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@remote
def promises(
    address: str | None,
    class_name: str | None,
    type_: str | None,
    limit: int,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """List open promises, of all objects, the oldest first: what waits to be resolved."""
    query = {"object": address, "class": class_name, "type": type_}
    rows = _list(Server(url, token), query, limit + 1)
    more = len(rows) > limit
    del rows[limit:]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no open promises" + (" like that" if any(query.values()) else ""))
        return
    print_table(
        ("OBJECT", "TYPE", "SINCE", "UNTIL", "TOKEN"),
        [
            (
                row["object"],
                row["type"],
                f"{show_age(row['since'])} ago",
                show_time(row["until"]) if row["until"] else "",
                row["token"],
            )
            for row in rows
        ],
    )
    if more:
        click.echo(f"… and more; --limit {limit * 10} shows them", err=True)


def _list(server: Server, query: dict[str, str | None], limit: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: str | None = None
    while len(rows) < limit:
        size = min(limit - len(rows), _PAGE)
        answer = server.request(
            "GET", "/_perdure/promises", query={**query, "limit": size, "after": after}
        )
        rows += answer.json()
        following = _NEXT.search(answer.headers.get("Link", ""))
        if following is None:
            break
        after = unquote(following[1])
    return rows


@click.command(
    epilog=examples(
        """perdure resolve TOKEN '{"approved": true, "by": "ada"}'""",
        "perdure resolve TOKEN --reject 'the budget is spent'",
    )
)
@click.argument("token_of_promise", metavar="TOKEN")
@click.argument("value", metavar="[JSON]", required=False)
@click.option("--reject", metavar="REASON", help="No value will come; whoever waits gets an error.")
@remote
def resolve(
    token_of_promise: str,
    value: str | None,
    reject: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Give a promise its value: JSON, or text where it is no JSON, or - for what stdin brings.

    It counts once: a promise that is resolved already stays as it is, and the exit code is 1.
    """
    if (value is None) == (reject is None):
        raise click.UsageError("give the value, or --reject with a reason")
    path = f"/_perdure/promises/{quote(token_of_promise, safe='')}"
    if reject is not None:
        path, body = f"{path}/reject", _dump(reject)
    elif value == "-":
        body = sys.stdin.buffer.read()
    else:
        body = _dump(_value(value or ""))
    Server(url, token).request("POST", path, body=body)
    if as_json:
        print_json({"token": token_of_promise, "resolved": reject is None})
    else:
        click.echo("resolved" if reject is None else "rejected")


def _value(text: str) -> object:
    """JSON, or plain text; what begins like JSON and is none was meant to be."""
    value = read_value(text)
    if value == text and text[:1] in ("{", "[", '"'):
        raise WrongUse(f"{text[:60]!r} is no JSON", hint="Quote it for the shell: '{\"ok\": true}'")
    return value


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
