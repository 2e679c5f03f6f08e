"""Ctrl-C, told from what code raises.

Where perdure catches whatever the code of an app may raise, a KeyboardInterrupt goes through, so
that a test or a command can be ended by hand. In a worker nobody presses Ctrl-C: its SIGINT is
ignored from the beginning (supervisor/process.py). There it is an exception of the app's like
SystemExit; let through, it would end the worker, be met again after the restart, and end that.
"""

from __future__ import annotations

import signal


def is_interrupt(error: BaseException) -> bool:
    """Whether it is somebody's wish to end this process, and not the app's exception."""
    return (
        isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    )
