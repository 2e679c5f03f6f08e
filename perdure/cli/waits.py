"""`perdure why`, and how waits look on a terminal: like a traceback, with what is waited for."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli.client import Server, object_path, remote
from perdure.cli.output import examples, print_json, show_age, show_time


@click.command(epilog=examples("perdure why Order/42"))
@click.argument("address")
@remote
def why(address: str, url: str, token: str | None, as_json: bool) -> None:
    """Show what an object waits for, and what that waits for, across objects, to the end.

    What stands deeper is what the line above it waits for. The last line of each branch is where to
    look: a timer, a step, a future that nobody has set, or a circle.
    """
    lines = Server(url, token).get(f"objects/{object_path(address)}/why")
    if as_json:
        print_json(lines)
        return
    if not lines:
        click.echo(f"{address} waits for nothing")
    for line in lines:
        indent = "  " * line["depth"]
        who = " ".join(filter(None, (line["address"], line["task"])))
        print_wait(who, line, indent, with_locals=False)


def print_wait(who: str, wait: dict[str, Any], indent: str, *, with_locals: bool) -> None:
    """One wait: who, what for, since and until when, and where in the code."""
    on = wait["waiting_on"]
    if wait.get("end") in ("circle", "quarantined", "not served"):
        on = click.style(on, fg="red")
    click.echo(f"{indent}{click.style(who, bold=True)}: {on}")
    times = []
    if wait.get("since"):
        times.append(f"since {show_time(wait['since'])} ({show_age(wait['since'])})")
    if wait.get("until"):
        times.append(f"until {show_time(wait['until'])} at the latest")
    if wait.get("cancelled"):
        times.append(
            "its deadline has passed" if wait["cancelled"] == "deadline" else "it was cancelled"
        )
    if times:
        click.echo(f"{indent}  {', '.join(times)}")
    for frame in wait["stack"]:
        _print_frame(frame, f"{indent}  ", with_locals=with_locals)


def _print_frame(frame: dict[str, Any], indent: str, *, with_locals: bool) -> None:
    place = f'File "{frame["file"]}", line {frame["line"]}, in {frame["function"]}'
    if frame.get("library"):
        # Where Python and its libraries wait interests few; that they do is said by the wait.
        click.echo(indent + click.style(place, dim=True))
        return
    click.echo(indent + place)
    if frame.get("text"):
        click.echo(f"{indent}  {frame['text']}")
    if with_locals:
        for name, value in frame.get("locals", {}).items():
            click.echo(indent + click.style(f"    {name} = {value}", dim=True))


def print_waits(waits: list[dict[str, Any]]) -> None:
    """All that waits in one object."""
    for wait in waits:
        who = wait["task"] or "queued"
        if wait["handler"]:
            who += f" ({wait['handler']}, call {wait['call_id']})"
        print_wait(who, wait, "  ", with_locals=True)


def rebuild_text(rebuild: dict[str, Any]) -> str:
    """How an object would come back, in a line or two."""
    if "entries" not in rebuild:
        return f"by {rebuild['by']}: {rebuild['why']}"
    turns = f"{rebuild['entries']} turn{'' if rebuild['entries'] == 1 else 's'}"
    snapshot = f"the snapshot of turn {rebuild['snapshot_seq']}"
    if rebuild["base_seq"] not in (0, rebuild["snapshot_seq"]):
        snapshot += f" (base: turn {rebuild['base_seq']})"
    text = {
        "snapshot": f"from {snapshot}",
        "snapshot and replay": f"from {snapshot} and a replay of {turns}",
        "replay": f"by a replay of {turns} from the first on",
    }[rebuild["by"]]
    if rebuild["why"]:
        text += f"\n  it cannot be kept as a snapshot now: {rebuild['why']}"
    return text
