"""`perdure fsck`: is the data directory sound, and what can be done if it is not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from perdure.cli.check import Loss, Report, StoreFile, open_file
from perdure.cli.objects import confirm
from perdure.cli.output import WrongUse, examples, json_option, print_json

_SHOWN_MAX = 20


@click.command(
    epilog=examples("perdure fsck --data .perdure", "perdure fsck --data .perdure --cut 4711")
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="PERDURE_DATA",
    default=".perdure",
    show_default=True,
    help="The data directory.",
)
@click.option(
    "--cut",
    type=click.IntRange(1),
    metavar="LSN",
    help="Remove the log from this chunk on, after asking.",
)
@click.option("--partition", type=int, default=0, help="The partition to cut.", hidden=True)
@click.option("--yes", is_flag=True, help="Do not ask before a cut.")
@json_option()
def fsck(data: Path, cut: int | None, partition: int, yes: bool, as_json: bool) -> None:
    """Check a data directory that nobody serves: schema, checksums, order. Exit code 1: damage.

    A damaged chunk keeps a server from starting, since nothing is ever skipped silently. The remedy
    is a backup; without one, --cut removes the log from a chunk on, and with it the latest calls.
    """
    with open_file(data) as file:
        if cut is not None:
            _cut(file, partition, cut, yes, as_json)
            return
        report = file.check()
    if as_json:
        document = asdict(report)
        document["data"] = str(data)
        document["findings"] = [
            {"place": place, "message": message} for place, message in report.findings
        ]
        print_json(document)
    else:
        _tell(data, report)
    if report.findings:
        raise SystemExit(1)


def _tell(data: Path, report: Report) -> None:
    for place, message in report.findings[:_SHOWN_MAX]:
        click.echo(f"{click.style('damaged', fg='red')}  {place}: {message}")
    if len(report.findings) > _SHOWN_MAX:
        click.echo(f"… and {len(report.findings) - _SHOWN_MAX} more; --json prints all")
    for part in report.parts:
        click.echo(
            f"log: chunks {part.checkpoint + 1} to {part.tail}, {part.chunks} there with "
            f"{part.entries} entries (partition {part.part}, epoch {part.epoch})"
            if part.tail > part.checkpoint
            else f"log: empty behind chunk {part.checkpoint} "
            f"(partition {part.part}, epoch {part.epoch})"
        )
    click.echo(f"objects: {report.objects}, with {report.segments} segments of history")
    if report.blobs:
        left = f", of which {report.orphans} are left over; the next start removes them"
        click.echo(f"large values beside the journal: {report.blobs}{left * bool(report.orphans)}")
    if not report.findings:
        click.echo(f"{data} is sound (schema {report.schema})")
        return
    click.echo(f"{data} is damaged in {len(report.findings)} places (schema {report.schema})")
    click.echo("  Copy the directory first. Then restore a backup, if there is one.")
    for part in report.parts:
        if part.first_damaged is not None:
            click.echo(
                f"  Without one: perdure fsck --data {data} --cut {part.first_damaged} removes the "
                "log from there on,\n  and says before what is lost."
            )


def _cut(file: StoreFile, part: int, lsn: int, yes: bool, as_json: bool) -> None:
    loss = file.loss(part, lsn)
    if not as_json:
        _tell_loss(loss)
    if not yes:
        if as_json:
            raise WrongUse("a cut with --json needs --yes")
        confirm("Remove that? It cannot be undone; a copy of the directory can")
    file.cut(part, lsn)
    if as_json:
        print_json({"partition": part, "cut": lsn, "lost": asdict(loss)})
    else:
        click.echo(f"the log ends at chunk {lsn - 1} now")


def _tell_loss(loss: Loss) -> None:
    click.echo(f"lost are {loss.chunks} chunks with {loss.entries} readable entries", err=True)
    if loss.damaged:
        click.echo(f"  {loss.damaged} chunks cannot be read; what they held is lost too", err=True)
    largest = sorted(loss.objects.items(), key=lambda item: -item[1])
    for address, count in largest[:_SHOWN_MAX]:
        click.echo(f"  {address}: {count} {'entry' if count == 1 else 'entries'}", err=True)
    if len(largest) > _SHOWN_MAX:
        click.echo(f"  … and {len(largest) - _SHOWN_MAX} more objects", err=True)
