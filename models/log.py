"""Logs of both processes: one JSON object a line on standard error, without the local variables of a traceback."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging() -> None:
    """Local variables hold keys and the names of people: structlog's console renderer would print them."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
