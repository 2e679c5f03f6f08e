"""`perdure doctor`: which objects could not be loaded under this interpreter and this code."""

from __future__ import annotations

import sys
from typing import Any

import click

from perdure.cli.client import Server, remote
from perdure.cli.output import examples, print_json

# A page loads so many snapshots; a request for it should not take long.
_PAGE = 200


@click.command(epilog=examples("perdure doctor --class Order"))
@click.option("--class", "class_name", metavar="CLASS", help="Only objects of this class.")
@remote
def doctor(class_name: str | None, url: str, token: str | None, as_json: bool) -> None:
    """Try to load what is stored of each object, and tell what does not load and what follows.

    The running server does it, with its interpreter and its code; no object is woken and nothing
    is changed. Exit code 1: something cannot be loaded at all.
    """
    report = _examine(Server(url, token), class_name)
    if as_json:
        print_json(report)
    else:
        _tell(report)
    if not all(problem["loadable"] for problem in report["problems"]):
        raise SystemExit(1)


def _examine(server: Server, class_name: str | None) -> dict[str, Any]:
    checked = 0
    problems: list[dict[str, Any]] = []
    after = None
    while True:
        query = {"class": class_name, "after": after, "limit": _PAGE}
        page = server.get("doctor", **query)
        checked += page["checked"]
        problems += page["problems"]
        after = page["next"]
        if after is None:
            break
        if sys.stderr.isatty():
            click.echo(f"\rchecked {checked} objects, up to {after[:60]}\x1b[K", nl=False, err=True)
    if checked > _PAGE and sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    return {
        "checked": checked,
        "interpreter": page["interpreter"],
        "suspended_code": page["suspended_code"],
        "problems": problems,
    }


def _tell(report: dict[str, Any]) -> None:
    for problem in report["problems"]:
        colour = "yellow" if problem["loadable"] else "red"
        what = click.style(problem["what"], fg=colour)
        click.echo(f"{click.style(problem['address'], bold=True)}  {what}")
        click.echo(f"  {problem['why']}")
        click.echo(f"  what follows: {problem['follows']}")
    objects = "1 object" if report["checked"] == 1 else f"{report['checked']} objects"
    click.echo(f"{objects} checked under {report['interpreter']}")
    why = report["suspended_code"]["why"]
    click.echo(
        f"suspended code cannot be kept here, and comes back by replay: {why}"
        if why
        else "suspended code can be kept here"
    )
    # A snapshot that fails may still have another of the same object behind it.
    lost = {problem["address"] for problem in report["problems"] if not problem["loadable"]}
    others = {problem["address"] for problem in report["problems"]} - lost
    if others:
        click.echo(f"{len(others)} of them come back in another way")
    if lost:
        click.echo(click.style(f"{len(lost)} of them cannot be loaded", fg="red"))
    elif not others:
        click.echo("all of them load")
