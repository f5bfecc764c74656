"""/v1/training-sets"""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.among import among
from models.records import Application, Job, Sample, TrainingSet, TrainingSetApplication, TrainingSetStatus
from service.deps import CurrentSettings, LoadedTrainingSet, ReadSession, SuppressionKey, WriteSession
from service.errors import Conflict, NotFound, Unprocessable, responses
from service.lists.paging import Page, Paged
from service.registration import register_training_set
from service.schemas.common import Accepted
from service.schemas.training_sets import (
    NewTrainingSet,
    SampleAnswer,
    SampleSearch,
    SampleSearchAnswer,
    TrainingSetAccepted,
    TrainingSetAnswer,
)
from service.security import AsCompliance, AsOperator
from service.selectors import chunks, resolve

router = APIRouter(prefix="/v1/training-sets", tags=["training sets"])


@router.post("", status_code=status.HTTP_202_ACCEPTED, responses=responses(Conflict, Unprocessable))
def register(
    principal: AsOperator, body: NewTrainingSet, settings: CurrentSettings, session: WriteSession, response: Response
) -> TrainingSetAccepted:
    """Register images as a training set; a job reads them."""
    training_set, job = register_training_set(session, settings, principal, body)
    response.headers["Location"] = f"/v1/training-sets/{training_set.name}"
    return TrainingSetAccepted(training_set=_answers(session, [training_set])[0], job=_accepted(job))


@router.get("")
def list_training_sets(
    _: AsCompliance,
    session: ReadSession,
    paging: Paged,
    status: Annotated[TrainingSetStatus | None, Query()] = None,
) -> Page[TrainingSetAnswer]:
    """Training sets, newest first."""
    query = select(TrainingSet) if status is None else select(TrainingSet).where(TrainingSet.status == status)
    rows, cursor = paging.cut(session, query, TrainingSet.id)
    return Page(data=_answers(session, [row[0] for row in rows]), next_cursor=cursor)


@router.get("/{name}", responses=responses(NotFound))
def get_training_set(_: AsCompliance, training_set: LoadedTrainingSet, session: ReadSession) -> TrainingSetAnswer:
    """One training set and how far it is."""
    return _answers(session, [training_set])[0]


@router.post("/{name}/samples/search", responses=responses(NotFound, Unprocessable))
def search_samples(
    _: AsOperator, training_set: LoadedTrainingSet, body: SampleSearch, session: ReadSession, key: SuppressionKey
) -> SampleSearchAnswer:
    """The rows that selectors stand for. Changes nothing."""
    resolution = resolve(session.connection(), key, training_set.id, body.samples, [])
    found = sorted(sample.index for samples in resolution.samples.values() for sample in samples)
    rows: list[Sample] = []
    for chunk in chunks(found):
        rows.extend(
            session.scalars(
                select(Sample)
                .where(Sample.training_set_id == training_set.id, among(Sample.index, chunk))
                .order_by(Sample.index)
            )
        )
    return SampleSearchAnswer(samples=resolution.answers, data=[SampleAnswer.model_validate(row) for row in rows])


def _accepted(job: Job) -> Accepted:
    return Accepted(id=job.id, kind=job.kind.value, status=job.status.value, created_at=job.created_at)


def _answers(session: Session, sets: list[TrainingSet]) -> list[TrainingSetAnswer]:
    names: dict[uuid.UUID, list[str]] = defaultdict(list)
    query = (
        select(TrainingSetApplication.training_set_id, Application.name)
        .join(Application, Application.id == TrainingSetApplication.application_id)
        .where(TrainingSetApplication.training_set_id.in_([each.id for each in sets]))
        .order_by(Application.name)
    )
    for set_id, name in session.execute(query):
        names[set_id].append(name)
    return [
        TrainingSetAnswer(
            id=each.id,
            name=each.name,
            status=each.status,
            applications=names[each.id],
            source=each.source,
            controls=each.controls,
            shape=each.shape,
            classes=each.classes,
            rows=each.rows,
            manifest_sha256=each.manifest_sha256,
            near_duplicates=each.near_duplicates,
            error=each.error,
            created_at=each.created_at,
        )
        for each in sets
    ]
