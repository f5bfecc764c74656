"""When the requests that wait for a model are gathered: at once, or by number, by window and by due date."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from models.parameters import Batching
from models.records import DeletionRequest, Erasure, ErasureStatus, Model, ModelStatus


@dataclass(frozen=True)
class Gathering:
    """Requests that wait for one model: how many, when the first came, and when the first of them is due."""

    requests: int
    oldest: datetime
    due: datetime

    def joined(self, came: datetime, due: datetime) -> Gathering:
        """With one request more."""
        return Gathering(self.requests + 1, min(self.oldest, came), min(self.due, due))


def starts_by(batching: Batching, gathering: Gathering, at: datetime) -> datetime | None:
    """When gathering ends at the latest, ``at`` where it is over already; None: nothing is gathered, it starts at once."""
    if batching.mode == "at_once":
        return None
    if batching.requests is not None and gathering.requests >= batching.requests:
        return at
    latest = gathering.due - timedelta(days=batching.margin_days)
    if batching.window_hours is not None:
        latest = min(latest, gathering.oldest + timedelta(hours=batching.window_hours))
    return max(latest, at)


def is_over(batching: Batching, gathering: Gathering, at: datetime) -> bool:
    """Whether a job is due for what was gathered."""
    latest = starts_by(batching, gathering, at)
    return latest is None or latest <= at


def _waiting() -> ColumnElement[bool]:
    request = aliased(DeletionRequest)
    approved = or_(request.approval_required.is_(False), request.approved_at.is_not(None))
    return and_(
        Erasure.status == ErasureStatus.OPEN,
        Erasure.job_id.is_(None),
        Model.status == ModelStatus.READY,
        exists().where(
            request.id == Erasure.request_id, request.rejected_at.is_(None), request.held_at.is_(None), approved
        ),
    )


# Open erasures, approved where that is needed, of models that can forget, and in no job. Joined with Model.
WAITING = _waiting()


def of_model(model: Model) -> Batching:
    """As its policy has it; models registered before there was a choice start at once."""
    return Batching.model_validate(model.policy.get("batching", {}))


def gatherings(session: Session, models: Collection[uuid.UUID]) -> dict[uuid.UUID, Gathering]:
    """What waits for each of these models; those that nothing waits for are left out."""
    query = (
        select(
            Erasure.model_id,
            func.count(),
            func.min(Erasure.created_at),
            func.min(DeletionRequest.due_at),
        )
        .join(Model, Model.id == Erasure.model_id)
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(Erasure.model_id.in_(models), WAITING)
        .group_by(Erasure.model_id)
    )
    return {model: Gathering(count, oldest, due) for model, count, oldest, due in session.execute(query)}


def starting_by(session: Session, models: Collection[uuid.UUID], at: datetime) -> dict[uuid.UUID, datetime]:
    """For each of these models that gathers requests and has some waiting: when it starts at the latest."""
    by_id = {
        model.id: batching
        for model in session.scalars(select(Model).where(Model.id.in_(models)))
        if (batching := of_model(model)).mode == "gather"
    }
    if not by_id:
        return {}
    latest = {
        model: starts_by(by_id[model], gathering, at) for model, gathering in gatherings(session, by_id.keys()).items()
    }
    return {model: start for model, start in latest.items() if start is not None}
