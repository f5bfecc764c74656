"""/v1/deletion-requests"""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response, status
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from models.base import now
from models.deletion_request import LIVE
from models.records import (
    AuditReport,
    DeletionRequest,
    Erasure,
    Model,
    ModelVersion,
    RequestStatus,
    TrainingSet,
)
from service import batching
from service.deps import Pepper, ReadSession, SuppressionKey, WriteSession
from service.due import days_left, is_due_soon, is_overdue
from service.errors import Conflict, NotFound, Unprocessable, responses
from service.intake import accept, status_at_receipt
from service.paging import Page, Paged
from service.requests import LoadedRequest, visible
from service.routers.certificates import newest_certificate
from service.schemas.common import NAME, Time
from service.schemas.deletion_requests import (
    ErasureAnswer,
    NewDeletionRequest,
    RequestAnswer,
    RequestReceipt,
    RequestSummary,
)
from service.schemas.selectors import SelectorOutcome
from service.security import AsAnyone, AsApplication

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])

RETRY_AFTER_SECONDS = 10
CERTIFICATE_LINKS = {"certificate": "", "certificate_pdf": "/pdf", "certificate_bundle": "/bundle"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Chosen by the caller, one for each request: sent again, it gives the answer of the first time.",
    ),
]


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
    query = visible(principal)
    if status is not None:
        query = query.where(DeletionRequest.status == status)
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
    return answer_in_full(session, *loaded)


def answer_in_full(session: Session, request: DeletionRequest, application: str, training_set: str) -> RequestAnswer:
    """The request, and the names of its application and training set, as it is answered on its own."""
    summary = _summary(request, application, training_set, _erasures(session, [request.id])[request.id])
    certificate = newest_certificate(session, request)
    return RequestAnswer(
        **summary.model_dump(),
        samples=_outcomes(request),
        resolution=request.resolution,
        samples_erased_at=request.samples_erased_at,
        samples_kept=request.samples_kept if request.samples_erased_at is None else None,
        certificate=certificate.id if certificate is not None else None,
    )


def _outcomes(request: DeletionRequest) -> list[SelectorOutcome]:
    return [SelectorOutcome.model_validate(answer) for answer in request.selectors or []]


def _links(request: DeletionRequest) -> dict[str, str]:
    path = f"/v1/deletion-requests/{request.id}"
    links = {"self": path}
    if request.certified_at is not None:
        links |= {part: f"{path}/certificate{end}" for part, end in CERTIFICATE_LINKS.items()}
    return links


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
        due_at=request.original_due_at or request.due_at,
        approval_required=request.approval_required,
        samples=_outcomes(request),
        links=_links(request),
    )


def _summary(
    request: DeletionRequest, application: str, training_set: str, erasures: list[ErasureAnswer]
) -> RequestSummary:
    live, at = request.status in LIVE, now()
    return RequestSummary(
        id=request.id,
        status=request.status,
        application=application,
        training_set=training_set,
        external_id=request.external_id,
        regulation=request.regulation,
        ground=request.ground,
        submitted_at=request.submitted_at,
        received_at=request.received_at,
        due_at=request.due_at,
        days_left=days_left(request.due_at, at) if live else None,
        due_soon=live and is_due_soon(request.due_at, at),
        overdue=live and is_overdue(request.due_at, at),
        original_due_at=request.original_due_at,
        extended_at=request.extended_at,
        extension_reason=request.extension_reason,
        approval_required=request.approval_required,
        approved_at=request.approved_at,
        rejected_at=request.rejected_at,
        cancelled_at=request.cancelled_at,
        held_at=request.held_at,
        decision_reason=request.decision_reason,
        erasures=erasures,
        links=_links(request),
    )


def _erasures(session: Session, requests: list[uuid.UUID]) -> dict[uuid.UUID, list[ErasureAnswer]]:
    any_edition = aliased(AuditReport)
    edition = (
        select(func.max(any_edition.edition)).where(any_edition.version_id == Erasure.version_id).scalar_subquery()
    )
    query = (
        select(Erasure, Model.name, ModelVersion.number, AuditReport.id, batching.waiting())
        .join(Model, Model.id == Erasure.model_id)
        .outerjoin(ModelVersion, ModelVersion.id == Erasure.version_id)
        .outerjoin(AuditReport, (AuditReport.version_id == Erasure.version_id) & (AuditReport.edition == edition))
        .where(Erasure.request_id.in_(requests))
        .order_by(Erasure.id)
    )
    rows = session.execute(query).all()
    starts = batching.starting_by(session, {erasure.model_id for erasure, *_, waits in rows if waits}, now())
    answers: dict[uuid.UUID, list[ErasureAnswer]] = defaultdict(list)
    for erasure, model, version, report, waits in rows:
        answers[erasure.request_id].append(
            ErasureAnswer(
                id=erasure.id,
                model=model,
                status=erasure.status,
                job=erasure.job_id,
                version=version,
                report=report,
                reason=erasure.reason,
                starts_by=starts.get(erasure.model_id) if waits else None,
                finished_at=erasure.finished_at,
            )
        )
    return answers
