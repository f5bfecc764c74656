"""Logs of both processes: one JSON object a line on standard error, of our own lines and of those of every library.

What a log may hold: ids of rows and keys, names of models and sets, counts, times. What it may not: anything that a person
sent, for it may name somebody. So an exception is told by its type and its frames; its message, which often quotes the
value that was refused, is kept only where it is one of this code base.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any, TextIO, cast

import structlog
from structlog.types import EventDict, Processor

OURS = ("models.", "service.", "worker.")
# They bring handlers of their own, in a format of their own.
LIBRARIES = ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task", "celery.redirected")
CLIENTS = ("httpx", "httpx2", "httpcore")  # they have a line for each call, with its address


class _StandardError:
    """What is standard error at that moment: tests and daemons replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


_handler = logging.StreamHandler(_StandardError())


def configure_logging() -> None:
    """One format for structlog and for the standard library's loggers. May be called again, as each process does."""
    structlog.configure(
        processors=[*_shared(), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
    )
    _handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_of_library, *_shared()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.addHandler(_handler)  # once, however often it is called
    root.setLevel(logging.INFO)
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in CLIENTS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It quotes paths as they were sent; service/monitoring/answers.py has a line for each.
    logging.getLogger("uvicorn.access").disabled = True


def described(error: BaseException) -> dict[str, Any]:
    """An exception for the log: its type, where it was raised, what led to it, and its message where that is ours."""
    told: dict[str, Any] = {"error": type(error).__name__, "frames": traceback.format_tb(error.__traceback__)}
    if (message := _message(error)) is not None:
        told["message"] = message
    if causes := [_cause(each) for each in _causes(error)]:
        told["causes"] = causes
    return told


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _described,
    ]


def _of_library(_logger: object, _method: str, line: EventDict) -> EventDict:
    line["logger"] = line["_record"].name
    return line


def _described(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Instead of the text of a traceback, which ends with the message."""
    raised = line.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()
    error = raised[1] if isinstance(raised, tuple) else raised
    return {**line, **described(error)} if isinstance(error, BaseException) else line


def _message(error: BaseException) -> str | None:
    if isinstance(error, OSError):  # without its file, which may be named for somebody
        return error.strerror
    return str(error) if type(error).__module__.startswith(OURS) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _cause(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {each.filename}:{each.lineno}" for each in frame)
    message = _message(error)
    return f"{type(error).__name__}{where}" + (f": {message}" if message else "")
