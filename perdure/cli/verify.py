"""`perdure verify`: what new code would do to the objects that are there, before it is deployed.

The work is done by processes of their own (verify_worker.py), one with the store's hash seed and
one with another: what an object does must not depend on it. This one shows what they find.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from perdure.cli.output import Complaint, WrongUse, complain, examples, json_option, print_json

_SHOWN_MAX = 20
_OTHER_SEED = "4242424243"
ANOTHER = "another hash seed"


@click.command(
    epilog=examples(
        "perdure verify shop.main:app --data /var/lib/shop",
        "perdure verify counter.py --data .perdure --class Counter --sample 500 --json",
    )
)
@click.argument("app")
@click.option(
    "--data",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="The data directory. A server may be running on it: it is only read.",
)
@click.option("--url", help="A running server, in place of --data.", envvar="PERDURE_URL")
@click.option("--token", help="The admin token, for --url.", envvar="PERDURE_ADMIN_TOKEN")
@click.option("--class", "class_name", metavar="CLASS", help="Only objects of this class.")
@click.option(
    "--sample",
    metavar="N|P%",
    help="So many objects, or such a part of them, taken evenly; all of them without it.",
)
@click.option(
    "--whole",
    is_flag=True,
    help="Try all turns there are, and not those alone that ran since the code last changed.",
)
@click.option(
    "--one-seed", is_flag=True, help="Leave out the second pass, under another hash seed."
)
@json_option()
def verify(
    app: str,
    data: Path | None,
    url: str | None,
    token: str | None,
    class_name: str | None,
    sample: str | None,
    whole: bool,
    one_seed: bool,
    as_json: bool,
) -> None:
    """Replay stored histories with the code of APP, on copies: what would come out otherwise?

    Told are objects whose replay diverges, whose state would differ from what is stored, which
    would not load, and where suspended code goes on in its old version. Nothing is written.

    Exit code 1: something diverges, differs or fails.
    """
    if data is not None:
        url = None
    elif url is None:
        raise WrongUse("verify needs the histories", hint="Give --data DIR or --url URL.")
    orders = {
        "app": app,
        "data": str(data.absolute()) if data is not None else None,
        "url": url,
        "token": token,
        "class": class_name,
        "sample": _sample(sample),
        "whole": whole,
    }
    passes = [_Pass(orders, None)]
    if not one_seed:
        passes.append(_Pass(orders, _OTHER_SEED))
    for one in passes:
        one.start()
    _show_progress(passes)
    for one in passes:
        one.join()
        if one.complaint is not None:
            complain(Complaint(**one.complaint))
            raise SystemExit(2)
    report = _merge(passes)
    if as_json:
        print_json(report)
    else:
        _tell(report)
    if report["bad"]:
        raise SystemExit(1)


def _sample(text: str | None) -> float | int | None:
    """A share below 1, or a number of objects."""
    if text is None:
        return None
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        value = 0
    if value <= 0 or (text.endswith("%") and value > 1):
        raise WrongUse(f"--sample {text}: a number of objects, or a part such as 5%")
    return None if text.endswith("%") and value == 1 else value


class _Pass(threading.Thread):
    """One process that verifies, and what it has said so far."""

    def __init__(self, orders: dict[str, Any], seed: str | None) -> None:
        super().__init__(daemon=True)
        self.orders = orders | {"seed": seed}
        self.done = self.of = self.turns = 0
        self.findings: dict[str, dict[str, Any]] = {}
        self.end: dict[str, Any] = {}
        self.complaint: dict[str, Any] | None = None

    def run(self) -> None:
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        seed = self.orders["seed"]
        if seed is not None:
            environ["PYTHONHASHSEED"] = seed
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "perdure.cli.verify_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # The orders hold a token; arguments could be seen by anybody on the machine.
        process.stdin.write(json.dumps(self.orders) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            self._hear(json.loads(line))
        code = process.wait()
        if not self.end and self.complaint is None:
            self.complaint = {
                "message": f"the process that verifies has ended (exit code {code})",
                "hint": "What it printed says why.",
            }

    def _hear(self, said: dict[str, Any]) -> None:
        match said.pop("say"):
            case "progress":
                self.done, self.of, self.turns = said["done"], said["of"], said["turns"]
            case "finding":
                self.findings[said["finding"]["address"]] = said["finding"]
            case "end":
                self.end = said
            case _:
                self.complaint = said


def _show_progress(passes: list[_Pass]) -> None:
    if not sys.stderr.isatty():
        return
    with click.progressbar(length=100, label="verifying", file=sys.stderr) as bar:
        while any(one.is_alive() for one in passes):
            passes[0].join(0.1)
            of = sum(one.of for one in passes)
            if of:
                part = 100 * sum(one.done for one in passes) // of
                bar.update(max(0, part - bar.pos))
        bar.update(max(0, 100 - bar.pos))


def _merge(passes: list[_Pass]) -> dict[str, Any]:
    first, *others = passes
    findings = dict(first.findings)
    for other in others:
        for address, finding in other.findings.items():
            known = findings.get(address)
            if _is_bad(finding) and not (known and _is_bad(known)):
                # Without the other pass nobody would have seen it.
                findings[address] = {**(known or {}), **finding, "under": ANOTHER}
    found = sorted(findings.values(), key=lambda one: (not _is_bad(one), one["address"]))
    return {
        "version": first.end["version"],
        "objects": first.end["objects"],
        "turns": first.end["turns"],
        "seconds": first.end["seconds"],
        "bad": sum(map(_is_bad, found)),
        "diverges": [one for one in found if one.get("diverges")],
        "differs": [one for one in found if one.get("differs") and not one.get("diverges")],
        "fails": [one for one in found if one.get("fails")],
        "stays": [one for one in found if one.get("stays")],
        "held": [one for one in found if one.get("held")],
        "moves": [one["address"] for one in found if one.get("moves")],
    }


def _is_bad(finding: dict[str, Any]) -> bool:
    return bool(finding.get("diverges") or finding.get("differs") or finding.get("fails"))


def _tell(report: dict[str, Any]) -> None:
    for line in _lines(report):
        click.echo(line)


def _lines(report: dict[str, Any]) -> Iterator[str]:
    for name in ("diverges", "differs", "fails", "held", "stays"):
        found = report[name]
        for one in found[:_SHOWN_MAX]:
            yield from _finding(name, one)
        if len(found) > _SHOWN_MAX:
            yield f"… and {len(found) - _SHOWN_MAX} more; --json prints all"
    if report["moves"]:
        yield f"suspended code of {len(report['moves'])} objects goes over to the new code"
    per_second = round(report["turns"] / max(report["seconds"], 1e-9))
    yield (
        f"{report['objects']} objects, {report['turns']} turns ({per_second}/s) under version "
        f"{report['version']}: "
        + (f"{report['bad']} to look at" if report["bad"] else "nothing comes out otherwise")
    )


def _finding(name: str, one: dict[str, Any]) -> Iterator[str]:
    under = f" (under {one['under']})" if one.get("under") else ""
    colour = "red" if name in ("diverges", "differs", "fails") else "yellow"
    yield f"{click.style(name, fg=colour)}  {one['address']}{under}"
    match name:
        case "diverges":
            facts = one["diverges"]
            yield f"    turn {facts['seq']}"
            yield f"    - {facts['expected']}"
            yield f"    + {facts['found']}"
        case "differs":
            seq = one["differs"]["seq"]
            yield f"    first behind turn {seq}" if seq else "    from what is stored"
            yield from (f"    {change}" for change in one["differs"]["changes"])
        case "stays":
            for place in one["stays"]:
                yield (
                    f"    {place['function']} in {place['module']} has changed, "
                    f"and goes on in version {place['version']}"
                )
        case _:
            yield f"    {one[name]}"
