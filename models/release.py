"""Which version of a model is served, and the switch to another: the audit's gate and a person's override do the same."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import holdings
from models.base import now
from models.event import record_event
from models.model import Model, ModelStatus
from models.model_version import ModelVersion, VersionStatus
from models.moves import advance


class KnowsErased(ValueError):
    """A version that was trained on a sample which its model has erased since."""


def released_version(session: Session, model: Model) -> ModelVersion | None:
    """The version that is served, or None while the model is training, withdrawn or failed."""
    return session.scalars(
        select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.status == VersionStatus.RELEASED)
    ).one_or_none()


def release(session: Session, model: Model, version: ModelVersion, *, actor: str, reason: str | None) -> bool:
    """Serve ``version`` from the commit on; what was served before is superseded. False: it may not be released now.

    Raises KnowsErased for a version that knows a sample its model has erased: nothing may ever serve it again.
    """
    if holdings.still_known(session, version):
        raise KnowsErased(f"version {version.number} knows samples that its model has erased")
    of_model = ModelVersion.model_id == model.id
    advance(session, ModelVersion, of_model, VersionStatus.SUPERSEDED, only_from=[VersionStatus.RELEASED])
    values: dict[str, Any] = {"released_at": now()} | ({"reason": reason} if reason is not None else {})
    if not advance(session, ModelVersion, ModelVersion.id == version.id, VersionStatus.RELEASED, **values):
        return False
    advance(session, Model, Model.id == model.id, ModelStatus.READY, only_from=[ModelStatus.WITHDRAWN])
    model.released_number = version.number
    record_event(
        session,
        "version.released",
        "model",
        model.id,
        actor,
        version=version.number,
        sha256=version.sha256,
        verdict=version.verdict,
        reason=reason,
    )
    return True
