"""Group commit: requests that come while others are being stored are stored together, in one transaction.

A transaction costs about as much as what one request does in it: its connection, its messages or locks, and the disk, which
must say that it has it. Where nothing waits, each request has one of its own.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from service.errors import Problem
from service.together import Ended, Together

MOST = 16  # in one transaction: whoever else writes waits for so many

Result = TypeVar("Result")
Work = Callable[[Session], Any]


class GroupCommit:
    """``writing`` begins a transaction and commits it at its end. Belongs to one event loop."""

    def __init__(self, writing: Callable[[], AbstractContextManager[Session]]) -> None:
        self._writing = writing
        self._together: Together[Work, Any] = Together(self._store, MOST)

    async def stored(self, work: Callable[[Session], Result]) -> Result:
        """What ``work`` returns, once it is committed. Raises what it raises, or what the transaction does.

        ``work`` runs in a thread, and again where another in its transaction failed. A Problem must be raised before
        anything is written: the transaction goes on without it.
        """
        context = contextvars.copy_context()  # of the caller, whose spans and log lines these are
        result: Result = await self._together.done(lambda session: context.run(work, session))
        return result

    def _store(self, works: list[Work]) -> Sequence[Ended]:
        results: list[Ended] = []
        begun = False
        try:
            with self._writing() as session:
                begun = True
                results.extend(_done(session, works))
        except Exception as error:
            if begun and len(results) < len(works) > 1:  # by one of them: the others must not suffer for it
                return [self._store([work])[0] for work in works]
            return [Ended(error=error)] * len(works)
        return results


def _done(session: Session, works: list[Work]) -> Iterator[Ended]:
    for work in works:
        try:
            ended = Ended(work(session))
        except Problem as problem:
            ended = Ended(error=problem)
        yield ended
