"""Runs the benchmarks: `python -m benchmarks [names…] [--json FILE] [--quick] [--write]`.

Each figure is a median of three rounds, in which it takes turns with its yardstick. `--write` runs
all of them and puts the table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import traceback
from pathlib import Path

from benchmarks.report import Figure, Missing, print_figure, table

README = Path(__file__).with_name("README.md")
# In the order of the table.
FIGURES = {
    "http": "over_http",
    "turn": "turn",
    "store": "store_commit",
    "replay": "replay",
    "past": "past",
    "wake": "wake",
    "deploy": "deploy",
    "verify": "verify",
    "idle": "idle_objects",
    "restart": "restart",
    "step": "steps",
    "workflow": "workflows",
    "timers": "timers",
    "suspended": "suspended",
    "sessions": "sessions",
    "gateway": "front",
    "kit": "kit",
    "values": "serde",
    "slot": "turn_slot",
}
ROUNDS = 3
_LOAD_OF_OTHERS = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of: {', '.join(FIGURES)}")
    parser.add_argument("--json", metavar="FILE", help="also write all figures there")
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    unknown = set(options.names) - set(FIGURES)
    if unknown:
        parser.error(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(FIGURES)}")
    if options.write and (options.names or options.quick):
        parser.error("--write is for a whole run: leave out the names and --quick")
    where = circumstances()
    figures, failed = run(options.names or list(FIGURES), quick=options.quick)
    if options.json:
        about = {"circumstances": where, "figures": [one.to_json() for one in figures]}
        Path(options.json).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    if options.write and not failed:
        write(figures, where)
    missed = sum(not goal.met for figure in figures for goal in figure.goals)
    goals = sum(len(figure.goals) for figure in figures)
    print(f"\n{goals - missed} of {goals} goals met; {where}")
    return 1 if failed else 0


def run(names: list[str], *, quick: bool) -> tuple[list[Figure], bool]:
    """The figures of these benchmarks, printed as they come; and whether one of them failed."""
    found: list[Figure] = []
    failed = False
    for name in names:
        print(f"{name}:", flush=True)
        try:
            module = importlib.import_module(f"benchmarks.{FIGURES[name]}")
            for figure in module.figures(1 if quick else ROUNDS, quick):
                print_figure(figure)
                sys.stdout.flush()
                found.append(figure)
        except Missing as missing:
            print(f"  left out: {missing}")
            found.append(Figure(name, "not measured", note=str(missing)))
        except Exception:
            # The others are worth having all the same.
            traceback.print_exc()
            failed = True
    return found, failed


def circumstances() -> str:
    """Where and what is measured, in a line. Asked before our own load is on the machine."""
    load = os.getloadavg()[0]
    shared = "shared with other work" if load > _LOAD_OF_OTHERS else "with nothing else on"
    system = f"{platform.system()} {platform.release()}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{_processor()}, {os.cpu_count()} cores {shared} (load {load:.1f} before it began), "
        f"{system}; {python}; commit {_commit()}; {today}"
    )


def _processor() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=README.parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        changed = " with changes" if git("status", "--porcelain", "--", "../perdure") else ""
        return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
    except OSError:
        return "unknown"


def write(figures: list[Figure], where: str) -> None:
    """Put the table between its marks in README.md."""
    text = README.read_text()
    begin, end = "<!-- results -->", "<!-- end of results -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    assert tail, f"{README} has no {begin} … {end}"
    said = f"Measured by `make bench` (`python -m benchmarks --write`) on {where}."
    README.write_text(f"{head}{begin}\n\n{said}\n\n{table(figures)}\n\n{end}{tail}")


if __name__ == "__main__":
    sys.exit(main())
