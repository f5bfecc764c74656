"""HINT: tell the broker of queued jobs. A message is a hint with an id; losing it costs a delay, never a job."""

from __future__ import annotations

import uuid
from datetime import timedelta

import structlog
from celery import Celery
from sqlalchemy import ColumnElement, Integer, Select, and_, bindparam, exists, func, or_, select, update
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


def _before(hints: int) -> str:
    """The parameter for the time by which the last of so many hints must have been sent."""
    return f"before_{hints}"


def _queued(*conditions: ColumnElement[bool]) -> Select[uuid.UUID]:
    other = aliased(Job)
    is_free = ~exists().where(other.model_id == Job.model_id, other.status == JobStatus.RUNNING)
    return select(Job.id).where(Job.status == JobStatus.QUEUED, is_free, *conditions).order_by(Job.id)


# Built once, as in service.claims: they run every second, whether there is anything to do or not.
# A job is due when it may run, and its last hint was sent long enough ago.
_DOUBLED = [and_(Job.hints <= hints, Job.hinted_at <= bindparam(_before(hints))) for hints in range(1, LAST_DOUBLING)]
_IS_DUE = and_(
    or_(Job.not_before.is_(None), Job.not_before <= bindparam("at")),
    or_(Job.hinted_at.is_(None), *_DOUBLED, Job.hinted_at <= bindparam(_before(LAST_DOUBLING))),
)
_DUE_COMPUTING = _queued(Job.kind.in_(COMPUTING), _IS_DUE).limit(MOST_A_ROUND)
_DUE_DOCUMENTS = _queued(Job.kind == JobKind.CERTIFY, _IS_DUE).limit(bindparam("free", type_=Integer))
_DOCUMENTS_ON_THEIR_WAY = select(func.count()).select_from(
    _queued(Job.kind == JobKind.CERTIFY, ~_IS_DUE).limit(MOST_CERTIFY).subquery()
)


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
        given = {"at": at} | {_before(hints): at - wait_after(hints) for hints in range(1, LAST_DOUBLING + 1)}
        computing = session.scalars(_DUE_COMPUTING, given).all()
        free = MOST_CERTIFY - (session.scalar(_DOCUMENTS_ON_THEIR_WAY, given) or 0)
        certify = session.scalars(_DUE_DOCUMENTS, given | {"free": free}).all() if free > 0 else []
    return [*computing, *certify][:MOST_A_ROUND]
