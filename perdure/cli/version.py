"""`perdure version`."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from perdure.cli.output import examples, json_option, print_json


@click.command(epilog=examples("perdure version --json"))
@json_option()
def version(as_json: bool) -> None:
    """Print the versions of perdure and of Python."""
    try:
        own = importlib.metadata.version("perdure")
    except importlib.metadata.PackageNotFoundError:
        own = "unknown (not installed)"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    if as_json:
        print_json({"perdure": own, "python": python})
    else:
        click.echo(f"perdure {own} ({python})")
