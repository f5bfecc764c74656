"""/v1/jobs"""

from __future__ import annotations

import uuid
from itertools import product
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from models.records import Event, EventSeal, Job, JobKind, JobStatus, Model, TrainingSet
from service.deps import ReadSession
from service.errors import NotFound, responses
from service.paging import Page, Paged
from service.ranges import Conditions, positions
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
    ranges = _ranges(session, status, model, kind)
    found, cursor = paging.take([Job.id], positions(session, [Job.id], ranges))
    ids = [position[-1] for position in found]
    rows = {row[0].id: row for row in session.execute(_jobs().where(Job.id.in_(ids)))}
    return Page(data=[_job(*rows[each]) for each in ids], next_cursor=cursor)


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
        .where(EventSeal.record == "job", EventSeal.record_id == str(job.id))
    )
    rows, cursor = paging.cut(session, query, EventSeal.position, oldest_first=True)
    return Page(data=[event_answer(row[0], row[1]) for row in rows], next_cursor=cursor)


def _ranges(session: Session, status: JobStatus | None, model: str | None, kind: JobKind | None) -> list[Conditions]:
    """One range for each kind and status that is asked for: each job has one of both."""
    if status is None and model is None and kind is None:
        return [[]]
    of_model = []
    if model is not None:
        of_model.append(Job.model_id == session.scalar(select(Model.id).where(Model.name == model)))
    kinds = (kind,) if kind is not None else tuple(JobKind)
    statuses = (status,) if status is not None else tuple(JobStatus)
    return [[*of_model, Job.kind == each, Job.status == state] for each, state in product(kinds, statuses)]


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
