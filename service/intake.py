"""Accept a deletion request: resolve what it names, insert what it asks for. Makes no job and publishes nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from models.among import among
from models.base import new_id
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Model,
    ModelVersion,
    RequestSample,
    RequestStatus,
    TrainingSet,
    event_row,
)
from service import storing
from service.asking import examine, understand
from service.due import PERIODS
from service.errors import Conflict, Problem, Unprocessable
from service.schemas.deletion_requests import NewDeletionRequest
from service.schemas.selectors import Outcome
from service.security import Principal
from service.selectors import Found, Resolution, chunks
from service.storing import Erasures
from service.usable import Target

# Built once, as in service.claims.
_EARLIER = select(DeletionRequest.id, DeletionRequest.fingerprint).where(
    DeletionRequest.application_id == bindparam("application"), DeletionRequest.idempotency_key == bindparam("key")
)


@dataclass(frozen=True)
class Accepted:
    """A stored request, its set, and the models that it concerns, by name; or all that of an earlier POST."""

    request: DeletionRequest
    training_set: str
    models: list[str]
    replayed: bool = False


def accept(
    session: Session,
    pepper: bytes,
    suppression_key: bytes,
    principal: Principal,
    body: NewDeletionRequest,
    idempotency_key: str | None,
) -> Accepted:
    """Store the request, unless one came under the same key before: then that one is the answer.

    Raises NotFound, Conflict or Unprocessable, and has written nothing then.
    """
    fingerprint = _fingerprint(pepper, body)
    try:
        asked = understand(session.connection(), suppression_key, principal, body)
        approvals = examine(session.connection(), body, asked)
    except Problem:
        # What was accepted once stays so, whatever has become of the set and its samples since.
        earlier = _earlier(session, principal, idempotency_key, fingerprint)
        if earlier is None:
            raise
        return _accepted_before(session, earlier)
    models, resolution = asked.models, asked.resolution
    outcomes = counted(resolution)
    approval_required = any(approvals.values())
    request = DeletionRequest(
        id=new_id(),
        application_id=principal.application_id,
        training_set_id=asked.training_set.id,
        status=_first_status(approval_required, outcomes),
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
        resolution=outcomes,
        approval_required=approval_required,
        has_controls=bool(resolution.samples[Outcome.CONTROL]),
    )
    erasures = _erasures(session, request, models, resolution)
    event = event_row(
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
    columns = {name: getattr(request, name) for name in storing.REQUEST}
    if not storing.store(session.connection(), columns, _rows(resolution), erasures, event):
        earlier = _earlier(session, principal, idempotency_key, fingerprint)
        if earlier is None:
            raise Conflict("The same Idempotency-Key is being accepted at this moment: send the request again.")
        return _accepted_before(session, earlier)
    concerned = {model for model, _ in erasures.models}
    return Accepted(request, asked.training_set.name, sorted(model.name for model in models if model.id in concerned))


def status_at_receipt(request: DeletionRequest) -> RequestStatus:
    """What the request's status was when it was accepted: a repeated POST gets the answer of the first."""
    return _first_status(request.approval_required, request.resolution or {})


def _first_status(approval_required: bool, resolution: dict[str, Any]) -> RequestStatus:
    if approval_required:
        return RequestStatus.AWAITING_APPROVAL
    waiting = {Outcome.MATCHED, Outcome.PENDING, Outcome.CONTROL}
    return RequestStatus.QUEUED if waiting & set(resolution.get("outcomes", {})) else RequestStatus.COMPLETED


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
    session: Session, principal: Principal, idempotency_key: str | None, fingerprint: bytes
) -> DeletionRequest | None:
    if idempotency_key is None:
        return None
    given = {"application": principal.application_id, "key": idempotency_key}
    earlier = session.connection().execute(_EARLIER, given).one_or_none()
    if earlier is None:
        return None
    if not hmac.compare_digest(earlier.fingerprint, fingerprint):
        raise Unprocessable(
            "This Idempotency-Key was used with another body: use a new key for a new request.",
            errors=[{"parameter": "Idempotency-Key", "detail": "used with another body"}],
        )
    return session.get_one(DeletionRequest, earlier.id)


def _accepted_before(session: Session, request: DeletionRequest) -> Accepted:
    models = select(Model.name).join(Erasure).where(Erasure.request_id == request.id)
    training_set = session.get_one(TrainingSet, request.training_set_id).name
    return Accepted(request, training_set, sorted(session.scalars(models)), replayed=True)


def _rows(resolution: Resolution) -> list[int]:
    """Samples that the request is about."""
    samples = [*resolution.to_forget, *resolution.samples[Outcome.CONTROL]]
    if not resolution.to_forget:  # else a job would set out to forget them once more
        samples.extend(resolution.samples[Outcome.ALREADY_ERASED])
    return [sample.index for sample in samples]


def _erasures(session: Session, request: DeletionRequest, models: list[Target], resolution: Resolution) -> Erasures:
    """An open one for each model; or, where every sample is forgotten already, a finished one that names the evidence."""
    at = request.received_at
    if resolution.to_forget:
        return Erasures([(model.id, None) for model in models], ErasureStatus.OPEN, at)
    gone = resolution.samples[Outcome.ALREADY_ERASED]
    evidence = [(model.id, _evidence(session, model, gone)) for model in models]
    known = [(model, version.id) for model, version in evidence if version is not None]
    return Erasures(known, ErasureStatus.DONE, at, reason="already forgotten", finished_at=at)


def _evidence(session: Session, model: Target, samples: list[Found]) -> ModelVersion | None:
    """The latest version by which the model has forgotten any of the samples."""
    found: list[ModelVersion] = []
    for chunk in chunks(sorted(sample.index for sample in samples)):
        query = (
            select(ModelVersion)
            .join(Erasure, Erasure.version_id == ModelVersion.id)
            .join(RequestSample, RequestSample.request_id == Erasure.request_id)
            .where(
                RequestSample.training_set_id == model.training_set_id,
                among(RequestSample.sample_index, chunk),
                Erasure.model_id == model.id,
                Erasure.status == ErasureStatus.DONE,
            )
            .order_by(ModelVersion.number.desc())
            .limit(1)
        )
        found.extend(session.scalars(query))
    return max(found, key=lambda version: version.number, default=None)
