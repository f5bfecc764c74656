"""HINT: tell the broker of queued jobs. A message is a hint with an id; losing it costs a delay, never a job."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from celery import Celery
from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, update
from sqlalchemy.orm import aliased

from models.crashes import crash_point
from models.queue import QUEUE, RUN_TASK
from models.records import Job, JobKind, JobStatus
from models.session import Database, current_time

FIRST_SECONDS = 60.0
LAST_SECONDS = 600.0
LAST_DOUBLING = 5  # this hint and later ones are followed by the next after LAST_SECONDS
MOST_A_ROUND = 100
# Documents whose hint is on its way. The broker hands out hints in their order: thousands would keep a model's job waiting.
MOST_CERTIFY = 50
COMPUTING = (JobKind.REGISTER, JobKind.TRAIN, JobKind.UNLEARN, JobKind.AUDIT)

log = structlog.get_logger(__name__)


def wait_after(hints: int) -> timedelta:
    """How long to wait before the next hint once ``hints`` (at least 1) were sent: 60 s, doubling to 10 minutes."""
    return timedelta(seconds=min(FIRST_SECONDS * 2 ** (hints - 1), LAST_SECONDS))


def hint(database: Database, celery: Celery) -> int:
    """Publish what is due; returns how many were sent. A broker that is down ends the round, and nothing is lost."""
    sent: list[uuid.UUID] = []
    for job_id in _due(database):
        try:
            celery.send_task(RUN_TASK, args=[str(job_id)], queue=QUEUE, retry=False)
        except Exception as error:
            log.warning("dispatcher.broker_unavailable", error=type(error).__name__)
            break
        crash_point("hint.sent")
        sent.append(job_id)
    if sent:
        with database.write() as session:
            session.execute(
                update(Job).where(Job.id.in_(sent)).values(hinted_at=current_time(session), hints=Job.hints + 1)
            )
    return len(sent)


def _due(database: Database) -> list[uuid.UUID]:
    """Jobs that compute first, in the order in which they were made; then some of the documents that are to be signed."""
    with database.read() as session:
        at = current_time(session)
        computing = _queued(COMPUTING, _is_due(at)).limit(MOST_A_ROUND)
        on_their_way = _queued([JobKind.CERTIFY], ~_is_due(at)).limit(MOST_CERTIFY).subquery()
        free = max(0, MOST_CERTIFY - (session.scalar(select(func.count()).select_from(on_their_way)) or 0))
        certify = _queued([JobKind.CERTIFY], _is_due(at)).limit(free)
        return [*session.scalars(computing), *session.scalars(certify)][:MOST_A_ROUND]


def _queued(kinds: Sequence[JobKind], condition: ColumnElement[bool]) -> Select[uuid.UUID]:
    other = aliased(Job)
    return (
        select(Job.id)
        .where(
            Job.kind.in_(kinds),
            Job.status == JobStatus.QUEUED,
            ~exists().where(other.model_id == Job.model_id, other.status == JobStatus.RUNNING),
            condition,
        )
        .order_by(Job.id)
    )


def _is_due(at: datetime) -> ColumnElement[bool]:
    """Whether a job may run, and its last hint was sent long enough ago."""
    doubled = [and_(Job.hints <= hints, Job.hinted_at <= at - wait_after(hints)) for hints in range(1, LAST_DOUBLING)]
    waited = or_(*doubled, Job.hinted_at <= at - timedelta(seconds=LAST_SECONDS))
    return and_(or_(Job.not_before.is_(None), Job.not_before <= at), or_(Job.hinted_at.is_(None), waited))
