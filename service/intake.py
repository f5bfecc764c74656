"""Accept a deletion request: resolve what it names, insert what it asks for. Makes no job and publishes nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import uuid
from collections import Counter
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import ColumnElement, Select, Table, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.base import now
from models.parameters import Policy
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Model,
    ModelStatus,
    ModelVersion,
    RequestSample,
    RequestStatus,
    Sample,
    Split,
    TrainingSet,
    TrainingSetStatus,
    record_event,
)
from models.settling import settled
from service.deps import training_set_named
from service.due import PERIODS, due_at
from service.errors import Conflict, NotFound, Unprocessable, pointer
from service.schemas.deletion_requests import NewDeletionRequest
from service.schemas.selectors import Outcome
from service.security import Principal
from service.selectors import Found, Resolution, chunks, resolve

CLOCK_SKEW = timedelta(minutes=5)
GONE = (ModelStatus.FAILED, ModelStatus.RETIRED)  # nothing is served, so nothing can be made to forget
PROBE = 64  # samples looked at to see that a request leaves some of each label
CALLED_OFF = (ErasureStatus.CANCELLED, ErasureStatus.NOT_APPLICABLE)


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
    training_set = _usable_set(session, body, principal)
    models = _targets(session, training_set, body.models)
    resolution = resolve(session, suppression_key, training_set, body.samples, [model.id for model in models])
    _refuse_unknown(body, resolution)
    if resolution.to_forget and not models:
        raise Conflict(
            "No model is trained on this set, so none can forget: ask the operator.", at=pointer("training_set")
        )
    request = DeletionRequest(
        application_id=principal.application_id,
        training_set_id=training_set.id,
        submitted_by=principal.key_id,
        external_id=body.external_id,
        regulation=body.regulation,
        ground=body.ground,
        submitted_at=body.submitted_at,
        received_at=(received := now()),
        due_at=due_at(body.regulation, _asked_at(body, received)),
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
        selectors=[answer.model_dump(mode="json") for answer in resolution.answers],
        resolution=_counted(resolution),
        approval_required=_needs_approval(session, training_set, models, resolution.to_forget),
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


def _counted(resolution: Resolution) -> dict[str, dict[str, int]]:
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


def _usable_set(session: Session, body: NewDeletionRequest, principal: Principal) -> TrainingSet:
    training_set = training_set_named(session, body.training_set, principal, at=pointer("training_set"))
    if training_set.status is not TrainingSetStatus.READY:
        raise Conflict(
            f"The training set is {training_set.status.value}: nothing can be deleted from it before it is ready.",
            at=pointer("training_set"),
        )
    return training_set


def _targets(session: Session, training_set: TrainingSet, names: list[str] | None) -> list[Model]:
    """The models that shall forget. Raises NotFound or Unprocessable for a name that cannot."""
    trained = {
        model.name: model
        for model in session.scalars(select(Model).where(Model.training_set_id == training_set.id).order_by(Model.id))
    }
    if names is None:
        return [model for model in trained.values() if model.status not in GONE]
    for place, name in enumerate(names):
        if name not in trained:
            raise NotFound("No model of this name is trained on the training set.", at=pointer("models", place))
        if trained[name].status in GONE:
            raise Unprocessable(
                f"This model is {trained[name].status.value}: leave it out.", at=pointer("models", place)
            )
    return [trained[name] for name in dict.fromkeys(names)]


def _asked_at(body: NewDeletionRequest, received: datetime) -> datetime:
    if body.submitted_at is None:
        return received
    if body.submitted_at > received + CLOCK_SKEW:
        raise Unprocessable(
            "submitted_at lies in the future: check the clock and the zone.", at=pointer("submitted_at")
        )
    return min(body.submitted_at, received)


def _refuse_unknown(body: NewDeletionRequest, resolution: Resolution) -> None:
    unknown = [
        {"pointer": pointer("samples", place), "detail": "no sample of the training set has this name"}
        for place, answer in enumerate(resolution.answers)
        if answer.outcome is Outcome.NOT_FOUND
    ]
    if len(unknown) == len(resolution.answers):
        raise Unprocessable("None of the samples is in the training set: nothing was accepted.", errors=unknown)
    if unknown and not body.partial:
        raise Unprocessable(
            f"{len(unknown)} of {len(resolution.answers)} selectors are not in the training set: "
            'correct them, or send "partial": true to delete the others.',
            errors=unknown,
        )


def _needs_approval(session: Session, training_set: TrainingSet, models: list[Model], to_forget: list[Found]) -> bool:
    """Whether a person must agree first: a whole class, or more than the policy's share of the training images.

    Raises Unprocessable where some model would have nothing left to be trained on. Nothing is counted over the whole
    set: a request of ten samples costs the same whether the set has a thousand or a million.
    """
    needed = False
    for model in models:
        asked = _unclaimed(session, model, to_forget)
        exhausted = _exhausted(session, model, asked)
        if exhausted and not _anything_left(session, model, exhausted):
            raise Unprocessable(
                "This would leave no image to train on: delete fewer, or ask the operator to retire the models.",
                at=pointer("samples"),
            )
        share = Policy.model_validate(model.policy).approval_share
        needed = needed or bool(exhausted) or not _at_least(session, training_set, math.ceil(len(to_forget) / share))
    return needed


def _exhausted(session: Session, model: Model, asked: list[Found]) -> set[int]:
    """Labels of which the request takes the last live training samples that the model still keeps."""
    taken = {sample.index for sample in asked}
    open_labels = Counter(sample.label for sample in asked)
    # Digests are spread evenly whatever the order of the rows: a few from a random place on settle most labels.
    place = secrets.token_hex(32)
    probe = _kept(model).where(Sample.sha256 >= place).limit(PROBE + len(taken))
    for index, label in session.execute(probe):
        if index not in taken:
            del open_labels[label]
    return {label for label, count in open_labels.items() if not _some_left(session, model, label, count, taken, place)}


def _some_left(session: Session, model: Model, label: int, count: int, taken: set[int], place: str) -> bool:
    """Whether a sample with the label stays that is not in ``taken``, of which ``count`` have it."""
    for half in (Sample.sha256 >= place, Sample.sha256 < place):
        rows = session.execute(_kept(model).where(Sample.label == label, half).limit(count + 1))
        if any(index not in taken for index, _ in rows):
            return True
    return False


def _anything_left(session: Session, model: Model, exhausted: set[int]) -> bool:
    return session.execute(_kept(model).where(Sample.label.not_in(exhausted)).limit(1)).first() is not None


def _kept(model: Model) -> Select[int, int]:
    """Index and label of live training samples that the model was not asked to forget, in the order of digests."""
    claimed = _claims(model).where(RequestSample.sample_index == Sample.index).exists()
    return select(Sample.index, Sample.label).where(*_live(model.training_set_id), ~claimed).order_by(Sample.sha256)


def _at_least(session: Session, training_set: TrainingSet, number: int) -> bool:
    """Whether the set has that many live training samples."""
    some = select(Sample.index).where(*_live(training_set.id)).limit(number).subquery()
    return (session.scalar(select(func.count()).select_from(some)) or 0) >= number


def _unclaimed(session: Session, model: Model, samples: list[Found]) -> list[Found]:
    claimed: set[int] = set()
    for chunk in chunks(sorted(sample.index for sample in samples)):
        claimed.update(session.scalars(_claims(model).where(RequestSample.sample_index.in_(chunk))))
    return [sample for sample in samples if sample.index not in claimed]


def _live(training_set_id: uuid.UUID) -> list[ColumnElement[bool]]:
    return [Sample.training_set_id == training_set_id, Sample.split == Split.TRAIN, Sample.erased_at.is_(None)]


def _claims(model: Model) -> Select[int]:
    return (
        select(RequestSample.sample_index)
        .join(Erasure, Erasure.request_id == RequestSample.request_id)
        .where(
            RequestSample.training_set_id == model.training_set_id,
            Erasure.model_id == model.id,
            Erasure.status.not_in(CALLED_OFF),
        )
    )


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
                RequestSample.sample_index.in_(chunk),
                Erasure.model_id == model.id,
                Erasure.status == ErasureStatus.DONE,
            )
            .order_by(ModelVersion.number.desc())
            .limit(1)
        )
        found.extend(session.scalars(query))
    return max(found, key=lambda version: version.number, default=None)
