"""/v1/jobs"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import product
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response, status
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from models.base import now
from models.deletion_request import LIVE
from models.records import DeletionRequest, Erasure, Event, EventSeal, Job, JobKind, JobStatus, Model, TrainingSet
from models.settling import settle
from service import following, job_decisions
from service.deps import CurrentDatabase, CurrentSettings, ReadSession, WriteSession
from service.due import days_left
from service.errors import Conflict, NotFound, responses
from service.following import EventStream, Follower, Streams
from service.lists.paging import Page, Paged
from service.lists.ranges import Conditions, positions
from service.schemas.common import NAME, OptionalReason
from service.schemas.events import EventAnswer, event_answer
from service.schemas.jobs import JobAnswer
from service.security import AsOperator

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

UNKNOWN = "There is no job of this id."


def _jobs() -> Select[Job, str | None, str | None]:
    return (
        select(Job, TrainingSet.name, Model.name)
        .outerjoin(TrainingSet, TrainingSet.id == Job.training_set_id)
        .outerjoin(Model, Model.id == Job.model_id)
    )


def _loaded(job_id: uuid.UUID, session: ReadSession) -> JobAnswer:
    found = session.execute(_jobs().where(Job.id == job_id)).one_or_none()
    if found is None:
        raise NotFound(UNKNOWN)
    return _answers(session, [(found[0], found[1], found[2])])[0]


def _locked(job_id: uuid.UUID, session: WriteSession) -> Job:
    found = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one_or_none()
    if found is None:
        raise NotFound(UNKNOWN)
    return found


LoadedJob = Annotated[JobAnswer, Depends(_loaded)]
LockedJob = Annotated[Job, Depends(_locked)]


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
    rows = {row[0].id: (row[0], row[1], row[2]) for row in session.execute(_jobs().where(Job.id.in_(ids)))}
    return Page(data=_answers(session, [rows[each] for each in ids]), next_cursor=cursor)


@router.get("/{job_id}", responses=responses(NotFound))
def get_job(_: AsOperator, job: LoadedJob) -> JobAnswer:
    """One job: its phase, progress and error."""
    return job


async def _place(request: Request) -> AsyncIterator[Streams | None]:
    """A place for a live stream where the caller asks for one; given back once the answer has ended, however it ends."""
    if not following.wanted(",".join(request.headers.getlist("accept"))):
        yield None
        return
    streams: Streams = request.app.state.streams
    streams.take()
    try:
        yield streams
    finally:
        streams.give_back()


@router.get(
    "/{job_id}/events",
    response_model=Page[EventAnswer],
    responses={200: {"content": {following.STREAM: {"schema": {"type": "string"}}}}, **responses(NotFound)},
)
def list_events(
    principal: AsOperator,
    job: LoadedJob,
    database: CurrentDatabase,
    session: ReadSession,
    paging: Paged,
    request: Request,
    streams: Annotated[Streams | None, Depends(_place)],
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", pattern=r"^[0-9]{1,18}$", description="Of a stream that broke off.")
    ] = None,
) -> Any:
    """What happened to the job, oldest first. An event appears here once it is sealed, a moment after it happened.

    With `Accept: text/event-stream` it is a live stream: each event with its position as `id`, `progress` whenever it
    changes, and `end` with the job, after which the stream closes: close it too, or an `EventSource` starts anew.
    """
    if streams is not None:
        after = following.position_after(session, job.id, last_event_id)
        follower = Follower(database, principal, job.id, _loaded)
        return EventStream(following.follow(follower, streams, after, request.state.trace_id))
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
        found = session.scalar(select(Model.id).where(Model.name == model))
        if found is None:  # as a condition it would be IS NULL: the jobs that have no model
            return []
        of_model.append(Job.model_id == found)
    kinds = (kind,) if kind is not None else tuple(JobKind)
    statuses = (status,) if status is not None else tuple(JobStatus)
    return [[*of_model, Job.kind == each, Job.status == state] for each, state in product(kinds, statuses)]


@router.post("/{job_id}/cancel", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict))
def cancel_job(
    principal: AsOperator, job: LockedJob, session: WriteSession, body: OptionalReason | None = None
) -> JobAnswer:
    """Stop a job. Its deletion requests go on hold, still due; a training set or model that it was to make has failed."""
    job_decisions.cancel(session, job, principal, body.reason if body else None)
    return _written(session, job)


@router.post("/{job_id}/retry", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict))
def retry_job(
    principal: AsOperator, job: LockedJob, settings: CurrentSettings, session: WriteSession, response: Response
) -> JobAnswer:
    """Try again what a job failed at: answers with the new job, which has a seed of its own."""
    made = job_decisions.retry(session, settings, principal, job)
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return _written(session, made)


def _written(session: Session, job: Job) -> JobAnswer:
    settle(session)
    session.refresh(job)
    row = session.execute(_jobs().where(Job.id == job.id)).one()
    return _answers(session, [(row[0], row[1], row[2])])[0]


def _answers(session: Session, rows: list[tuple[Job, str | None, str | None]]) -> list[JobAnswer]:
    served = _served(session, [job.id for job, _, _ in rows])
    return [_job(job, training_set, model, served[job.id]) for job, training_set, model in rows]


def _served(session: Session, jobs: list[uuid.UUID]) -> dict[uuid.UUID, list[DeletionRequest]]:
    """The requests in each job, by id."""
    query = (
        select(Erasure.job_id, DeletionRequest)
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(Erasure.job_id.in_(jobs))
        .order_by(DeletionRequest.id)
    )
    served: dict[uuid.UUID, list[DeletionRequest]] = defaultdict(list)
    for job, request in session.execute(query):
        if job is not None:
            served[job].append(request)
    return served


def _job(job: Job, training_set: str | None, model: str | None, served: list[DeletionRequest]) -> JobAnswer:
    due_at = min((request.due_at for request in served if request.status in LIVE), default=None)
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
        requests=[request.id for request in served],
        due_at=due_at,
        days_left=days_left(due_at, now()) if due_at is not None else None,
        retry_of=job.retry_of_id,
        cancel_requested_at=job.cancel_requested_at,
        worker=job.worker,
        error=job.error,
        seconds=job.seconds,
        created_at=job.created_at,
        not_before=job.not_before,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=links,
    )
