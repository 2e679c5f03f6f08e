"""`perdure replay`: an object's past run again in this process, with a debugger if wished.

The object comes from a data directory, a file, or a running server, with the code it ran under;
nothing is written there, and nothing of the outside is reached from here.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.client import Server, object_path, remote
from perdure.cli.output import Complaint, WrongUse, examples
from perdure.cli.past import print_turn, read_place

if TYPE_CHECKING:
    from perdure.past.extract import Export, Extract

_FETCH_S = 600.0


@click.command(
    epilog=examples(
        "perdure replay Order/42 --to 17",
        "perdure replay Order/42 --pdb --break shop.py:31",
        "perdure replay Order/42 --file order.px --app shop.py",
    )
)
@click.argument("address")
@click.option("--from", "begin", type=click.IntRange(1), default=1, help="The first turn to run.")
@click.option("--to", "to", type=click.IntRange(0), help="The last turn to run. Default: all.")
@click.option("--pdb", is_flag=True, help="Stop at turns, and step through them and back.")
@click.option(
    "--break", "breaks", multiple=True, metavar="FILE:LINE", help="Stop there too; with --pdb."
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Read this data directory, served or not, instead of asking a server.",
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read a file of `perdure export`.",
)
@click.option("--app", metavar="APP", help="Run this code, and not the code of then.")
@remote
def replay(
    address: str,
    begin: int,
    to: int | None,
    pdb: bool,
    breaks: tuple[str, ...],
    data: Path | None,
    file: Path | None,
    app: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Run an object's past again, turn by turn, with the real code and nothing outside.

    What it printed and logged then appears again, behind a bar. A turn that asks for something
    else than the journal says is told, and ends it with exit code 1.
    """
    if data is not None and file is not None:
        raise WrongUse("--data and --file both say where the object is; give one")
    if breaks and not pdb:
        raise WrongUse("--break stops in the debugger: add --pdb")
    if pdb and as_json:
        raise WrongUse("the debugger is for people; --json is not")
    places = [read_place(text) for text in breaks]

    # The guard sees the real functions before the app does, as in a server.
    from perdure.host import async_generators, guard
    from perdure.suspend import probe

    export = _fetch(address, data, file, url, token)
    _take_seed(export)
    guard.install()
    async_generators.install()
    probe.unfit()
    with asyncio.Runner() as runner:
        code = runner.run(
            _replay(export, _one(export, address), app, begin, to, pdb, places, as_json)
        )
    if code:
        raise SystemExit(code)


def _fetch(
    address: str, data: Path | None, file: Path | None, url: str, token: str | None
) -> Export:
    from perdure.past import extract, offline

    if data is not None:
        return asyncio.run(offline.read_directory(data, address))
    if file is not None:
        return extract.read(file.read_bytes(), str(file))
    path = f"/_perdure/objects/{object_path(address)}/export"
    body = Server(url, token).request("GET", path, timeout_s=_FETCH_S).body
    return extract.read(body, "what the server sent")


def _one(export: Export, address: str) -> Extract:
    for one in export.objects:
        if one.address == address:
            return one
    there = ", ".join(one.address for one in export.objects[:5])
    raise Complaint(f"{address} is not in the file; in it: {there}", code="unknown-object")


def _take_seed(export: Export) -> None:
    """Be a process in which sets of text are walked as in those that ran the object."""
    seed = str(export.head.hash_seed)
    if os.environ.get("PYTHONHASHSEED") != seed:
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": seed})


async def _replay(
    export: Export,
    one: Extract,
    app: str | None,
    begin: int,
    to: int | None,
    pdb: bool,
    places: list[tuple[str, int]],
    as_json: bool,
) -> int:
    from perdure.errors import DivergenceError
    from perdure.past.offline import record_from
    from perdure.past.rerun import Rerun, plain_run

    classes = None
    if app is not None:
        from perdure.cli.load import load

        classes = load(app).classes
    record = record_from(export, one, classes)
    last = record.last if to is None else min(to, record.last)
    rerun = Rerun(record)
    await rerun.begin(min(begin - 1, last))
    try:
        if pdb:
            from perdure.cli.turns import Turns

            return await Turns(rerun, places, last).loop()
        while rerun.seq < last:
            printed = sys.stderr if as_json else sys.stdout
            turn = await rerun.forward(plain_run, printed)
            assert turn is not None
            print_turn(turn, rerun.errors, as_json=as_json)
        if not as_json:
            click.echo(f"{max(0, last - begin + 1)} turns ran as the journal has them")
        return 0
    except DivergenceError as error:
        raise Complaint(
            error.message,
            hint="This code does not do what was done then. Without --app, the code of then runs."
            if app is not None
            else error.hint,
            code=error.code,
            facts={"seq": error.seq, "expected": error.expected, "found": error.found},
        ) from error
    finally:
        rerun.close()
