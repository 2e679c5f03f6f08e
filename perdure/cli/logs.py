"""Where the log of a worker goes: stderr, a line an event.

For people on a terminal and in `dev`, else as JSON for whoever collects it.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def set_up_logs(*, dev: bool) -> None:
    """Send structlog and the standard library's logging the same way."""
    people = dev or sys.stderr.isatty()
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not people),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
        if people
        else structlog.processors.JSONRenderer()
    )
    errors: list[Any] = [] if people else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *errors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *errors,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It tells of each request; whoever wants that raises the level again in the app.
    logging.getLogger("httpx").setLevel(logging.WARNING)
