"""Programs at random, each run alone, through bytes at every suspension, and by replay.

    python -m tests.suspend.fuzz [--suspensions 100000] [--first SEED] [--processes]

The programs run in batches, a process each, so that a crash ends its batch alone and names its
seed. With --processes each turn of a program runs in a new process, from the bytes the last one
left. It prints what was found and exits 1 if a program came to something else.
"""

from __future__ import annotations

import argparse
import base64
import collections
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from perdure.errors import NotSerializable
from perdure.journal.entry import JSON, Call, Fired
from perdure.suspend import heap
from tests.suspend import programs
from tests.suspend.machines import START_NS, Run, fresh, reborn, replayed, state_of, told

ROOT = Path(__file__).parent.parent.parent
BATCH = 50
TURNS_MAX = 200
WRONG_MAX = 20


class Found(NamedTuple):
    """What became of one program: `same`, `refused: …`, `syntax`, or how it differed."""

    verdict: str
    suspensions: int


def check(seed: int) -> Found:
    """Run the program of a seed in all three ways."""
    try:
        cls = programs.load(seed)
    except SyntaxError:
        return Found("syntax", 0)
    try:
        with warnings.catch_warnings():
            # A handler that is stopped after so many turns leaves coroutines behind.
            warnings.simplefilter("ignore")
            return _compare(cls)
    finally:
        programs.unload(seed)


def _compare(cls: type) -> Found:
    plain = Run(fresh(cls))
    through = Run(fresh(cls), reborn)
    for run in (plain, through):
        run.call("main")
    turns = 0
    try:
        while turns < TURNS_MAX and plain.step():
            turns += 1
            through.step()
            if told(plain) != told(through):
                return Found(f"turn {turns} differs: {_last(through)} not {_last(plain)}", turns)
            if not heap.same_heap(plain.machine, through.machine):
                return Found(f"the memory differs after turn {turns}", turns)
        if through.step() and turns < TURNS_MAX:
            return Found("the copy goes on, and the original has ended", turns)
        again = replayed(plain, fresh(cls))
        if not heap.same_heap(plain.machine, again):
            return Found("the memory differs after a replay", turns)
    except NotSerializable as error:
        return Found(f"refused: {error.message}", turns)
    finally:
        for run in (plain, through):
            heap.drop_all(run.machine)
    if plain.problems() != through.problems():
        return Found(f"problems differ: {through.problems()} not {plain.problems()}", turns)
    return Found("same", turns)


def _last(run: Run) -> str:
    return str(run.turns[-1].commands)


# --- a process for each turn


def check_in_processes(seed: int) -> Found:
    """Run the program of a seed with a new process for each turn."""
    try:
        cls = programs.load(seed)
    except SyntaxError:
        return Found("syntax", 0)
    plain = Run(fresh(cls))
    plain.call("main")
    plain.finish(TURNS_MAX)
    data = b""
    log = ""
    for i in range(len(plain.turns)):
        command = [sys.executable, "-W", "ignore", "-m", "tests.suspend.fuzz", "--turn", str(seed)]
        done = subprocess.run(
            command, input=base64.b64encode(data), capture_output=True, cwd=ROOT, check=False
        )
        if done.returncode:
            return Found(f"turn {i} ended with {done.returncode}: {done.stderr[-400:]!r}", i)
        answer = json.loads(done.stdout)
        data, log = base64.b64decode(answer["data"]), answer["log"]
    expected = _log(plain)
    verdict = "same" if log == expected else f"{log} not {expected}"
    return Found(verdict, len(plain.turns))


def _log(run: Run) -> str:
    state = state_of(run.machine)
    return repr((state["log"], state["x"], state["table"], run.machine.seq, run.problems()))


def one_turn(seed: int) -> None:
    """The child: load what comes in, run a turn, give what the memory is then."""
    machine = fresh(programs.load(seed))
    data = base64.b64decode(sys.stdin.buffer.read())
    run = Run(machine)
    if data:
        heap.load_heap(machine, data)
        run.now = max(START_NS, machine.next_timer_ns())
        run.turn(Fired())
    else:
        run.turn(Call("c0-0", "main", JSON, b""))
    after = heap.dump_heap(run.machine)
    print(json.dumps({"data": base64.b64encode(after).decode(), "log": _log(run)}))


# --- many


def batch(first: int, count: int, *, processes: bool) -> None:
    """The child of `many`: a line for each program."""
    for seed in range(first, first + count):
        print(json.dumps([seed]), flush=True)
        found = check_in_processes(seed) if processes else check(seed)
        print(json.dumps([seed, *found]), flush=True)


def many(first: int, suspensions: int, *, processes: bool) -> int:
    """Batch after batch; gives how many programs came out wrong."""
    counts: collections.Counter[str] = collections.Counter()
    done, wrong, seed = 0, 0, first
    while done < suspensions and wrong < WRONG_MAX:
        command = [sys.executable, "-m", "tests.suspend.fuzz", "--batch", str(seed)]
        command += ["--processes"] if processes else []
        child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        last = seed
        for line in child.stdout.splitlines():
            last, *found = json.loads(line)
            if not found:
                continue
            verdict, turns = found
            done += turns
            kind = verdict.split(":")[0].split(" ")[0]
            counts[kind] += 1
            if kind not in ("same", "syntax", "refused"):
                wrong += 1
            if kind not in ("same", "syntax"):
                print(f"seed {last}: {verdict[:500]}", flush=True)
        if child.returncode:
            wrong += 1
            print(f"seed {last}: ended with {child.returncode}: {child.stderr[-800:]}", flush=True)
        seed += BATCH
    version = sys.version.split()[0]
    print(f"Python {version}: {done} suspensions, {dict(counts)}, wrong: {wrong}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.suspend.fuzz")
    parser.add_argument("--suspensions", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn is not None:
        one_turn(options.turn)
    elif options.batch is not None:
        batch(options.batch, BATCH, processes=options.processes)
    else:
        return min(many(options.first, options.suspensions, processes=options.processes), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
