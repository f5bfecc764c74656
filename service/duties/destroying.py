"""DESTROY: checkpoints that know erased samples, and all files of retired models, once no running job can read them."""

from __future__ import annotations

from sqlalchemy import and_, exists, select, update
from sqlalchemy.orm import Session

from models import artifacts, holdings
from models.crashes import crash_point
from models.moves import advance
from models.records import (
    Erasure,
    ErasureStatus,
    Job,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    VersionStatus,
    record_event,
)
from models.session import Database, current_time
from models.settings import Settings

ACTOR = "dispatcher"
SIGNALS = ("phi.f32", "members.u8")
METHOD = "overwritten with zeros, synchronised, removed"


def destroy_versions(database: Database, settings: Settings) -> int:
    """Destroy superseded versions, and quarantined ones that nobody may release again; returns how many.

    The file goes first and the row follows once it is seen to be gone, so a crash in between repeats the rest.
    """
    destroyed = 0
    for version in _condemned(database):
        artifacts.destroy(settings.data_dir / version.path)
        crash_point("destroy.file_gone")
        with database.write() as session:
            moved = advance(
                session,
                ModelVersion,
                ModelVersion.id == version.id,
                VersionStatus.DESTROYED,
                destroyed_at=current_time(session),
            )
            if moved:
                record_event(
                    session,
                    "version.destroyed",
                    "model",
                    version.model_id,
                    ACTOR,
                    version=version.number,
                    sha256=version.sha256,
                    size=version.size,
                    method=METHOD,
                    verified=True,
                )
                _begin_again(session, version)
            destroyed += moved
        crash_point("destroy.after_commit")
    return destroyed


def _begin_again(session: Session, version: ModelVersion) -> None:
    """Nobody can release it any more: what waited for that is forgotten by another version."""
    waited = and_(Erasure.model_id == version.model_id, Erasure.version_id == version.id)
    again = advance(
        session,
        Erasure,
        waited,
        ErasureStatus.OPEN,
        only_from=[ErasureStatus.AWAITING_RELEASE],
        job_id=None,
        version_id=None,
        reason="the version that had forgotten them was destroyed unreleased",
    )
    if again:
        record_event(
            session,
            "erasures.open",
            "model",
            version.model_id,
            ACTOR,
            erasures=again,
            reason="their version was destroyed unreleased",
            version=version.number,
        )


def destroy_signals(database: Database, settings: Settings) -> int:
    """Destroy the reference signals of retired models, which nothing needs any more; returns of how many models."""
    with database.read() as session:
        retired = list(
            session.scalars(
                select(Model).where(
                    Model.status == ModelStatus.RETIRED,
                    Model.folder.is_not(None),
                    ~exists().where(Job.model_id == Model.id, Job.status == JobStatus.RUNNING),
                )
            )
        )
    for model in retired:
        for name in SIGNALS:
            artifacts.destroy(settings.data_dir / str(model.folder) / name)
        crash_point("retire.signals_gone")
        with database.write() as session:
            session.execute(update(Model).where(Model.id == model.id).values(folder=None))
            record_event(
                session,
                "signals.destroyed",
                "model",
                model.id,
                ACTOR,
                files=list(SIGNALS),
                method=METHOD,
                verified=True,
            )
    return len(retired)


def _condemned(database: Database) -> list[ModelVersion]:
    busy = exists().where(Job.model_id == ModelVersion.model_id, Job.status == JobStatus.RUNNING)
    with database.read() as session:
        superseded = session.scalars(
            select(ModelVersion).where(ModelVersion.status == VersionStatus.SUPERSEDED, ~busy)
        ).all()
        quarantined = session.execute(
            select(ModelVersion, Model.status)
            .join(Model, Model.id == ModelVersion.model_id)
            .where(ModelVersion.status == VersionStatus.QUARANTINED, ~busy)
        ).all()
        unreleasable = [
            version
            for version, of_model in quarantined
            if of_model is ModelStatus.RETIRED or holdings.still_known(session, version)
        ]
        return [*superseded, *unreleasable]
