"""`perdure versions`: which code there is, which objects hold older code and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from perdure.cli.client import Server, remote
from perdure.cli.output import Complaint, examples, print_json, print_table, show_age

_PAGE = 500
_SHOWN_MAX = 50


@click.command(
    epilog=examples(
        "perdure versions", "perdure versions --past", "perdure versions 3f2a9c --to old"
    )
)
@click.argument("version", required=False)
@click.option("--class", "class_name", metavar="CLASS", help="Only objects of this class.")
@click.option("--past", is_flag=True, help="Read all history too: which versions its replay needs.")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the source of VERSION into this directory.",
)
@remote
def versions(
    version: str | None,
    class_name: str | None,
    past: bool,
    to: Path | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """List the versions of the code in the store, and the objects that are on an older one.

    With VERSION (or the beginning of one): its source.
    """
    server = Server(url, token)
    if version is not None:
        _show_bundle(server.get(f"versions/{version}"), to, as_json)
        return
    report = _report(server, class_name, past)
    if as_json:
        print_json(report)
    else:
        _tell(report)


def _report(server: Server, class_name: str | None, past: bool) -> dict[str, Any]:
    report: dict[str, Any] = server.get("versions")
    on: Counter[str] = Counter()
    code: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    objects: list[dict[str, Any]] = []
    after = None
    while True:
        query = {"class": class_name, "after": after, "limit": _PAGE}
        page = server.get("versions/objects", **query, past="1" if past else None)
        objects += page["objects"]
        on.update(page["on"])
        code.update(page["code"])
        turns.update(page["past"] or {})
        after = page["next"]
        if after is None:
            break
    for one in report["versions"]:
        name = one["version"]
        one["objects"], one["code"] = on[name], code[name]
        one["past"] = turns[name] if past else None
        needed = one["objects"] or one["code"] or name == report["current"]
        one["needed"] = bool(needed or turns[name]) if needed or past else None
    return report | {"objects": objects}


def _tell(report: dict[str, Any]) -> None:
    rows = [
        (
            one["version"] + (" (now)" if one["version"] == report["current"] else ""),
            show_age(one["created"]),
            f"{one['bytes'] / 1024:.0f} KiB",
            str(one["objects"]),
            str(one["code"]),
            "" if one["past"] is None else str(one["past"]),
            _NEEDED[one["needed"]],
        )
        for one in reversed(report["versions"])
    ]
    print_table(
        ("version", "deployed", "source", "objects", "waiting code", "in the past of", "needed"),
        rows,
    )
    for one in report["objects"][:_SHOWN_MAX]:
        click.echo(f"{one['address']} is on {one['version']}: {one['why'] or 'its code waits'}")
        for place in one["stays"]:
            what = f"{place['function']} in {place['module']}" if place["function"] else "code"
            click.echo(f"    {what} goes on in version {place['version']}")
    if len(report["objects"]) > _SHOWN_MAX:
        click.echo(f"… and {len(report['objects']) - _SHOWN_MAX} more; --json prints all")


_NEEDED = {True: "yes", False: "no", None: "by the past, perhaps (--past)"}


def _show_bundle(bundle: dict[str, Any], to: Path | None, as_json: bool) -> None:
    if to is None:
        if as_json:
            print_json(bundle)
            return
        for name, source in sorted(bundle["modules"].items()):
            click.secho(f"# --- {name}", bold=True)
            click.echo(source)
        return
    from perdure.suspend.bundles import write_source

    try:
        write_source(bundle["modules"], to)
    except FileExistsError as error:
        raise Complaint(f"{error} is there already", hint="Name an empty directory.") from None
    click.echo(f"{len(bundle['modules'])} files of version {bundle['version']} are in {to}")
