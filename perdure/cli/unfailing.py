"""Standard output and error of a process that serves: to write there never raises.

A log file on a full disk, a pipe whose reader has gone, a text for which the encoding has no bytes:
a `print` in a handler would raise in the live turn and not in its replay, and a warning would end
what it warns of. What cannot be written is left out.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any


class _Sink(io.RawIOBase):
    """Writes to a file descriptor what it can take."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: Any) -> int:
        try:
            return os.write(self._fd, data)
        except OSError:
            return len(data)


def make_output_unfailing() -> None:
    """From here on, `sys.stdout` and `sys.stderr` swallow what cannot be written."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        if before is None:
            # Closed before the start: by now the number may be that of some other file.
            fd = os.open(os.devnull, os.O_WRONLY)
        else:
            with contextlib.suppress(OSError, ValueError):
                before.flush()
        writer = io.BufferedWriter(_Sink(fd))
        after = io.TextIOWrapper(writer, "utf-8", "backslashreplace", line_buffering=True)
        setattr(sys, name, after)
