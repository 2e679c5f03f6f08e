"""pdb inside one turn of the past: it stops at lines of the app, and leaves at the turn's end."""

from __future__ import annotations

import contextlib
import functools
import os
import pdb
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, TextIO

from perdure.suspend import codes


class TurnPdb(pdb.Pdb):
    """A debugger that is entered at the first line of the app in a turn, or at breakpoints."""

    def __init__(self, places: Iterable[tuple[str, int]], stdin: TextIO, stdout: TextIO) -> None:
        super().__init__(stdin=stdin, stdout=stdout, nosigint=True, readrc=False)
        self._terminal = stdout
        self.use_rawinput = stdin.isatty()
        self.prompt = "(pdb in the turn) "
        self.places = set(places)
        """(file name, line): breakpoints in each version of a file."""
        self.stopped = False
        """Whether it has stopped in the turn that ran last."""
        self.left = False
        """Whether somebody has said `q` in it."""

    def run_turn(self, turn: Callable[[], None], *, stepping: bool) -> None:
        """Run a turn; stop at the app's first line if stepping, else at breakpoints."""
        self.reset()
        self.stopped = self.left = False
        self.botframe = sys._getframe()
        if not stepping:
            self._set_stopinfo(self.botframe, None, -1)  # type: ignore[attr-defined]
        if not (stepping or self.places or self.breaks):
            turn()
            return
        sys.settrace(self.trace_dispatch)
        try:
            turn()
        finally:
            sys.settrace(None)

    def interaction(self, frame: FrameType | None, traceback: Any) -> None:
        # What the app prints is marked as past; what is typed here and answered is not.
        with contextlib.redirect_stdout(self._terminal):
            super().interaction(frame, traceback)

    # --- where it stops

    def stop_here(self, frame: FrameType) -> bool:
        # Libraries are run and not stepped through; what they call of the app is.
        if _is_library(frame.f_globals.get("__name__", "")):
            return False
        return bool(super().stop_here(frame))

    def user_call(self, frame: FrameType, argument_list: Any) -> None:
        """Not at calls: the first line of the function follows."""

    def user_line(self, frame: FrameType) -> None:
        self.stopped = True
        super().user_line(frame)

    def user_return(self, frame: FrameType, return_value: Any) -> None:
        below = frame.f_back
        if below is not None and not _is_library(below.f_globals.get("__name__", "")):
            super().user_return(frame, return_value)

    def user_exception(self, frame: FrameType, exc_info: Any) -> None:
        # A wait and a return of a coroutine are exceptions for the interpreter alone.
        if not issubclass(exc_info[0], (StopIteration, StopAsyncIteration, GeneratorExit)):
            super().user_exception(frame, exc_info)

    def break_anywhere(self, frame: FrameType) -> bool:
        name = file_name(frame.f_code.co_filename)
        return any(name == file for file, _ in self.places) or bool(super().break_anywhere(frame))

    def break_here(self, frame: FrameType) -> bool:
        if (file_name(frame.f_code.co_filename), frame.f_lineno) in self.places:
            return True
        return bool(super().break_here(frame))

    # --- how it is left

    def set_continue(self) -> None:
        self._set_stopinfo(self.botframe, None, -1)  # type: ignore[attr-defined]
        if not (self.places or self.breaks):
            self._stop_tracing()

    def set_quit(self) -> None:
        # Not by an exception in the app's code: the turn runs to its end, as it did then.
        self.left = True
        self._stop_tracing()

    def _stop_tracing(self) -> None:
        sys.settrace(None)
        frame: FrameType | None = sys._getframe().f_back
        while frame is not None:
            frame.f_trace = None
            frame = frame.f_back


# It looks at files, and is asked at each line.
_is_library = functools.cache(codes.is_library)


def file_name(path: str) -> str:
    """The last part of a path, without the version that stands behind it."""
    return os.path.basename(path.partition(" (version ")[0])
