"""`perdure fork`, `release`, `export` and `import`: copies of objects, beside them or elsewhere."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from perdure.cli.client import Server, object_path, remote, turn_or_time
from perdure.cli.output import Complaint, WrongUse, examples, print_json

# A large object takes a while to be run again and written.
_COPY_S = 600.0
_PART = 4 * 1024 * 1024
_PAGE = 1000


@click.command(epilog=examples("perdure fork Order/42 42-again --at 17"))
@click.argument("address")
@click.argument("new_key", metavar="NEWKEY")
@click.option(
    "--at",
    callback=turn_or_time,
    metavar="SEQ|TIME",
    help="Up to this turn or time. Default: all of it.",
)
@click.option("--live", is_flag=True, help="Let it reach the outside from the beginning.")
@remote
def fork(
    address: str,
    new_key: str,
    at: str | None,
    live: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Make a new object with the past of another.

    It runs and answers calls, but no step starts, no message to another object leaves and no timer
    fires until `perdure release`, unless --live.
    """
    import json

    path = f"/_perdure/objects/{object_path(address)}/fork"
    body = json.dumps({"key": new_key, "at": at, "live": live}).encode()
    made = Server(url, token).request("POST", path, body=body, timeout_s=_COPY_S).json()
    _tell([made], as_json=as_json, several=False)


@click.command(epilog=examples("perdure release Order/42-again"))
@click.argument("address")
@remote
def release(address: str, url: str, token: str | None, as_json: bool) -> None:
    """Let a fork or an imported object reach the outside: steps, messages and timers go off."""
    Server(url, token).request("POST", f"/_perdure/objects/{object_path(address)}/release")
    if as_json:
        print_json({"released": address})
    else:
        click.echo(f"{address} is released")


@click.command(
    "export", epilog=examples("perdure export Order/42 order.px", "perdure export Order orders.px")
)
@click.argument("what", metavar="ADDRESS|CLASS")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@remote
def export(what: str, file: Path, url: str, token: str | None, as_json: bool) -> None:
    """Write an object, or all of a class, into one file: journal, memory, code, large values."""
    server = Server(url, token)
    if "/" in what:
        parts = [_exported(server, what)]
    else:
        parts = [_exported(server, address) for address in _addresses(server, what)]
        if not parts:
            raise Complaint(f"there are no objects of the class {what}", code="unknown-object")
    data = parts[0] if len(parts) == 1 else _joined(parts)
    _write(file, data)
    objects = len(parts)
    if as_json:
        print_json({"file": str(file), "bytes": len(data), "objects": objects})
    else:
        click.echo(f"{file}: {objects} object{'s'[: objects != 1]}, {len(data)} bytes")


def _exported(server: Server, address: str) -> bytes:
    path = f"/_perdure/objects/{object_path(address)}/export"
    return server.request("GET", path, timeout_s=_COPY_S).body


def _addresses(server: Server, kind: str) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = server.get("objects", **{"class": kind, "limit": _PAGE, "after": after})
        found += [row["address"] for row in page]
        if len(page) < _PAGE:
            return found
        after = page[-1]["address"]


def _joined(parts: list[bytes]) -> bytes:
    """Several files as one."""
    from perdure.past import extract

    exports = [extract.read(part, "what the server sent") for part in parts]
    versions = {name: bundle for one in exports for name, bundle in one.versions.items()}
    objects = [one for each in exports for one in each.objects]
    return b"".join(extract.write(exports[0].head, versions, objects))


def _write(file: Path, data: bytes) -> None:
    # Beside it and then in its place: a file is whole or it is the old one.
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            part.write(data)
        os.replace(part.name, file)
    except OSError as error:
        raise Complaint(f"cannot write {file}: {error.strerror}") from error


@click.command(
    "import",
    epilog=examples("perdure import order.px --as 42-again", "perdure import order.px --replace"),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as", "new_key", metavar="KEY", help="Under another key than it had.")
@click.option("--replace", is_flag=True, help="Also over an object that is there; it is lost.")
@click.option("--live", is_flag=True, help="Let it reach the outside from the beginning.")
@remote
def bring_in(
    file: Path,
    new_key: str | None,
    replace: bool,
    live: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Bring in the objects of a file that `perdure export` has written.

    They are held back from the outside until `perdure release`, unless --live. A file holds
    pickles: import only what comes from where you would run code from.
    """
    server = Server(url, token)
    data = file.read_bytes()
    name = quote(f"{os.getpid()}-{len(data)}", safe="")
    for at in range(0, max(len(data), 1), _PART):
        server.request(
            "POST",
            f"/_perdure/uploads/{name}",
            query={"at": at},
            body=data[at : at + _PART],
            headers=[("Content-Type", "application/octet-stream")],
            timeout_s=_COPY_S,
        )
    query: dict[str, Any] = {"upload": name, "as": new_key}
    query |= {"replace": 1 if replace else None, "live": 1 if live else None}
    made = server.request("POST", "/_perdure/import", query=query, timeout_s=_COPY_S).json()
    if not made:
        raise WrongUse(f"{file} holds no object")
    _tell(made, as_json=as_json, several=True)


def _tell(made: list[dict[str, Any]], *, as_json: bool, several: bool) -> None:
    if as_json:
        print_json(made if several else made[0])
        return
    for one in made:
        held = f"; held back until: perdure release {one['address']}" if one["held"] else ""
        click.echo(f"{one['address']} goes on from turn {one['seq']} of its own{held}")
