"""The training set that a request names with its models, as far as a request needs them: columns, for no object is made."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select

from models.records import Model, ModelStatus, Role, TrainingSet, TrainingSetStatus
from service.deps import IS_GRANTED, no_such_set
from service.security import Principal


@dataclass(frozen=True, slots=True)
class UsableSet:
    id: uuid.UUID
    name: str
    status: TrainingSetStatus
    classes: list[Any] | None


@dataclass(frozen=True, slots=True)
class Target:
    """A model that is trained on the set."""

    id: uuid.UUID
    name: str
    status: ModelStatus
    training_set_id: uuid.UUID
    policy: dict[str, Any]


# Built once, as in service.claims.
_SET = (
    select(
        TrainingSet.id,
        TrainingSet.name,
        TrainingSet.status,
        TrainingSet.classes,
        Model.id,
        Model.name,
        Model.status,
        Model.training_set_id,
        Model.policy,
    )
    .outerjoin(Model, Model.training_set_id == TrainingSet.id)
    .where(TrainingSet.name == bindparam("name"))
    .order_by(Model.id)
)
_GRANTED_SET = _SET.where(IS_GRANTED)


def usable_set(
    connection: Connection, name: str, principal: Principal, *, at: str | None = None
) -> tuple[UsableSet, list[Target]]:
    """The set and its models, the oldest first. Raises NotFound, alike for others' sets and for none."""
    query = _GRANTED_SET if principal.role is Role.APPLICATION else _SET
    rows = connection.execute(query, {"name": name, "application": principal.application_id}).all()
    if not rows:
        raise no_such_set(at)
    return UsableSet(*rows[0][:4]), [Target(*row[4:]) for row in rows if row[4] is not None]
