"""An operator's decisions about versions: release one that was kept back, or take one out of service."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import holdings
from models.base import now
from models.moves import advance
from models.records import (
    Erasure,
    ErasureStatus,
    Model,
    ModelStatus,
    ModelVersion,
    VersionStatus,
    record_event,
)
from models.release import release
from service.errors import Conflict, Gone
from service.security import Principal


def release_version(session: Session, model: Model, version: ModelVersion, principal: Principal, reason: str) -> None:
    """Serve a quarantined version, and finish the erasures that waited for it. The caller holds the model's row.

    Raises Conflict where it is not quarantined or still holds samples that the model has erased, Gone once destroyed.
    """
    if model.status is ModelStatus.RETIRED:
        raise Conflict(f"Model {model.name} is retired, for good: none of its versions is served again.")
    if version.status is VersionStatus.DESTROYED:
        raise Gone(f"Version {version.number} was destroyed: its file is gone.")
    if version.status is not VersionStatus.QUARANTINED:
        raise Conflict(
            f"Version {version.number} is {version.status.value}: only a quarantined version can be released."
        )
    held = holdings.still_known(session, version)
    if held:
        raise Conflict(
            f"Version {version.number} was trained on {len(held)} samples that this model has erased since: "
            "release a version that has forgotten them."
        )
    if not release(session, model, version, actor=principal.actor, reason=reason):
        raise Conflict(f"Model {model.name} changed at this moment: look at its versions and try again.")
    version.decided_at = now()
    ancestry = holdings.lineage(session, version)
    waiting = list(
        session.scalars(
            select(Erasure.id).where(
                Erasure.model_id == model.id,
                Erasure.status == ErasureStatus.AWAITING_RELEASE,
                Erasure.version_id.in_(ancestry),
            )
        )
    )
    for erasure in waiting:
        advance(
            session,
            Erasure,
            Erasure.id == erasure,
            ErasureStatus.DONE,
            only_from=[ErasureStatus.AWAITING_RELEASE],
            version_id=version.id,
            finished_at=now(),
        )
        record_event(session, "erasure.done", "erasure", erasure, principal.actor, version=version.number)


def quarantine_version(
    session: Session, model: Model, version: ModelVersion, principal: Principal, reason: str
) -> None:
    """Take the served version out of service: the model is withdrawn until a version is released. Raises Conflict."""
    if not advance(
        session,
        ModelVersion,
        ModelVersion.id == version.id,
        VersionStatus.QUARANTINED,
        only_from=[VersionStatus.RELEASED],
        reason=reason,
        decided_at=now(),
    ):
        raise Conflict(
            f"Version {version.number} is {version.status.value}: only the released version can be quarantined."
        )
    advance(session, Model, Model.id == model.id, ModelStatus.WITHDRAWN, released_number=None)
    record_event(
        session,
        "version.quarantined",
        "model",
        model.id,
        principal.actor,
        version=version.number,
        sha256=version.sha256,
        reason=reason,
    )
    record_event(session, "model.withdrawn", "model", model.id, principal.actor, reason=reason)
