"""What comes while a thread is at work waits, and is then done by it all at once: one change of threads for many."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter, to_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ended:
    """What one item has come to."""

    value: Any = None
    error: Exception | None = None


class Together(Generic[Item, Result]):
    """``perform`` is called in a thread, never twice at a time, with at most ``most`` items, and tells the end of each.

    Where it tells of the first ones alone, it is called again with the others. Belongs to one event loop.
    """

    def __init__(self, perform: Callable[[list[Item]], Sequence[Ended]], most: int) -> None:
        self._perform, self._most = perform, most
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._working: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)  # its own: the handlers' may all be taken

    async def done(self, item: Item) -> Result:
        """What has become of it. Raises the error that ``perform`` told of it, or raised."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, ended))
        if self._working is None or self._working.done():
            # With a context of its own: it goes on for others after this caller is answered.
            self._working = loop.create_task(self._work(), context=contextvars.Context())
        return await ended

    async def _work(self) -> None:
        while some := self._taken():
            try:
                results = await to_thread.run_sync(self._perform, [item for item, _ in some], limiter=self._thread)
            except Exception as error:
                results = [Ended(error=error)] * len(some)
            except BaseException as error:
                for _, waiting in some:
                    _tell(waiting, Ended(error=RuntimeError(f"ended by {type(error).__name__}")))
                raise
            self._waiting.extendleft(reversed(some[len(results) :]))
            for (_, waiting), result in zip(some, results, strict=False):
                _tell(waiting, result)

    def _taken(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next ones, without those for which nobody waits any more."""
        some: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(some) < self._most:
            item, waiting = self._waiting.popleft()
            if not waiting.done():
                some.append((item, waiting))
        return some


def _tell(waiting: asyncio.Future[Result], result: Ended) -> None:
    if waiting.done():  # it was given up meanwhile
        return
    if result.error is not None:
        waiting.set_exception(result.error)
    else:
        waiting.set_result(result.value)
