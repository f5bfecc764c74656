"""Which samples a model still holds, has forgotten, or is asked to forget: worker and dispatcher must count alike."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Select, exists, or_, select
from sqlalchemy.orm import Session

from models.among import among
from models.deletion_request import DeletionRequest, RequestSample, RequestStatus
from models.erasure import Erasure, ErasureStatus
from models.model import Model
from models.model_version import ModelVersion
from models.training_set import Sample, Split

# In Model.training: rows that were asked to be forgotten before the model was trained, and so left out.
NEVER_TRAINED = "never_trained"
UNFINISHED = (
    ErasureStatus.OPEN,
    ErasureStatus.RUNNING,
    ErasureStatus.AWAITING_RELEASE,
    ErasureStatus.FAILED,
    ErasureStatus.ON_HOLD,
)
EXACT = "exact"  # verdict of a version that was trained from the start without the samples


def lineage(session: Session, version: ModelVersion) -> list[uuid.UUID]:
    """The version's id and those of all its ancestors."""
    query = select(ModelVersion.id, ModelVersion.parent_id).where(ModelVersion.model_id == version.model_id)
    parents = {made: parent for made, parent in session.execute(query)}  # noqa: C416 - rows, not pairs, to mypy
    found: list[uuid.UUID] = []
    current: uuid.UUID | None = version.id
    while current is not None:
        found.append(current)
        current = parents[current]
    return found


def samples_of(session: Session, erasures: Iterable[uuid.UUID] | Select[uuid.UUID]) -> set[int]:
    """Training samples that the erasures' requests name (controls are not a model's to forget): ids, or a query for them."""
    if isinstance(erasures, Select):
        return set(session.scalars(_named(RequestSample.sample_index).where(Erasure.id.in_(erasures))))
    return set().union(*samples_of_each(session, list(erasures)).values())


def samples_of_each(session: Session, erasures: Collection[uuid.UUID]) -> dict[uuid.UUID, set[int]]:
    """The same by erasure, thousands of them in one statement. One that names no training sample has an empty set."""
    found: dict[uuid.UUID, set[int]] = {erasure: set() for erasure in erasures}
    if found:
        query = _named(Erasure.id, RequestSample.sample_index).where(among(Erasure.id, erasures))
        for erasure, index in session.execute(query):
            found[erasure].add(index)
    return found


def _named(*columns: Any) -> Select[Any]:
    """What erasures name of the training samples."""
    return (
        select(*columns)
        .select_from(RequestSample)
        .join(Erasure, Erasure.request_id == RequestSample.request_id)
        .join(
            Sample,
            (Sample.training_set_id == RequestSample.training_set_id) & (Sample.index == RequestSample.sample_index),
        )
        .where(Sample.split == Split.TRAIN)
    )


def forgotten(session: Session, version: ModelVersion) -> set[int]:
    """Training samples that the version or an ancestor was made to forget, or that its model was never trained on."""
    made = lineage(session, version)
    erasures = select(Erasure.id).where(
        Erasure.model_id == version.model_id,
        Erasure.version_id.in_(made),
        Erasure.status.in_([ErasureStatus.DONE, ErasureStatus.AWAITING_RELEASE]),
    )
    model = session.get_one(Model, version.model_id)
    never = set((model.training or {}).get(NEVER_TRAINED, []))
    retrained = select(ModelVersion.never_trained).where(
        ModelVersion.id.in_(made), ModelVersion.never_trained.is_not(None)
    )
    for rows in session.scalars(retrained):
        never.update(rows or [])
    return samples_of(session, erasures) | never


def still_known(session: Session, version: ModelVersion) -> set[int]:
    """Samples that the version's model has erased and the version itself still knows: it must never be served again."""
    finished = select(Erasure.id).where(Erasure.model_id == version.model_id, Erasure.status == ErasureStatus.DONE)
    erased = samples_of(session, finished)
    return erased - forgotten(session, version) if erased else set()


def forgotten_since_retraining(session: Session, version: ModelVersion) -> set[int]:
    """Samples forgotten by approximation: by the version and its ancestors since the last that was (re)trained."""
    recent: list[uuid.UUID] = []
    for made in lineage(session, version):
        ancestor = session.get_one(ModelVersion, made)
        if ancestor.parent_id is None or ancestor.verdict == EXACT:
            break
        recent.append(made)
    erasures = select(Erasure.id).where(
        Erasure.model_id == version.model_id,
        Erasure.version_id.in_(recent),
        Erasure.status.in_([ErasureStatus.DONE, ErasureStatus.AWAITING_RELEASE]),
    )
    return samples_of(session, erasures)


def asked_to_forget(session: Session, training_set_id: uuid.UUID) -> set[int]:
    """Training samples in any erasure, of any model of the set, that was not cancelled.

    A retired model has nothing to forget, but what it was asked to forget is never taught to another.
    """
    erasures = (
        select(Erasure.id)
        .join(Model, Model.id == Erasure.model_id)
        .where(
            Model.training_set_id == training_set_id,
            Erasure.status != ErasureStatus.CANCELLED,
        )
    )
    return samples_of(session, erasures)


def named_for_erasure(session: Session, training_set_id: uuid.UUID) -> bool:
    """Whether any image of the set, control or not, was erased, refused at registration, or is to be erased."""
    gone = exists().where(Sample.training_set_id == training_set_id, Sample.erased_at.is_not(None))
    asked = exists().where(
        RequestSample.training_set_id == training_set_id,
        DeletionRequest.id == RequestSample.request_id,
        DeletionRequest.status.not_in([RequestStatus.REJECTED, RequestStatus.CANCELLED]),
    )
    return bool(session.scalar(select(or_(gone, asked))))


def train_rows(session: Session, training_set_id: uuid.UUID) -> set[int]:
    """Every training row of the set, erased ones included."""
    return set(
        session.scalars(
            select(Sample.index).where(Sample.training_set_id == training_set_id, Sample.split == Split.TRAIN)
        )
    )
