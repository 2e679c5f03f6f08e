"""The commands of `perdure replay --pdb`: from turn to turn and back, with pdb inside a turn."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from perdure.cli.debugger import TurnPdb
from perdure.cli.past import print_changes, print_error, print_turn, read_place
from perdure.errors import DivergenceError, PerdureError
from perdure.past import looking
from perdure.past.moment import Moment
from perdure.past.rerun import Rerun, plain_run
from perdure.past.state import state_of
from perdure.past.walk import walk
from perdure.sight.look import event_of, told

_HELP = """\
n [N]         run the next turn, or N of them
s             run the next turn line by line, in pdb (there: n, s, p …; c goes to the turn's end)
b [N]         go back a turn, or N of them
g SEQ         go to where turn SEQ has just run
c             run on to a breakpoint, a failed call, or the end
p             the state; `p NAME` or any expression with `self`: its value
d             what the last turn has changed
e             what the last turn has raised, with locals
l             the turn that comes
break FILE:LINE   stop there, inside a turn; `clear` removes all of them
q             leave
An empty line repeats the last command."""


class Turns:
    """The loop that reads commands and does them."""

    def __init__(self, rerun: Rerun, places: list[tuple[str, int]], last: int) -> None:
        self._rerun = rerun
        self._last = last
        # As it is now: while a turn is heard, sys.stdout is something else.
        self._pdb = TurnPdb(places, sys.stdin, sys.stdout)
        self._before = "n"

    async def loop(self) -> int:
        """Until somebody leaves, or the input ends."""
        click.echo(
            f"{looking.address_of(self._rerun.record)}, turns 1 to {self._rerun.record.last}; "
            "h lists the commands"
        )
        while True:
            line = self._read()
            if line is None:
                return 0
            line = line.strip() or self._before
            self._before = line
            word, _, rest = line.partition(" ")
            if word in ("q", "quit", "exit"):
                return 0
            try:
                await self._do(word, rest.strip(), line)
            except DivergenceError as error:
                click.echo(click.style(error.message, fg="red"))
            except PerdureError as error:
                click.echo(click.style(f"error: {error.message}", fg="red"))

    def _read(self) -> str | None:
        prompt = f"(turn {self._rerun.seq}) "
        try:
            if sys.stdin.isatty():
                import readline  # noqa: F401 - its import gives `input` a history

                return input(prompt)
        except EOFError:
            return None
        sys.stdout.write(prompt)
        sys.stdout.flush()
        line = sys.stdin.readline()
        return line or None

    async def _do(self, word: str, rest: str, line: str) -> None:
        match word:
            case "n" | "next":
                await self._run(_count(rest), stepping=False)
            case "s" | "step":
                await self._run(1, stepping=True)
            case "c" | "continue":
                await self._run(None, stepping=False)
            case "b" | "back":
                await self._go(self._rerun.seq - _count(rest))
            case "g" | "go" if rest.isdecimal():
                await self._go(int(rest))
            case "break":
                self._break(rest)
            case "clear":
                self._pdb.places.clear()
            case "d" | "diff":
                await self._diff()
            case "e" | "errors":
                for error in self._rerun.errors:
                    print_error(error)
                if not self._rerun.errors:
                    click.echo("nothing was raised")
            case "l" | "list":
                await self._coming()
            case "h" | "help" | "?":
                click.echo(_HELP)
            case "p" | "print" | "state" if not rest:
                for name, value in (state_of(self._rerun.machine) or {}).items():
                    click.echo(f"  {name} = {json.dumps(value, ensure_ascii=False)}")
            case "p" | "print":
                await self._evaluate(rest)
            case _:
                await self._evaluate(line)

    async def _run(self, count: int | None, *, stepping: bool) -> None:
        while count is None or count > 0:
            if self._rerun.seq >= self._last:
                click.echo("this is the end" if self._last else "there are no turns")
                return
            turn = await self._rerun.forward(self._in_pdb(stepping=stepping), sys.stdout)
            assert turn is not None
            print_turn(turn, self._rerun.errors)
            if self._pdb.stopped or (count is None and self._rerun.errors):
                return
            if count is not None:
                count -= 1

    def _in_pdb(self, *, stepping: bool) -> Callable[[Callable[[], None]], None]:
        if not (stepping or self._pdb.places):
            self._pdb.stopped = False
            return plain_run
        return lambda turn: self._pdb.run_turn(turn, stepping=stepping)

    async def _go(self, seq: int) -> None:
        await self._rerun.begin(min(max(seq, 0), self._rerun.record.last))
        entry = await self._rerun.record.probe(self._rerun.seq) if self._rerun.seq else None
        if entry is None:
            click.echo("before the first turn")
        else:
            print_turn(told(entry), self._rerun.errors)

    def _break(self, rest: str) -> None:
        if not rest:
            for file, line in sorted(self._pdb.places):
                click.echo(f"  {file}:{line}")
            return
        try:
            self._pdb.places.add(read_place(rest))
        except click.ClickException as error:
            click.echo(error.message)

    async def _diff(self) -> None:
        seq = self._rerun.seq
        if not seq:
            click.echo("before the first turn")
            return
        found = await looking.diff(self._rerun.record, Moment(seq - 1, None), Moment(seq, None))
        print_changes(found["changes"])
        if not found["changes"]:
            click.echo("nothing changed")

    async def _coming(self) -> None:
        entry = await self._rerun.next()
        if entry is None:
            click.echo("this is the end")
            return
        kind, what = event_of(entry)
        click.echo(f"{entry.seq:>6}  {kind} {what}")

    async def _evaluate(self, text: str) -> None:
        # On a copy of the copy: an expression may change what it looks at.
        machine = await walk(self._rerun.record, self._rerun.seq)
        try:
            variables: dict[str, Any] = {"self": machine.instance}
            if machine.instance is not None:
                module = sys.modules.get(type(machine.instance).__module__)
                variables = {**vars(module), **variables} if module is not None else variables
                variables |= {
                    name: value
                    for name, value in vars(machine.instance).items()
                    if name not in variables
                }
            with machine.inside():
                try:
                    click.echo(repr(eval(text, variables)))
                except Exception as error:
                    click.echo(f"{type(error).__name__}: {error}")
        finally:
            machine.discard()


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 1
