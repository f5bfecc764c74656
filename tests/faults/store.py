"""A store that fails now and then: some commits are refused, and some are done and then reported as failed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from models.session import Database


class FaultyStore:
    """Draws for each commit of its databases whether it fails, and how. ``seen`` counts ``before`` and ``after``."""

    def __init__(self, seed: int, rate: float) -> None:
        self._draw = random.Random(seed)
        self._rate = rate
        self.seen: Counter[str] = Counter()

    @contextmanager
    def over(self, *databases: Database) -> Iterator[None]:
        """Every commit in the block, reading ones too, may fail."""
        dialects = [database.engine.dialect for database in databases]
        for dialect in dialects:
            dialect.do_commit = self._failing(dialect, dialect.do_commit)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for dialect in dialects:
                del dialect.do_commit

    def _failing(self, dialect: Any, commit: Any) -> Any:
        def do_commit(connection: Any) -> None:
            fault = self._draw.choice(["before", "after"]) if self._draw.random() < self._rate else None
            if fault != "before":
                commit(connection)
            if fault is not None:
                self.seen[fault] += 1
                raise dialect.dbapi.OperationalError(f"a test has the store fail {fault} the commit")

        return do_commit
