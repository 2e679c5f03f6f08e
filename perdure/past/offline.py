"""An object run again away from its host: from a data directory or a file, in any process.

What runs is the code of then: the newest version that the object's turns name is imported from
its bundle, in a folder of its own, and older ones beside it. Or a working copy of the app, to see
what it would have done. Nothing is written, and nothing of the outside is reached.
"""

from __future__ import annotations

import asyncio
import importlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from perdure.clock import RealClock
from perdure.errors import BadApp, UnknownKind, UnknownObject
from perdure.host.asking import Surroundings
from perdure.host.blobs import named_in
from perdure.host.upgrades import Versions
from perdure.journal import codec
from perdure.journal.entry import Entry
from perdure.journal.identity import know_aliases, oid_of
from perdure.kind import Kind, Kinds, kind_of
from perdure.object import Object
from perdure.past.extract import Export, Extract, ExtractRecord, Head, lent, segments_of
from perdure.ref import format_address, parse_address
from perdure.store.memory import MemoryStore
from perdure.store.sqlite_read_only import ReadingStore
from perdure.suspend import bundles, editions, heap


async def read_directory(directory: Path, address: str) -> Export:
    """An object out of a data directory, also of one that is being served.

    Raises StoreUnavailable for no data directory, UnknownObject.
    """
    kind, key = parse_address(address)
    oid = oid_of(kind, key)
    store = ReadingStore(directory)
    layout = await store.open("replay")
    try:
        part = 0  # An embedded store has one alone.
        entries: dict[int, Entry] = {}
        # First the log, then history: what a checkpoint moves in between is in both.
        for lsn, chunk in await store.tail(part, 0):
            for owner, body in codec.read_chunk(chunk, f"chunk {lsn}"):
                if owner == oid:
                    entry = codec.decode_entry(body)
                    entries[entry.seq] = entry
        stored = await store.load(part, oid)
        after = 0
        while segments := await store.history(part, oid, after, 16):
            for segment in segments:
                place = f"history of {address}, turns {segment.first} to {segment.last}"
                for _, entry in codec.read_entries(segment.body, place):
                    entries[entry.seq] = entry
                after = segment.last
        if not entries and stored is None:
            raise UnknownObject(f"there is no object {format_address(kind, key)} in {directory}")
        turns = [lent(layout.secret, oid, entries[seq]) for seq in sorted(entries)]
        seq, snapshot = 0, b""
        if stored is not None and stored.row.snapshot is not None:
            seq, snapshot = stored.row.seq, stored.row.snapshot
        if stored is not None and stored.suspended is not None:
            seq, snapshot = stored.suspended.seq, stored.suspended.body
        last = turns[-1].seq if turns else seq
        blobs: dict[str, bytes] = {}
        for name in sorted({named_in(entry) for entry in turns} - {""}):
            found = await store.get_blob(part, oid, name)
            if found is not None:
                blobs[name] = found
        versions: dict[str, bytes] = {}
        for version in sorted({entry.version for entry in turns}):
            bundle = await store.get_version(version)
            if bundle is not None:
                versions[version] = bundle
    finally:
        await store.close()
    first = turns[0].seq if turns else last + 1
    copied = list(segments_of(oid, turns))
    used = sorted({entry.version for entry in turns})
    one = Extract(kind, key, last, first, copied, seq, snapshot, blobs, None, used)
    now = RealClock().now_ns()
    head = Head("", platform.python_version(), now, layout.hash_seed)
    return Export(head, versions, [one])


def record_from(
    export: Export, one: Extract, classes: Sequence[type[Object]] | None, version: str = ""
) -> ExtractRecord:
    """A record that can be walked in this process, under the code of then, or of `classes`.

    Raises UnknownKind, or BadApp where the code is not in the file.
    """
    surroundings = Surroundings(b"", asyncio.get_running_loop())
    surroundings.blob = lambda _, name: codec.read_blob(one.blobs[name], f"blob {name}")
    if classes is None:
        version = _newest_version(one)
        classes = _classes_of(export, version)
    kinds = Kinds({kind_of(cls).name: kind_of(cls) for cls in classes})
    for kind in kinds.values():
        know_aliases(kind.name, kind.aliases)
    live = editions.Live(version, kinds)
    editions.serve(live)
    heap.resolve_kind = lambda name: _kind(kinds, name).cls
    if version:
        store = MemoryStore()
        store.take_in_versions(export.versions)
        surroundings.versions = Versions(store, live)
    return ExtractRecord(one, _kind(kinds, one.kind), surroundings)


def _newest_version(one: Extract) -> str:
    """The version that the last turn ran in."""
    version = ""
    for _, entry in codec.read_entries(one.segments[-1], "the last turns") if one.segments else ():
        version = entry.version
    return version


def _kind(kinds: Kinds, name: str) -> Kind:
    kind = kinds.find(name)
    if kind is None:
        raise UnknownKind(
            f"the code has no class {name!r}; it has: {', '.join(kinds) or 'none'}",
            hint="Name the app that has it: --app APP.",
        )
    return kind


def _classes_of(export: Export, version: str) -> list[type[Object]]:
    """Import a version's bundle: its modules as files, so that a debugger has lines to show."""
    bundle = export.versions.get(version)
    if bundle is None:
        raise BadApp(
            f"the code of version {version or 'unknown'} is not there",
            hint="Name the app: --app APP.",
        )
    code = bundles.read(version, bundle)
    # It stays until the process ends: tracebacks and the debugger read it.
    folder = Path(tempfile.mkdtemp(prefix=f"perdure-{version}-"))
    for name, source in code.modules.items():
        inner = any(other.startswith(f"{name}.") for other in (*code.modules, *code.packages))
        path = folder.joinpath(*name.split("."))
        path = path / "__init__.py" if inner or name in code.packages else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    found: list[type[Object]] = []
    for place in code.classes.values():
        module, _, path_in = place.partition(":")
        try:
            found.append(editions.at_path(importlib.import_module(module), path_in))
        except Exception as error:
            raise BadApp(
                f"version {version} of the code cannot be imported: {error!r}",
                hint="Install what it needs, or name a working copy: --app APP.",
            ) from error
    return found
