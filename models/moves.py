"""Moves between states, guarded in the database: one conditional UPDATE, never read-then-write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, inspect, update
from sqlalchemy.orm import Session

Moves = Mapping[Any, frozenset[Any]]
UNSETTLED = "unsettled"  # in Session.info: requests whose stored status may have changed; see models.settling


class ForbiddenMove(ValueError):
    """A state was asked to become one that its table of moves does not list."""


def sources(moves: Moves, target: StrEnum) -> list[StrEnum]:
    """The states that may become ``target``. Raises ForbiddenMove where none may."""
    found = [state for state, targets in moves.items() if target in targets]
    if not found:
        raise ForbiddenMove(f"nothing may become {target.value}")
    return found


def advance(
    session: Session,
    record: type[Any],
    where: ColumnElement[bool],
    target: StrEnum,
    *,
    only_from: Iterable[StrEnum] | None = None,
    **values: Any,
) -> int:
    """Move every row that matches ``where`` to ``target`` and set ``values``; returns how many rows moved.

    ``record`` has a column ``status`` and a class attribute ``MOVES``. Rows in a state that may not become ``target`` are
    left alone, so 0 means "not now". Raises ForbiddenMove where a state in ``only_from`` is not allowed to move there.
    """
    allowed = sources(record.MOVES, target)
    starts = list(only_from) if only_from is not None else allowed
    for state in starts:
        if state not in allowed:
            raise ForbiddenMove(f"{record.__name__}: {state.value} may not become {target.value}")
    statement = (
        update(record)
        .where(where, inspect(record).columns["status"].in_(starts))
        .values(status=target, **values)
        .execution_options(synchronize_session="fetch")
    )
    owner = getattr(record, "SETTLES", None)
    if owner is None:
        return session.execute(statement).rowcount  # type: ignore[attr-defined, no-any-return]
    moved = session.scalars(statement.returning(inspect(record).columns[owner])).all()
    session.info.setdefault(UNSETTLED, set()).update(moved)
    return len(moved)
