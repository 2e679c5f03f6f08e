"""`perdure backup` and `perdure restore`: copies of a whole store."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from perdure.cli.client import only_time
from perdure.cli.output import examples, json_option, print_json
from perdure.operations.backup import back_up
from perdure.operations.restore import Progress
from perdure.operations.restore import restore as restore_store
from perdure.past.moment import read_time

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "perdure backup /backups/shop",
        "perdure backup --data /var/lib/shop /backups/shop   # the second time: what is new",
    )
)
@click.argument("destination", type=_DIRECTORY)
@click.option(
    "--data",
    type=_DIRECTORY,
    default=Path(".perdure"),
    show_default=True,
    help="The data directory to copy.",
)
@json_option()
def backup(destination: Path, data: Path, as_json: bool) -> None:
    """Copy a store to the directory DESTINATION, while it is served or not.

    The copy is of one moment. Where there is one already it is brought up to date, at the cost of
    what has changed. It is a data directory: `perdure fsck --data DESTINATION` proves it, `perdure
    restore` makes a store of it, as it was at any time before.
    """
    with _progress("copying", as_json):
        done = back_up(data, destination)
    if as_json:
        print_json(asdict(done))
        return
    what = "copied" if done.whole else "brought up to date"
    click.echo(
        f"{destination}: {what}, {done.objects} objects, {done.segments} segments of history, "
        f"{done.bytes / 1e6:.1f} MB in all"
    )


@click.command(
    epilog=examples(
        "perdure restore /backups/shop --data restored",
        "perdure restore /backups/shop --data restored --to 2026-05-01T12:00Z",
        "perdure restore /backups/shop --data restored --to 10m",
        "perdure restore /backups/shop --data restored --to 10m --code before",
    )
)
@click.argument("source", type=_DIRECTORY)
@click.option("--data", type=_DIRECTORY, required=True, help="The new data directory.")
@click.option(
    "--to", callback=only_time, metavar="TIME", help="As it was then: ISO 8601, or an age as 10m."
)
@click.option("--code", type=_DIRECTORY, help="Write the source of the code that ran then into it.")
@json_option()
def restore(source: Path, data: Path, to: str | None, code: Path | None, as_json: bool) -> None:
    """Make a data directory from the copy in SOURCE.

    With --to every object goes back to its state at that time, and timers, messages under way and
    waiting code with it. Steps that were pending then will run when it is served: look first, with
    `perdure verify` or on a machine that reaches nothing. With --code you get the code of that
    time as well: deployed with the data, it is the version that it was.
    """
    to_ns = read_time(to, time.time_ns(), end=True) if to is not None else None
    with _progress("going back", as_json) as progress:
        done = restore_store(source, data, to_ns, progress, code=code)
    if as_json:
        print_json(asdict(done))
        return
    click.echo(f"{data}: {done.objects} objects")
    if to is not None:
        click.echo(
            f"  {done.changed} went back, {done.removed} did not exist yet, "
            f"{done.turns} turns were taken away"
        )
    if code is not None:
        click.echo(f"{code}: {done.files} files, the source of version {done.version}")


@contextmanager
def _progress(what: str, as_json: bool) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere nothing."""
    if as_json or not sys.stderr.isatty():
        yield lambda done, all_: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, all_: bar.update(task, completed=done, total=all_)
