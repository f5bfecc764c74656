"""Accept a deletion request: resolve what it names, insert what it asks for. Makes no job and publishes nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections import Counter
from typing import cast

from sqlalchemy import Table, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Model,
    ModelVersion,
    RequestSample,
    RequestStatus,
    record_event,
)
from models.settling import settled
from service.asking import examine, understand
from service.due import PERIODS
from service.errors import Unprocessable
from service.lists.among import among
from service.schemas.deletion_requests import NewDeletionRequest
from service.schemas.selectors import Outcome
from service.security import Principal
from service.selectors import Found, Resolution, chunks


def accept(
    session: Session,
    pepper: bytes,
    suppression_key: bytes,
    principal: Principal,
    body: NewDeletionRequest,
    idempotency_key: str | None,
) -> tuple[DeletionRequest, bool]:
    """The request that the body asks for, and whether it had been accepted before under the same key.

    Raises NotFound, Conflict or Unprocessable, and then nothing is written.
    """
    assert principal.application_id is not None  # noqa: S101 - the role application names one
    fingerprint = _fingerprint(pepper, body)
    earlier = _earlier(session, principal.application_id, idempotency_key, fingerprint)
    if earlier is not None:
        return earlier, True
    asked = understand(session, suppression_key, principal, body)
    approvals = examine(session, body, asked)
    models, resolution = asked.models, asked.resolution
    request = DeletionRequest(
        application_id=principal.application_id,
        training_set_id=asked.training_set.id,
        submitted_by=principal.key_id,
        external_id=body.external_id,
        regulation=body.regulation,
        ground=body.ground,
        submitted_at=body.submitted_at,
        received_at=asked.received_at,
        due_at=asked.due_at,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
        selectors=[answer.model_dump(mode="json") for answer in resolution.answers],
        resolution=counted(resolution),
        approval_required=any(approvals.values()),
        has_controls=bool(resolution.samples[Outcome.CONTROL]),
    )
    request.status = status_at_receipt(request)
    try:
        with session.begin_nested():
            session.add(request)
            session.flush()
    except IntegrityError:  # the same key was accepted by another process since we looked
        earlier = _earlier(session, principal.application_id, idempotency_key, fingerprint)
        if earlier is None:
            raise
        return earlier, True
    _insert_samples(session, request, resolution)
    _insert_erasures(session, request, models, resolution)
    record_event(
        session,
        "deletion_request.accepted",
        "deletion_request",
        request.id,
        principal.actor,
        regulation=request.regulation,
        due_at=request.due_at.isoformat(),
        due_rule=PERIODS[request.regulation].source,
        approval_required=request.approval_required,
        samples={outcome.value: len(samples) for outcome, samples in resolution.samples.items()},
    )
    session.flush()
    settled(session, request.id)
    return request, False


def status_at_receipt(request: DeletionRequest) -> RequestStatus:
    """What the request's status was when it was accepted: a repeated POST gets the answer of the first."""
    if request.approval_required:
        return RequestStatus.AWAITING_APPROVAL
    waiting = {Outcome.MATCHED, Outcome.PENDING, Outcome.CONTROL}
    outcomes = (request.resolution or {}).get("outcomes", {})
    return RequestStatus.QUEUED if waiting & set(outcomes) else RequestStatus.COMPLETED


def counted(resolution: Resolution) -> dict[str, dict[str, int]]:
    """What stays of the selectors once the names in them are erased: how many of each kind, and what became of them."""
    return {
        "outcomes": dict(Counter(answer.outcome.value for answer in resolution.answers)),
        "identified_by": dict(Counter(name for answer in resolution.answers for name in answer.selector)),
    }


def _fingerprint(pepper: bytes, body: NewDeletionRequest) -> bytes:
    canonical = json.dumps(body.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))
    return hmac.new(pepper, b"body:" + canonical.encode(), hashlib.sha256).digest()


def _earlier(
    session: Session, application_id: uuid.UUID, idempotency_key: str | None, fingerprint: bytes
) -> DeletionRequest | None:
    if idempotency_key is None:
        return None
    earlier = session.scalars(
        select(DeletionRequest).where(
            DeletionRequest.application_id == application_id, DeletionRequest.idempotency_key == idempotency_key
        )
    ).one_or_none()
    if earlier is not None and not hmac.compare_digest(earlier.fingerprint, fingerprint):
        raise Unprocessable(
            "This Idempotency-Key was used with another body: use a new key for a new request.",
            errors=[{"parameter": "Idempotency-Key", "detail": "used with another body"}],
        )
    return earlier


def _insert_samples(session: Session, request: DeletionRequest, resolution: Resolution) -> None:
    samples = [*resolution.to_forget, *resolution.samples[Outcome.CONTROL]]
    if not resolution.to_forget:  # else a job would set out to forget them once more
        samples.extend(resolution.samples[Outcome.ALREADY_ERASED])
    rows = [
        {"request_id": request.id, "sample_index": sample.index, "training_set_id": request.training_set_id}
        for sample in samples
    ]
    if rows:
        session.execute(insert(cast(Table, RequestSample.__table__)), rows)


def _insert_erasures(session: Session, request: DeletionRequest, models: list[Model], resolution: Resolution) -> None:
    """One open erasure a model; or, where every sample is forgotten already, a finished one that names the evidence."""
    if resolution.to_forget:
        session.add_all(Erasure(request_id=request.id, model_id=model.id) for model in models)
        return
    for model in models:
        version = _evidence(session, model, resolution.samples[Outcome.ALREADY_ERASED])
        if version is not None:
            session.add(
                Erasure(
                    request_id=request.id,
                    model_id=model.id,
                    status=ErasureStatus.DONE,
                    version_id=version.id,
                    reason="already forgotten",
                    finished_at=request.received_at,
                )
            )


def _evidence(session: Session, model: Model, samples: list[Found]) -> ModelVersion | None:
    """The latest version by which the model has forgotten any of the samples."""
    found: list[ModelVersion] = []
    for chunk in chunks(sorted(sample.index for sample in samples)):
        query = (
            select(ModelVersion)
            .join(Erasure, Erasure.version_id == ModelVersion.id)
            .join(RequestSample, RequestSample.request_id == Erasure.request_id)
            .where(
                RequestSample.training_set_id == model.training_set_id,
                among(session, RequestSample.sample_index, chunk),
                Erasure.model_id == model.id,
                Erasure.status == ErasureStatus.DONE,
            )
            .order_by(ModelVersion.number.desc())
            .limit(1)
        )
        found.extend(session.scalars(query))
    return max(found, key=lambda version: version.number, default=None)
