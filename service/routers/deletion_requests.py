"""/v1/deletion-requests"""

from __future__ import annotations

import uuid
from collections import defaultdict
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response, status
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.base import now
from models.deletion_request import LIVE
from models.records import (
    AuditReport,
    DeletionRequest,
    Erasure,
    Model,
    ModelVersion,
    RequestStatus,
)
from service.deps import Pepper, ReadSession, SuppressionKey
from service.due import days_left, is_due_soon, is_overdue
from service.duties import batching
from service.errors import Conflict, NotFound, Unprocessable, responses
from service.group_commit import GroupCommit
from service.intake import Accepted, accept, status_at_receipt
from service.lists.listing import Sort, Wanted, listed
from service.lists.paging import Page, Paged
from service.lists.searching import search
from service.nearby import near_duplicates_left
from service.requests import LoadedRequest, visible
from service.routers.certificates import newest_certificate
from service.schemas.common import NAME, Time
from service.schemas.deletion_requests import (
    ErasureAnswer,
    NewDeletionRequest,
    Regulation,
    RequestAnswer,
    RequestReceipt,
    RequestSearch,
    RequestSummary,
)
from service.schemas.selectors import SelectorOutcome
from service.security import AsAnyone, AsApplication, Principal

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


def _filtered(
    status: Annotated[list[RequestStatus], Query(default_factory=list, max_length=20, description="Any of these.")],
    model: Annotated[str | None, Query(pattern=NAME)] = None,
    training_set: Annotated[str | None, Query(pattern=NAME)] = None,
    regulation: Annotated[Regulation | None, Query()] = None,
    due_before: Annotated[
        Time | None, Query(description="Not finished, and due before then; what is due first comes first.")
    ] = None,
    overdue: Annotated[bool, Query(description="Not finished, and due before now; what is due first comes first.")] = (
        False
    ),
    sort: Annotated[
        Sort | None, Query(description="`due`: requests that are not finished, by due date. `-received`: newest first.")
    ] = None,
) -> Wanted:
    return Wanted(tuple(status), model, training_set, regulation, due_before, overdue, sort)


Filtered = Annotated[Wanted, Depends(_filtered)]


@router.post("", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict, Unprocessable))
async def submit(
    request: Request,
    principal: AsApplication,
    body: NewDeletionRequest,
    pepper: Pepper,
    suppression_key: SuppressionKey,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RequestReceipt:
    """Ask for samples to be forgotten. Answered once the request is stored; the work follows."""
    work = partial(
        _submitted,
        pepper=pepper,
        suppression_key=suppression_key,
        principal=principal,
        body=body,
        idempotency_key=idempotency_key,
    )
    submissions: GroupCommit = request.app.state.submissions
    receipt, replayed = await submissions.stored(work)
    response.headers["Location"] = receipt.links["self"]
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return receipt


def _submitted(session: Session, **asked: Any) -> tuple[RequestReceipt, bool]:
    accepted = accept(session, **asked)
    return _receipt(accepted), accepted.replayed


@router.get("", responses=responses(Unprocessable))
def list_deletion_requests(
    principal: AsAnyone, session: ReadSession, paging: Paged, wanted: Filtered
) -> Page[RequestSummary]:
    """Deletion requests, newest first; an application sees its own. What is asked for by due date comes due first."""
    found, cursor = listed(session, paging, principal, wanted)
    return Page(data=_summaries(session, principal, found), next_cursor=cursor)


@router.post("/search", responses=responses(Unprocessable))
def search_deletion_requests(
    principal: AsAnyone, body: RequestSearch, session: ReadSession, key: SuppressionKey, request: Request
) -> Page[RequestSummary]:
    """Requests by the caller's number of the case or by the person, newest first; an application finds its own.

    A person's requests are found after the erasure too. Neither name is ever part of a URL.
    """
    found, cursor = search(session, key, principal, body, request.url.path)
    return Page(data=_summaries(session, principal, found), next_cursor=cursor)


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
        near_duplicates=near_duplicates_left(session, request),
        resolution=request.resolution,
        controls_erased_at=request.controls_erased_at,
        samples_erased_at=request.samples_erased_at,
        samples_kept=request.samples_kept if request.samples_erased_at is None else None,
        certificate=certificate.id if certificate is not None else None,
    )


def _summaries(session: Session, principal: Principal, ids: list[uuid.UUID]) -> list[RequestSummary]:
    """In the order of the ids."""
    rows = {row[0].id: row for row in session.execute(visible(principal).where(DeletionRequest.id.in_(ids)))}
    erasures = _erasures(session, ids)
    return [_summary(*rows[found], erasures[found]) for found in ids]


def _outcomes(request: DeletionRequest) -> list[SelectorOutcome]:
    return [SelectorOutcome.model_validate(answer) for answer in request.selectors or []]


def _links(request: DeletionRequest) -> dict[str, str]:
    path = f"/v1/deletion-requests/{request.id}"
    links = {"self": path}
    if request.certified_at is not None:
        links |= {part: f"{path}/certificate{end}" for part, end in CERTIFICATE_LINKS.items()}
    return links


def _receipt(accepted: Accepted) -> RequestReceipt:
    request = accepted.request
    return RequestReceipt(
        id=request.id,
        status=status_at_receipt(request),
        training_set=accepted.training_set,
        models=accepted.models,
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
    newest_report = (
        select(AuditReport.id)
        .where(AuditReport.version_id == Erasure.version_id)
        .order_by(AuditReport.edition.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        select(Erasure, Model.name, ModelVersion.number, newest_report, batching.WAITING)
        .join(Model, Model.id == Erasure.model_id)
        .outerjoin(ModelVersion, ModelVersion.id == Erasure.version_id)
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
