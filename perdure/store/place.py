"""The data directory of an embedded store, and the lock that gives it to one process.

The lock is an flock on a file that is never removed: it ends with the process, however that ends,
and no stale file has to be told from a live one. The number inside is for the error message alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from perdure.errors import StoreBusy, StoreFull, StoreUnavailable

LOCK = "lock"


class Place:
    """A data directory that exists and, where `exclusive`, belongs to this process."""

    def __init__(self, directory: Path, *, exclusive: bool = True) -> None:
        """Raises StoreBusy if another process has it, StoreUnavailable if it cannot be made."""
        self.directory = directory
        self._lock: int | None = None
        try:
            self._make()
            if exclusive:
                self._take()
        except OSError as error:
            raise _unusable(directory, error) from error

    def file(self, name: str) -> Path:
        """A file in the directory, readable by nobody else; made empty if it is not there."""
        path = self.directory / name
        try:
            # SQLite gives its WAL the mode of the database, so making the file here decides both.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            # The name has to survive a power loss as well.
            _sync_directory(self.directory)
        except OSError as error:
            raise _unusable(directory=self.directory, error=error) from error
        return path

    def release(self) -> None:
        """Let the directory go. A second time does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self) -> None:
        missing = [path for path in (self.directory, *self.directory.parents) if not path.exists()]
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in missing:
            _sync_directory(path.parent)

    def _take(self) -> None:
        # Closed on exec, so that a program started by a step does not hold on to it.
        lock = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.write(lock, b"%d\n" % os.getpid())
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).strip().decode("ascii", "replace")
            os.close(lock)
            raise StoreBusy(
                f"{self.directory} is in use by process {owner or '(unknown)'}",
                hint="Stop that process, or give this one a directory of its own: --data DIR.",
            ) from None
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unusable(directory: Path, error: OSError) -> StoreFull | StoreUnavailable:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no room for the data directory {directory}: {reason}")
    return StoreUnavailable(
        f"the data directory {directory} cannot be used: {reason}",
        hint="It has to be on a local disk, and this user must be able to write to it.",
    )
