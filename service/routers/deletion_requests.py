"""/v1/deletion-requests"""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response, status
from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session, aliased

from models.base import now
from models.records import (
    Application,
    AuditReport,
    DeletionRequest,
    Erasure,
    Model,
    ModelVersion,
    RequestStatus,
    Role,
    TrainingSet,
)
from service.deps import Pepper, ReadSession, SuppressionKey, WriteSession
from service.due import days_left
from service.errors import Conflict, NotFound, Unprocessable, responses
from service.intake import accept, status_at_receipt
from service.paging import Page, Paged
from service.schemas.common import NAME, Time
from service.schemas.deletion_requests import (
    ErasureAnswer,
    NewDeletionRequest,
    RequestAnswer,
    RequestReceipt,
    RequestSummary,
)
from service.schemas.selectors import SelectorOutcome
from service.security import AsAnyone, AsApplication, Authenticated, Principal

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])

RETRY_AFTER_SECONDS = 10
ENDED = {
    RequestStatus.COMPLETED,
    RequestStatus.PARTIALLY_COMPLETED,
    RequestStatus.FAILED,
    RequestStatus.CANCELLED,
    RequestStatus.REJECTED,
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Chosen by the caller, one for each request: sent again, it gives the answer of the first time.",
    ),
]


def _visible(principal: Principal) -> Select[DeletionRequest, str, str]:
    query = (
        select(DeletionRequest, Application.name, TrainingSet.name)
        .join(Application, Application.id == DeletionRequest.application_id)
        .join(TrainingSet, TrainingSet.id == DeletionRequest.training_set_id)
    )
    if principal.role is Role.APPLICATION:
        query = query.where(DeletionRequest.application_id == principal.application_id)
    return query


def _loaded(request_id: uuid.UUID, principal: Authenticated, session: ReadSession) -> tuple[DeletionRequest, str, str]:
    found = session.execute(_visible(principal).where(DeletionRequest.id == request_id)).one_or_none()
    if found is None:
        raise NotFound("There is no deletion request of this id that this key may see.")
    return found[0], found[1], found[2]


LoadedRequest = Annotated[tuple[DeletionRequest, str, str], Depends(_loaded)]


@router.post("", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict, Unprocessable))
def submit(
    principal: AsApplication,
    body: NewDeletionRequest,
    pepper: Pepper,
    suppression_key: SuppressionKey,
    session: WriteSession,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RequestReceipt:
    """Ask for samples to be forgotten. Answered once the request is stored; the work follows."""
    request, replayed = accept(session, pepper, suppression_key, principal, body, idempotency_key)
    response.headers["Location"] = f"/v1/deletion-requests/{request.id}"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return _receipt(session, request)


@router.get("")
def list_deletion_requests(
    principal: AsAnyone,
    session: ReadSession,
    paging: Paged,
    status: Annotated[RequestStatus | None, Query()] = None,
    model: Annotated[str | None, Query(pattern=NAME)] = None,
    due_before: Annotated[Time | None, Query()] = None,
) -> Page[RequestSummary]:
    """Deletion requests, newest first; an application sees its own."""
    query = _visible(principal)
    if status is not None:
        query = query.where(DeletionRequest.status == status.value)  # type: ignore[attr-defined]
    if model is not None:
        named = exists().where(
            Erasure.request_id == DeletionRequest.id, Erasure.model_id == Model.id, Model.name == model
        )
        query = query.where(named)
    if due_before is not None:
        query = query.where(DeletionRequest.due_at < due_before)
    rows, cursor = paging.cut(session, query, DeletionRequest.id)
    erasures = _erasures(session, [row[0].id for row in rows])
    data = [_summary(row[0], row[1], row[2], erasures[row[0].id]) for row in rows]
    return Page(data=data, next_cursor=cursor)


@router.get("/{request_id}", responses=responses(NotFound))
def get_deletion_request(_: AsAnyone, loaded: LoadedRequest, session: ReadSession) -> RequestAnswer:
    """One request: how far it is in each model, and what became of each selector."""
    request, application, training_set = loaded
    summary = _summary(request, application, training_set, _erasures(session, [request.id])[request.id])
    return RequestAnswer(**summary.model_dump(), samples=_outcomes(request))


def _outcomes(request: DeletionRequest) -> list[SelectorOutcome]:
    return [SelectorOutcome.model_validate(answer) for answer in request.selectors or []]


def _links(request: DeletionRequest) -> dict[str, str]:
    return {"self": f"/v1/deletion-requests/{request.id}"}


def _receipt(session: Session, request: DeletionRequest) -> RequestReceipt:
    models = session.scalars(
        select(Model.name).join(Erasure).where(Erasure.request_id == request.id).order_by(Model.name)
    )
    return RequestReceipt(
        id=request.id,
        status=status_at_receipt(request),
        training_set=session.get_one(TrainingSet, request.training_set_id).name,
        models=list(models),
        external_id=request.external_id,
        regulation=request.regulation,
        ground=request.ground,
        submitted_at=request.submitted_at,
        received_at=request.received_at,
        due_at=request.due_at,
        approval_required=request.approval_required,
        samples=_outcomes(request),
        links=_links(request),
    )


def _summary(
    request: DeletionRequest, application: str, training_set: str, erasures: list[ErasureAnswer]
) -> RequestSummary:
    state = RequestStatus(request.status)  # type: ignore[attr-defined]
    return RequestSummary(
        id=request.id,
        status=state,
        application=application,
        training_set=training_set,
        external_id=request.external_id,
        regulation=request.regulation,
        ground=request.ground,
        submitted_at=request.submitted_at,
        received_at=request.received_at,
        due_at=request.due_at,
        days_left=None if state in ENDED else days_left(request.due_at, now()),
        approval_required=request.approval_required,
        erasures=erasures,
        links=_links(request),
    )


def _erasures(session: Session, requests: list[uuid.UUID]) -> dict[uuid.UUID, list[ErasureAnswer]]:
    any_edition = aliased(AuditReport)
    edition = (
        select(func.max(any_edition.edition)).where(any_edition.version_id == Erasure.version_id).scalar_subquery()
    )
    query = (
        select(Erasure, Model.name, ModelVersion.number, AuditReport.id)
        .join(Model, Model.id == Erasure.model_id)
        .outerjoin(ModelVersion, ModelVersion.id == Erasure.version_id)
        .outerjoin(AuditReport, (AuditReport.version_id == Erasure.version_id) & (AuditReport.edition == edition))
        .where(Erasure.request_id.in_(requests))
        .order_by(Erasure.id)
    )
    answers: dict[uuid.UUID, list[ErasureAnswer]] = defaultdict(list)
    for erasure, model, version, report in session.execute(query):
        answers[erasure.request_id].append(
            ErasureAnswer(
                id=erasure.id,
                model=model,
                status=erasure.status,
                job=erasure.job_id,
                version=version,
                report=report,
                reason=erasure.reason,
                finished_at=erasure.finished_at,
            )
        )
    return answers
