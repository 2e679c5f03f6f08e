"""Which of the user's source files have changed: the eyes of `perdure dev`.

Directories are watched and not files, since editors save by renaming. What counts is content: a
save without a change is none, and a file that is missing for a moment has not changed.
"""

from __future__ import annotations

import hashlib
import os
import threading
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path

# A burst of saves (a formatter, a branch switch) is one change.
_DEBOUNCE_MS = 400
_QUIET_MS = 60
_TIMEOUT_MS = 1000


class Watcher:
    """Watches the files it is told; `fileno()` becomes readable when `take()` has something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Path, bytes] = {}
        self._changed: set[Path] = set()
        self._directories: frozenset[Path] = frozenset()
        self._stop = threading.Event()
        self._any_source = False
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        os.set_blocking(self._writes, False)

    def fileno(self) -> int:
        return self._reads

    def watch(self, files: Iterable[str], since_ns: int) -> None:
        """From now on these files, as they were at `since_ns`, are what is watched.

        One that was written after that may or may not have been read by the worker, so it counts
        as changed.
        """
        paths = {Path(file).resolve() for file in files}
        with self._lock:
            self._known = {path: _content(path) for path in paths}
            self._changed = {path for path in paths if _modified_ns(path) >= since_ns}
            if self._changed:
                self._wake()
        directories = frozenset(path.parent for path in paths if path.parent.is_dir())
        if directories != self._directories:
            self._stop.set()
            self._directories = directories
            self._stop = threading.Event()
            threading.Thread(
                target=self._run, args=(directories, self._stop), name="perdure-watch", daemon=True
            ).start()

    def watch_any_source(self, any_source: bool) -> None:
        """Whether any Python file in the watched directories counts: what mends a program that
        does not load may be a file which was not there before."""
        with self._lock:
            self._any_source = any_source

    def take(self) -> list[Path]:
        """What has changed since the last time."""
        try:
            os.read(self._reads, 4096)
        except BlockingIOError:
            pass
        with self._lock:
            changed, self._changed = self._changed, set()
        return sorted(changed)

    def close(self) -> None:
        self._stop.set()

    def _run(self, directories: frozenset[Path], stop: threading.Event) -> None:
        import watchfiles

        changes = watchfiles.watch(
            *directories,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_QUIET_MS,
            stop_event=stop,
            recursive=False,
            raise_interrupt=False,
            rust_timeout=_TIMEOUT_MS,
            yield_on_timeout=True,
        )
        for turn, seen in enumerate(changes):
            # Nobody watched between the reading of the files and the first wait, so look again.
            missed = list(self._known) if turn == 0 else []
            self._look_at({*missed, *(Path(name).resolve() for _, name in seen)})

    def _look_at(self, paths: set[Path]) -> None:
        with self._lock:
            for path in sorted(paths):
                counts = path in self._known or (self._any_source and path.suffix == ".py")
                content = _content(path) if counts else b""
                if content and content != self._known.get(path):
                    self._known[path] = content
                    self._changed.add(path)
            if self._changed:
                self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._writes, b".")
        except BlockingIOError:
            pass  # It is readable already.


def _content(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes()).digest()
    except OSError:
        return b""


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def syntax_error(paths: list[Path]) -> str:
    """What the compiler says against the first of them that it refuses; empty if it takes all."""
    for path in paths:
        if path.suffix != ".py":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            return "".join(traceback.format_exception_only(error)).rstrip()
        except OSError:
            pass
    return ""
