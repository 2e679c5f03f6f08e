"""perdure's log: what people should know of, each an event with its facts.

To write a line never raises. Its disk may be full and its pipe may have no reader; whoever has a
turn to put on disk, or an error to recover from, goes on either way.
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog


class _Log:
    def __init__(self) -> None:
        self._inner = structlog.get_logger("perdure")

    def warning(self, event: str, **facts: Any) -> None:
        """Something that goes on by itself, and should be looked at."""
        with contextlib.suppress(Exception):
            self._inner.warning(event, **facts)

    def error(self, event: str, **facts: Any) -> None:
        """Something that does not."""
        with contextlib.suppress(Exception):
            self._inner.error(event, **facts)


logger = _Log()
