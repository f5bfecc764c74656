"""What a body asks for, and whether it can be: the same for a request that is sent and for one that is only tried out."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from models.base import now
from models.records import ModelStatus, TrainingSetStatus
from service.approval import reasons_for_approval
from service.due import due_at
from service.errors import Conflict, NotFound, Unprocessable, pointer
from service.schemas.deletion_requests import NewDeletionRequest
from service.schemas.selectors import Outcome
from service.security import Principal
from service.selectors import Resolution, resolve
from service.usable import Target, UsableSet, usable_set

CLOCK_SKEW = timedelta(minutes=5)
GONE = (ModelStatus.FAILED, ModelStatus.RETIRED)  # nothing is served, so nothing can be made to forget


@dataclass(frozen=True)
class Asked:
    """A body, resolved: the set, the models that shall forget, the samples, and when it would be due."""

    training_set: UsableSet
    models: list[Target]
    resolution: Resolution
    received_at: datetime
    due_at: datetime


def understand(connection: Connection, suppression_key: bytes, principal: Principal, body: NewDeletionRequest) -> Asked:
    """Look up what the body names. Raises NotFound, Conflict or Unprocessable where there is nothing to look in."""
    received = now()
    training_set, trained = usable_set(connection, body.training_set, principal, at=pointer("training_set"))
    _require_ready(training_set)
    models = _targets(trained, body.models)
    due = due_at(body.regulation, _asked_at(body, received))
    resolution = resolve(connection, suppression_key, training_set.id, body.samples, [model.id for model in models])
    return Asked(training_set, models, resolution, received, due)


def examine(connection: Connection, body: NewDeletionRequest, asked: Asked) -> dict[uuid.UUID, list[str]]:
    """Why a person must approve first, by model; no reasons: nobody must.

    Raises Conflict or Unprocessable where what was found cannot be accepted.
    """
    _refuse_unknown(body, asked.resolution)
    if asked.resolution.to_forget and not asked.models:
        raise Conflict(
            "No model is trained on this set, so none can forget: ask the operator.", at=pointer("training_set")
        )
    to_forget, controls = asked.resolution.to_forget, len(asked.resolution.samples[Outcome.CONTROL])
    return {
        model.id: reasons_for_approval(
            connection, asked.training_set, model, to_forget, asked.resolution.claims.claimed[model.id], controls
        )
        for model in asked.models
    }


def _require_ready(training_set: UsableSet) -> None:
    if training_set.status is not TrainingSetStatus.READY:
        raise Conflict(
            f"The training set is {training_set.status.value}: nothing can be deleted from it before it is ready.",
            at=pointer("training_set"),
        )


def _targets(models: list[Target], names: list[str] | None) -> list[Target]:
    """Those of the set's models that shall forget. Raises NotFound or Unprocessable for a name that cannot."""
    trained = {model.name: model for model in models}
    if names is None:
        return [model for model in models if model.status not in GONE]
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
