"""Positions in a list as ranges of an index: a page reads the ends of a few ranges, however many rows are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, or_, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.lists.cursors import Position

Key = Sequence[InstrumentedAttribute[Any]]  # what a list is sorted by; the last column is unique
Conditions = Sequence[ColumnElement[bool]]
Source = Callable[[Position | None, int], list[Position]]  # the next so many positions after the one given


def positions(session: Session, key: Key, ranges: Sequence[Conditions], *, oldest_first: bool = False) -> Source:
    """Positions of the rows in any of ``ranges``, which must not overlap.

    Each is read by itself, in order and no further than a page: they are ranges of an index that has the columns of the
    conditions first and those of the key next.
    """

    def source(after: Position | None, number: int) -> list[Position]:
        ends = [
            select(*key)
            .where(*conditions, *beyond(key, after, oldest_first=oldest_first))
            .order_by(*ordered(key, oldest_first=oldest_first))
            .limit(number)
            for conditions in ranges
        ]
        if not ends:
            return []
        statement = ends[0] if len(ends) == 1 else _merged(ends, number, oldest_first)
        return [tuple(row) for row in session.execute(statement)]

    return source


def beyond(key: Key, after: Position | None, *, oldest_first: bool) -> list[ColumnElement[bool]]:
    """What comes after a position. Two conditions where there are two columns: databases find the range by the first."""
    if after is None:
        return []
    if len(key) == 1:
        return [key[0] > after[0] if oldest_first else key[0] < after[0]]
    first, last = key
    if oldest_first:
        return [first >= after[0], or_(first > after[0], and_(first == after[0], last > after[1]))]
    return [first <= after[0], or_(first < after[0], and_(first == after[0], last < after[1]))]


def ordered(key: Key, *, oldest_first: bool) -> list[ColumnElement[Any]]:
    return [column.asc() if oldest_first else column.desc() for column in key]


def _merged(ends: Sequence[Select[Any]], number: int, oldest_first: bool) -> Select[Any]:
    def columns(of: Subquery) -> list[ColumnElement[Any]]:
        return list(of.c)

    together = union_all(*(select(*columns(end.subquery())) for end in ends)).subquery()
    order = [column.asc() if oldest_first else column.desc() for column in columns(together)]
    return select(*columns(together)).order_by(*order).limit(number)
