"""HINT: tell the broker of queued jobs. A message is a hint with an id; losing it costs a delay, never a job."""

from __future__ import annotations

import uuid
from datetime import timedelta

import structlog
from celery import Celery
from sqlalchemy import exists, or_, select, update
from sqlalchemy.orm import aliased

from models.crashes import crash_point
from models.queue import QUEUE, RUN_TASK
from models.records import Job, JobStatus
from models.session import Database, current_time

FIRST_SECONDS = 60.0
LAST_SECONDS = 600.0
MOST_A_ROUND = 100

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
    other = aliased(Job)
    with database.read() as session:
        at = current_time(session)
        rows = session.execute(
            select(Job.id, Job.hinted_at, Job.hints)
            .where(
                Job.status == JobStatus.QUEUED,
                or_(Job.not_before.is_(None), Job.not_before <= at),
                ~exists().where(other.model_id == Job.model_id, other.status == JobStatus.RUNNING),
            )
            .order_by(Job.id)
        ).all()
    due = [row.id for row in rows if row.hinted_at is None or row.hinted_at + wait_after(row.hints) <= at]
    return due[:MOST_A_ROUND]
