"""Why a command ends early, and with which exit status.

Stopped
├── Refused       an answer that is no success
├── Unreachable   no answer
├── TimedOut      --timeout passed
└── Damaged       what was fetched is not what the service said it sends
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from service.cli.exits import Exit

if TYPE_CHECKING:
    import httpx


class Stopped(Exception):
    exit = Exit.FAILED


class Unreachable(Stopped):
    exit = Exit.UNAVAILABLE


class TimedOut(Stopped):
    exit = Exit.TIMED_OUT


class Damaged(Stopped):
    pass


class Refused(Stopped):
    """The answer's problem (RFC 9457): title, detail, and where each error is."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        self.exit = Exit.UNAVAILABLE if answer.status_code >= 500 else Exit.REFUSED
        super().__init__("\n".join(_told(answer)))


class Deadline:
    """Of a whole command. Raises TimedOut from ``sleep`` and ``check`` once it has passed."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = time.monotonic() + seconds if seconds is not None else None

    def left(self, most: float) -> float:
        """Seconds that are left, ``most`` at most and never quite 0: also a time limit for a read."""
        return most if self._end is None else min(most, max(0.05, self._end - time.monotonic()))

    def check(self) -> None:
        if self._end is not None and time.monotonic() >= self._end:
            raise TimedOut("--timeout passed. What the service does goes on: watch it again at any time.")

    def sleep(self, seconds: float) -> None:
        self.check()
        time.sleep(self.left(seconds))
        self.check()


def _told(answer: httpx.Response) -> Iterator[str]:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "title" not in problem:
        yield f"{answer.status_code} {answer.reason_phrase}: the answer is not one of this service. Is --url right?"
        return
    yield f"{answer.status_code} {problem['title']}: {problem.get('detail', '')}"
    for error in problem.get("errors") or []:
        yield f"  {error.get('pointer') or error.get('parameter') or '-'}: {error.get('detail', '')}"
    if answer.status_code >= 500 and problem.get("trace_id"):
        yield f"  trace_id: {problem['trace_id']}"
