"""Statements compiled once a process: each test has a database of its own, and with it an engine that knows no statement yet.

SQLAlchemy keeps what it compiled by engine, and by dialect within it. One store for all engines of a kind will do as long as
they are all alike: one driver, one server, one way to make them (``models.session``).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.util import LRUCache

from models import session

STATEMENTS = 5000  # SQLAlchemy keeps 500 for one engine; this store serves all

_make = session.create_engine
_compiled: LRUCache[Any, Any] = LRUCache(STATEMENTS)


def share() -> None:
    """From here on every engine of ``models.session`` finds what another of its kind has compiled."""
    session.create_engine = _engine  # type: ignore[assignment]


def _engine(*arguments: Any, **options: Any) -> Engine:
    engine = _make(*arguments, **options)
    kind = type(engine.dialect)
    kind.__eq__ = _same_kind  # type: ignore[method-assign,assignment]
    kind.__hash__ = _kind  # type: ignore[method-assign,assignment]
    engine._compiled_cache = _compiled
    return engine


def _same_kind(one: object, other: object) -> bool:
    return type(one) is type(other)


def _kind(one: object) -> int:
    return hash(type(one))
