"""What the commands print: tables and JSON on stdout, complaints on stderr.

For people where stdout is a terminal or nothing else was said, as JSON with `--json`. Colours are
for terminals alone, and never where NO_COLOR is set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from perdure.ages import age_s

if TYPE_CHECKING:
    from rich.console import Console


F = TypeVar("F", bound=Callable[..., Any])

_AS_JSON = "perdure.as_json"


class Complaint(click.ClickException):
    """Something is not as it should be: what, why, and what to do."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str = "error",
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
        self.as_json = wants_json()
        self.facts = facts or {}

    def show(self, file: IO[Any] | None = None) -> None:
        complain(self)


class WrongUse(Complaint):
    """The command cannot be meant as it was typed."""

    exit_code = 2


def read_age(text: str) -> float:
    """Seconds of an age as typed."""
    seconds = age_s(text)
    if seconds is None:
        raise WrongUse(f"{text!r} is no age", hint="As in 30d, 12h, 90m.")
    return seconds


def complain(complaint: Complaint) -> None:
    """Print a complaint on stderr; as JSON where the command was given `--json`."""
    if complaint.as_json:
        document = {"code": complaint.code, "detail": complaint.message} | complaint.facts
        if complaint.hint:
            document["hint"] = complaint.hint
        click.echo(json.dumps(document, ensure_ascii=False), err=True)
        return
    first, *others = complaint.message.splitlines() or [""]
    click.echo(click.style("error: ", fg="red", bold=True) + first, err=True)
    for line in others:
        click.echo(f"  {line.strip() if not line.startswith('    ') else line}", err=True)
    for line in (complaint.hint or "").splitlines():
        click.echo(f"  {line}", err=True)


def in_seconds(text: str) -> float:
    """How long, of an option: what a header field of the server takes, so no NaN."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise click.BadParameter(f"{text!r} is no number of seconds such as 2.5")
    return seconds


def as_header(seconds: float) -> str:
    """Seconds as a header field has them: digits, however many seconds there are."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def examples(*lines: str) -> str:
    """The last part of a command's help, a line each."""
    # \b keeps click from filling the lines up.
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *lines])


def json_option(text: str = "Print JSON.") -> Callable[[F], F]:
    """`--json`, which arrives as `as_json`, and is known to complaints as well."""

    def remember(context: click.Context, option: click.Parameter, as_json: bool) -> bool:
        # `meta` is shared with the contexts above, where errors are told.
        context.meta[_AS_JSON] = as_json
        return as_json

    # Before the others, one of which may be wrong.
    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, help=text, callback=remember
    )


def wants_json() -> bool:
    """Whether the running command was given `--json`."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_AS_JSON))


def print_json(value: Any) -> None:
    """A value as JSON: on a terminal over several lines and in colours, else in one line."""
    if sys.stdout.isatty() and not wants_json():
        console().print_json(data=value, ensure_ascii=False)
    else:
        click.echo(json.dumps(value, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without frames: cells can be copied, and `cut` and `awk` find them."""
    if sys.stdout.isatty():
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def console() -> Console:
    """rich's console on stdout, which knows whether that is a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def read_time(text: str | float | None) -> datetime | None:
    """A time as the server writes it: RFC 3339, or seconds or nanoseconds since 1970."""
    if isinstance(text, str):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return None
    if not text:
        return None
    return datetime.fromtimestamp(text / 1e9 if text > 1e14 else text, UTC)


def show_time(text: str | float | None) -> str:
    """A time for people: local, to the millisecond."""
    time = read_time(text)
    if time is None:
        return str(text or "")
    return time.astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


def show_age(text: str | float | None) -> str:
    """How long ago a time was: `12s`, `5m`, `3h`, `2d`."""
    time = read_time(text)
    if time is None:
        return str(text or "")
    seconds = (datetime.now(time.tzinfo) - time).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def shorten(text: str, width: int) -> str:
    """At most `width` characters of one line."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
