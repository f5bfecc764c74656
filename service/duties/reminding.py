"""REMIND: requests that are nearly due, and those past their due date, are told of once."""

from __future__ import annotations

import uuid
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, Select, and_, select

from models.crashes import crash_point
from models.deletion_request import IS_LIVE
from models.records import DeletionRequest, record_event
from models.session import Database, current_time
from service.due import DUE_SOON, days_left

ACTOR = "dispatcher"
MOST_A_ROUND = 100
TOLD = {"overdue": "overdue_told_at", "due_soon": "due_soon_told_at"}

log = structlog.get_logger(__name__)


def remind(database: Database) -> int:
    """Record what is overdue and what is due within `due.DUE_SOON`, once for each due date; returns how many.

    The warning in the log is for whoever watches it; it names the request's id, and nobody.
    """
    told = 0
    for name in TOLD:
        with database.read() as session:
            due = list(session.scalars(_first_due(name, current_time(session)).limit(MOST_A_ROUND)))
        if due:
            told += _tell(database, name, due)
    return told


def _first_due(name: str, at: datetime) -> Select[uuid.UUID]:
    query = select(DeletionRequest.id).where(IS_LIVE, _untold(name, at))
    return query.order_by(DeletionRequest.due_at, DeletionRequest.id)


def _untold(name: str, at: datetime) -> ColumnElement[bool]:
    if name == "overdue":
        return and_(DeletionRequest.due_at < at, DeletionRequest.overdue_told_at.is_(None))
    return and_(DeletionRequest.due_at.between(at, at + DUE_SOON), DeletionRequest.due_soon_told_at.is_(None))


def _tell(database: Database, name: str, due: list[uuid.UUID]) -> int:
    with database.write() as session:
        at = current_time(session)
        # Those that a person decides about at this moment are for the next round.
        still = (
            select(DeletionRequest)
            .where(DeletionRequest.id.in_(due), IS_LIVE, _untold(name, at))
            .order_by(DeletionRequest.id)
            .with_for_update(skip_locked=True)
        )
        requests = list(session.scalars(still))
        for request in requests:
            setattr(request, TOLD[name], at)
            record_event(
                session,
                f"deletion_request.{name}",
                "deletion_request",
                request.id,
                ACTOR,
                due_at=request.due_at.isoformat(),
                days_left=days_left(request.due_at, at),
            )
    crash_point("remind.after_commit")
    for request in requests:
        log.warning(f"deletion_request.{name}", request=str(request.id), due_at=request.due_at.isoformat(), alert=True)
    return len(requests)
