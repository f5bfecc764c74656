"""/v1/jobs"""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy import Select, select

from models.records import Event, EventSeal, Job, JobKind, JobStatus, Model, TrainingSet
from service.deps import ReadSession
from service.errors import NotFound, responses
from service.paging import Page, Paged
from service.schemas.common import NAME
from service.schemas.events import EventAnswer, event_answer
from service.schemas.jobs import JobAnswer
from service.security import AsOperator

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


def _jobs() -> Select[Job, str | None, str | None]:
    return (
        select(Job, TrainingSet.name, Model.name)
        .outerjoin(TrainingSet, TrainingSet.id == Job.training_set_id)
        .outerjoin(Model, Model.id == Job.model_id)
    )


def _loaded(job_id: uuid.UUID, session: ReadSession) -> JobAnswer:
    found = session.execute(_jobs().where(Job.id == job_id)).one_or_none()
    if found is None:
        raise NotFound("There is no job of this id.")
    return _job(found[0], found[1], found[2])


LoadedJob = Annotated[JobAnswer, Depends(_loaded)]


@router.get("")
def list_jobs(
    _: AsOperator,
    session: ReadSession,
    paging: Paged,
    status: Annotated[JobStatus | None, Query()] = None,
    model: Annotated[str | None, Query(pattern=NAME)] = None,
    kind: Annotated[JobKind | None, Query()] = None,
) -> Page[JobAnswer]:
    """Jobs, newest first."""
    query = _jobs()
    if status is not None:
        query = query.where(Job.status == status)
    if model is not None:
        query = query.where(Model.name == model)
    if kind is not None:
        query = query.where(Job.kind == kind)
    rows, cursor = paging.cut(session, query, Job.id)
    return Page(data=[_job(row[0], row[1], row[2]) for row in rows], next_cursor=cursor)


@router.get("/{job_id}", responses=responses(NotFound))
def get_job(_: AsOperator, job: LoadedJob) -> JobAnswer:
    """One job: its phase, progress and error."""
    return job


@router.get("/{job_id}/events", responses=responses(NotFound))
def list_events(_: AsOperator, job: LoadedJob, session: ReadSession, paging: Paged) -> Page[EventAnswer]:
    """What happened to the job, oldest first. An event appears here once it is sealed, a moment after it happened."""
    query = (
        select(Event, EventSeal)
        .join(EventSeal, EventSeal.event_id == Event.id)
        .where(Event.record == "job", Event.record_id == str(job.id))
    )
    rows, cursor = paging.cut(session, query, EventSeal.position, oldest_first=True)
    return Page(data=[event_answer(row[0], row[1]) for row in rows], next_cursor=cursor)


def _job(job: Job, training_set: str | None, model: str | None) -> JobAnswer:
    links = {"self": f"/v1/jobs/{job.id}", "events": f"/v1/jobs/{job.id}/events"}
    if model is not None:
        links["model"] = f"/v1/models/{model}"
    return JobAnswer(
        id=job.id,
        kind=job.kind,
        status=job.status,
        training_set=training_set,
        model=model,
        version=job.version_number,
        phase=job.phase,
        step=job.step,
        progress=job.progress,
        eta_seconds=job.eta_seconds,
        attempts=job.attempts,
        worker=job.worker,
        error=job.error,
        seconds=job.seconds,
        created_at=job.created_at,
        not_before=job.not_before,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=links,
    )
