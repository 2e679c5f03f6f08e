"""`perdure dev` and `perdure serve`: the process that supervises, and its flags.

Each setting is a flag, made from the Settings dataclass: a new one needs no line here.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import perdure.settings
from perdure.cli.output import WrongUse, examples, json_option
from perdure.cli.unfailing import make_output_unfailing
from perdure.errors import OperatorError
from perdure.settings import Settings, load_settings
from perdure.supervisor.link import Orders, Ready
from perdure.supervisor.supervise import Supervisor

F = TypeVar("F", bound=Callable[..., Any])

_TOLD_HERE = {"host": "The address to serve on.", "port": "The port; 0 takes a free one."}
_TYPES: dict[str, Any] = {
    "str": str,
    "str | None": str,
    "int": int,
    "int | None": int,
    "float": float,
}


def setting_flags(command: F) -> F:
    """Every setting as a flag with dashes. Not given means None: then App or a variable decides."""
    told = _docstrings() if {"--help", "-h"} & set(sys.argv) else {}
    for field in reversed(dataclasses.fields(Settings)):
        flag = "--" + field.name.replace("_", "-")
        text = told.get(field.name) or _TOLD_HERE.get(field.name, "")
        text = " ".join(text.replace("`", "").split())
        variable = f"PERDURE_{field.name.upper()}"
        if field.type == "bool":
            option = click.option(
                flag, field.name, flag_value=True, default=None, type=bool, help=text
            )
        else:
            shown = "" if field.default in (None, "") else f"default {field.default}; "
            option = click.option(
                flag,
                field.name,
                type=_TYPES[str(field.type)],
                default=None,
                help=f"{text} [{shown}${variable}]".strip(),
            )
        command = option(command)
    return command


def _docstrings() -> dict[str, str]:
    """The text below each field of Settings, which is its documentation."""
    module = ast.parse(inspect.getsource(perdure.settings))
    (settings,) = (node for node in module.body if getattr(node, "name", "") == "Settings")
    assert isinstance(settings, ast.ClassDef)
    told: dict[str, str] = {}
    for field, text in zip(settings.body, settings.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            told[field.target.id] = str(text.value.value)
    return told


@click.command(epilog=examples("perdure dev counter.py", "perdure dev shop.main:app --port 8000"))
@click.argument("app")
@json_option("Print the banner as one line of JSON.")
@setting_flags
def dev(app: str, as_json: bool, **flags: Any) -> None:
    """Serve APP on 127.0.0.1:7373 from ./.perdure, and reload it when its code changes.

    APP is a file, a module, or module:name; without an App in it, all its Object classes are
    served. A reload keeps all state. Tracebacks are in the answers, and queries are checked.
    """
    flags["debug"] = True
    _run(app, flags, dev=True, as_json=as_json)


@click.command(
    epilog=examples("perdure serve shop.main:app --data /var/lib/shop --host 0.0.0.0 --port 80")
)
@click.argument("app")
@click.option(
    "--workers", type=click.IntRange(1), default=1, metavar="N", help="Processes; 1 at present."
)
@json_option("Print the banner as one line of JSON.")
@setting_flags
def serve(app: str, workers: int, as_json: bool, **flags: Any) -> None:
    """Serve APP for production; SIGTERM drains and snapshots.

    APP is a file, a module, or module:name; without an App in it, all its Object classes are
    served. An address beyond loopback needs an App with an authorize.
    """
    if workers > 1:
        raise WrongUse(
            f"--workers {workers}: this version serves with one worker, which is one core",
            hint="Leave it out. To use more cores now, run a server for each group of objects, "
            "each with a --data directory and a --port of its own.",
        )
    _run(app, flags, dev=False, as_json=as_json)


def _run(app: str, flags: dict[str, Any], *, dev: bool, as_json: bool) -> None:
    from perdure.cli.banner import banner_json, print_banner

    given = {name: value for name, value in flags.items() if value is not None}
    # What is wrong with a flag or a variable is said before anything starts.
    settings = load_settings(given)
    banners = 0

    def on_ready(ready: Ready, url: str) -> None:
        nonlocal banners
        banners += 1
        if banners > 1:
            say(f"serving again, {_count(ready)}")
        elif as_json:
            click.echo(banner_json(ready, url))
        else:
            ready.data = _near(ready.data)
            print_banner(ready, url, dev=dev)
        sys.stdout.flush()

    make_output_unfailing()
    supervisor = Supervisor(
        Orders(app, given, dev), say=say, on_ready=on_ready, hash_seed=_known_seed(settings)
    )
    sys.exit(supervisor.run())


def _known_seed(settings: Settings) -> str | None:
    """The hash seed of the store, if it is where the flags say. The worker makes sure of it."""
    from perdure.store import prepare
    from perdure.store.sqlite_file import DATABASE

    directory = settings.data if settings.store is None else settings.store.removeprefix("sqlite:")
    if not os.path.exists(os.path.join(directory, DATABASE)):
        return None
    try:
        return str(prepare(settings).hash_seed)
    except OperatorError:
        return None  # If this is the store, the worker meets the same, and says so.


def say(text: str) -> None:
    """A line of the supervisor for people, on stderr."""
    first, *others = text.splitlines()
    click.echo("\n".join([click.style("perdure: ", bold=True) + first, *others]), err=True)


def _count(ready: Ready) -> str:
    names = [described["class"] for described in ready.classes]
    return ", ".join(names)


def _near(data: str) -> str:
    """A directory below this one by its short name."""
    if data == "memory:":
        return data
    path = Path(data)
    below = path.is_relative_to(Path.cwd())
    return os.path.join(".", os.path.relpath(path)) if below else data
