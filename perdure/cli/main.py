"""`perdure`: the table of commands, and what every one of them does with an error.

Exit codes: 0 done, 1 it says no, 2 wrong use.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from perdure.cli.output import Complaint, WrongUse, complain, examples
from perdure.errors import BadApp, BadSettings, InvalidKey, PerdureError, StoreBusy

# name: (module:attribute, what it does). The line stands here so that the list of commands needs
# no import of theirs.
_COMMANDS: dict[str, tuple[str, str]] = {
    "dev": ("perdure.cli.serve:dev", "Serve an app for development: reload on change, state kept."),
    "serve": ("perdure.cli.serve:serve", "Serve an app for production."),
    "call": ("perdure.cli.call:call", "Call a handler of an object and print the result."),
    "send": ("perdure.cli.call:send", "Tell an object something; print the call's id."),
    "calls": ("perdure.cli.calls:calls", "List calls: what runs, what failed, what waits."),
    "stuck": ("perdure.cli.calls:stuck", "List what cannot go on."),
    "cancel": ("perdure.cli.calls:cancel", "Cancel a call by its id."),
    "ls": ("perdure.cli.objects:ls", "List objects."),
    "show": ("perdure.cli.objects:show", "Show one object: state, timers, where its code waits."),
    "why": ("perdure.cli.waits:why", "Show what an object waits for, to the end."),
    "promises": ("perdure.cli.promises:promises", "List open promises: what waits for a decision."),
    "resolve": ("perdure.cli.promises:resolve", "Give a promise its value."),
    "history": ("perdure.cli.history:history", "Show an object's journal, an entry a line."),
    "state": ("perdure.cli.past:state", "Show an object's state as it was at a turn or time."),
    "diff": ("perdure.cli.past:diff", "Show what changed between two turns."),
    "errors": ("perdure.cli.past:errors", "Show what was raised, with locals as they were."),
    "connect": ("perdure.cli.sockets:connect", "Talk to an object over a socket."),
    "tail": ("perdure.cli.sockets:tail", "Print what an object sends to its connections."),
    "replay": ("perdure.cli.replay:replay", "Run an object's past again, with a debugger."),
    "what-if": ("perdure.cli.past:what_if", "What if one call had been another?"),
    "fork": ("perdure.cli.forks:fork", "Make a new object with another one's past."),
    "release": ("perdure.cli.forks:release", "Let a fork or an import reach the outside."),
    "export": ("perdure.cli.forks:export", "Write an object into a file."),
    "import": ("perdure.cli.forks:bring_in", "Bring in the objects of a file."),
    "delete": ("perdure.cli.objects:delete", "End an object: its state and its timers."),
    "quarantine": ("perdure.cli.quarantine:quarantine", "Objects that were set aside."),
    "versions": ("perdure.cli.versions:versions", "Which code there is, and who holds older code."),
    "verify": ("perdure.cli.verify:verify", "Replay stored histories with new code, on copies."),
    "doctor": ("perdure.cli.doctor:doctor", "Which objects could not be loaded, and why."),
    "repair": ("perdure.cli.upkeep:repair", "Change one thing of an object by hand."),
    "erase": ("perdure.cli.upkeep:erase", "Remove an object and all that is stored of it."),
    "prune": ("perdure.cli.upkeep:prune", "Remove old history."),
    "du": ("perdure.cli.upkeep:du", "Say what takes how much room."),
    "backup": ("perdure.cli.copies:backup", "Copy a store while it is served."),
    "restore": ("perdure.cli.copies:restore", "Make a store from a copy, as of any time."),
    "fsck": ("perdure.cli.fsck:fsck", "Check a data directory, and cut a damaged log."),
    "version": ("perdure.cli.version:version", "Print the version."),
}


class _Commands(click.Group):
    """A group which imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else " See: perdure --help"
            raise click.UsageError(f"there is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PerdureError as error:
            wrong_use = isinstance(error, (BadApp, BadSettings, InvalidKey, StoreBusy))
            kind = WrongUse if wrong_use else Complaint
            raise kind(error.message, hint=error.hint, code=error.code) from error
        except UnicodeEncodeError as error:
            # Bytes of the shell that are no UTF-8 arrive as half surrogates. A name of a file may
            # have them; a name of anything else cannot be sent.
            wrong = _not_utf8()
            if wrong is None:
                raise
            raise WrongUse(f"the argument {wrong!r} is not valid UTF-8") from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples("perdure dev counter.py"),
)
@click.version_option(package_name="perdure", message="perdure %(version)s")
def commands() -> None:
    """Durable objects for Python: a class whose objects never forget."""


def main() -> None:
    """The entry point of the script."""
    try:
        code = commands.main(standalone_mode=False, prog_name="perdure")
    except Complaint as complaint:
        complain(complaint)
        code = complaint.exit_code
    except click.ClickException as error:
        # Of a command that was not understood, its options were not either: who asked for JSON
        # reads JSON here as well.
        if "--json" in sys.argv:
            complain(_not_understood(error))
        else:
            error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        code = 1
    sys.exit(code)


def _not_utf8() -> str | None:
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return argument
    return None


def _not_understood(error: click.ClickException) -> Complaint:
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else None
    complaint = Complaint(error.format_message(), hint=hint)
    complaint.as_json = True
    return complaint


if __name__ == "__main__":
    main()
