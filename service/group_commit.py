"""Group commit: requests that come while others are being stored are stored together, in one transaction.

A transaction costs about as much as what one request does in it: its connection, its messages or locks, and the disk, which
must say that it has it. Where nothing waits, each request has one of its own.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from service.errors import BUSY, Problem
from service.together import Ended, Together

# Of one transaction, for whoever else writes waits as long.
MOST = 16
SECONDS = 0.25  # after which nothing more is begun in it: a request may name ten thousand samples

# PostgreSQL answered with these: a deadlock with another process's transaction, a serialization failure, a time limit.
OF_ONE_STATEMENT = ("40P01", "40001", "57014")

Result = TypeVar("Result")
Work = Callable[[Session], Any]


class GroupCommit:
    """``writing`` begins a transaction and commits it at its end. Belongs to one event loop."""

    def __init__(self, writing: Callable[[], AbstractContextManager[Session]]) -> None:
        self._writing = writing
        self._together: Together[Work, Any] = Together(self._store, MOST)

    async def stored(self, work: Callable[[Session], Result]) -> Result:
        """What ``work`` returns, once it is committed. Raises what it raises, or what the transaction does.

        ``work`` runs in a thread, and again, in a transaction of its own, where another failed that was with it; a database
        that does not answer fails all of them. A Problem must be raised before anything is written: the transaction goes on.
        """
        context = contextvars.copy_context()  # of the caller, whose spans and log lines these are
        result: Result = await self._together.done(lambda session: context.run(work, session))
        return result

    def _store(self, works: list[Work]) -> Sequence[Ended]:
        results: list[Ended] = []
        failed: Exception
        try:
            with self._writing() as session:
                session.connection()  # begins here: what is waited for a lock is none of the works' time
                until = time.monotonic() + SECONDS
                for work in works:
                    results.append(_ended(work, session))
                    if time.monotonic() >= until:
                        break
            return results
        except _Failed as of_one:
            failed = of_one.error
        except Exception as error:
            return [Ended(error=error)] * (len(results) or len(works))
        if len(works) == 1 or _unanswered(failed):
            return [Ended(error=failed)] * len(works)
        return self._each_alone(works)

    def _each_alone(self, works: list[Work]) -> Sequence[Ended]:
        """One of them has failed, which the others must not suffer for."""
        results: list[Ended] = []
        for work in works:
            results.extend(self._store([work]))
            if (failed := results[-1].error) is not None and _unanswered(failed):
                return results + [Ended(error=failed)] * (len(works) - len(results))
        return results


def _unanswered(error: Exception) -> bool:
    """Whether the database did not answer: then each would only wait as long for it."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return isinstance(error, BUSY) and state not in OF_ONE_STATEMENT


class _Failed(Exception):
    """A work did, and with it the transaction."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _ended(work: Work, session: Session) -> Ended:
    try:
        return Ended(work(session))
    except Problem as problem:
        return Ended(error=problem)
    except Exception as error:
        raise _Failed(error) from error
