"""What is printed when a server is ready: what it serves, where the data is, how to call it."""

from __future__ import annotations

import enum
import inspect
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click

if TYPE_CHECKING:
    from perdure.kind import Handler, Kind
    from perdure.supervisor.link import Ready

_HANDLERS_MAX = 12


# --- in the worker, where the classes are


def describe(kind: Kind) -> dict[str, Any]:
    """A class as the banner shows it, and `--json` prints it."""
    return {
        "class": kind.name,
        "handlers": [
            {"name": handler.name, "query": handler.query, "parameters": _parameters(handler)}
            for handler in _in_order(kind)
        ],
    }


def example(kinds: Sequence[Kind]) -> dict[str, Any] | None:
    """A call that can be tried: of a handler that changes something, if there is one."""
    choices = [(kind, handler) for kind in kinds for handler in _in_order(kind)]
    choices.sort(key=lambda choice: choice[1].query)
    for kind, handler in choices:
        arguments = _sample_arguments(handler)
        if arguments is not None:
            return {
                "class": kind.name,
                "handler": handler.name,
                "query": handler.query,
                "arguments": arguments,
            }
    return None


def _in_order(kind: Kind) -> list[Handler]:
    """The handlers as they stand in the class."""
    written = [name for base in reversed(kind.cls.__mro__) for name in vars(base)]
    return sorted(kind.handlers.values(), key=lambda handler: written.index(handler.name))


def _signature(handler: Handler) -> inspect.Signature:
    try:
        return inspect.signature(handler.function, eval_str=True)
    except Exception:
        # A name that only a type checker knows.
        return inspect.signature(handler.function)


def _parameters(handler: Handler) -> list[str]:
    return list(inspect.signature(handler.function).parameters)[1:]


def _sample_arguments(handler: Handler) -> dict[str, Any] | None:
    """Arguments that fit the annotations; None if nothing simple does."""
    sample: dict[str, Any] = {}
    for parameter in list(_signature(handler).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is inspect.Parameter.empty
        value = _sample(parameter.annotation, parameter.name)
        if value is None and required:
            return None
        # Of the optional ones the first number is worth showing, since it can be left out.
        if required or (isinstance(value, int) and not sample):
            sample[parameter.name] = value
    return sample


def _sample(annotation: Any, name: str) -> Any:
    simple = {int: 2, float: 1.5, str: "hello", bool: True, list: [], dict: {}, Any: name}
    if annotation is inspect.Parameter.empty:
        return "hello"
    if isinstance(annotation, str):
        return {"int": 2, "float": 1.5, "str": "hello", "bool": True}.get(annotation)
    if annotation in simple:
        return simple[annotation]
    origin = get_origin(annotation)
    if origin in (list, dict):
        return simple[origin]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return next(iter(annotation)).value
    for choice in get_args(annotation):
        if isinstance(choice, type) and _sample(choice, name) is not None:
            return _sample(choice, name)
    return None


# --- in the supervisor


def print_banner(ready: Ready, url: str, *, dev: bool) -> None:
    """For people, on stdout."""
    click.echo(
        f"{click.style('perdure', bold=True)} serves {click.style(url, fg='cyan', bold=True)}"
        + ("  (dev: reloads on change)" if dev else "")
    )
    for described in ready.classes:
        names = [
            f"{handler['name']}({', '.join(handler['parameters'])})"
            for handler in described["handlers"]
        ]
        shown = "  ".join(names[:_HANDLERS_MAX]) or "(no handlers)"
        more = len(names) - _HANDLERS_MAX
        more_text = f"  … and {more} more" if more > 0 else ""
        click.echo(f"  {click.style(described['class'], bold=True)}  {shown}{more_text}")
    where = "in memory: gone when it stops" if ready.data == "memory:" else ready.data
    click.echo(f"  data  {where}")
    if ready.example is not None:
        click.echo(f"  try   {curl_line(ready.example, url)}")


def curl_line(call: dict[str, Any], url: str) -> str:
    """A call as a line for the shell."""
    target = f"{url}/{call['class']}/lobby/{call['handler']}"
    if call["arguments"]:
        return f"curl -d {shlex.quote(json.dumps(call['arguments']))} {target}"
    return f"curl {target}" if call["query"] else f"curl -X POST {target}"


def banner_json(ready: Ready, url: str) -> str:
    """One line for programs."""
    return json.dumps({"url": url, "data": ready.data, "classes": ready.classes})
