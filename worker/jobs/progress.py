"""How far a job is, and when it will end, as lines of JSON."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from worker import plan as agreed

REPORT_SECONDS = 0.5  # between two lines of progress of one phase
MEASURED_SHARE = 0.02  # of the work, before a rate is believed


class Reporter:
    """Turns finished work into lines of progress; the work of each phase is estimated in passes of one image.

    A phase may be entered several times, each time with a cost of its own. Work that is added while the job runs makes
    the end later; the progress that was reported stands still meanwhile and never falls.
    """

    def __init__(self, stream: TextIO) -> None:
        self.seconds: dict[str, float] = {}
        self._stream = stream
        self._ahead: defaultdict[str, deque[float]] = defaultdict(deque)
        self._total = self._cost = self._done = self._reached = self._printed = 0.0
        self._phase = ""
        self._started = time.monotonic()

    def expect(self, costs: dict[str, float]) -> None:
        """Start anew, with these phases ahead."""
        self._ahead.clear()
        self._total = self._done = 0.0
        self._started = time.monotonic()
        self.add(costs)

    def add(self, costs: dict[str, float]) -> None:
        """Each of these phases will be entered once more."""
        for name, cost in costs.items():
            self._ahead[name].append(cost)
        self._total += sum(costs.values())

    def skip(self, name: str) -> None:
        """The next entry of this phase will not come."""
        self._done += self._ahead[name].popleft()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._phase, self._cost, started = name, self._ahead[name].popleft(), time.monotonic()
        self._print(0.0, "")
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            self._done, self._cost = self._done + self._cost, 0.0
        self._print(0.0, "")

    def step(self, done: int, count: int, what: str) -> None:
        """``done`` of ``count`` equal parts of the phase are finished."""
        if time.monotonic() - self._printed >= REPORT_SECONDS:
            self._print(done / count, f"{what} {done} of {count}")

    def _print(self, share_of_phase: float, step: str) -> None:
        self._printed = time.monotonic()
        share = (self._done + share_of_phase * self._cost) / self._total
        self._reached = max(self._reached, min(share, 1.0))
        eta = (self._printed - self._started) * (1 - share) / share if share >= MEASURED_SHARE else None
        line = agreed.Progress(
            phase=self._phase,
            progress=round(self._reached, 4),
            step=step,
            eta_seconds=None if eta is None else round(max(eta, 0.0), 1),
        )
        print(agreed.dump(line), file=self._stream, flush=True)
