"""DESTROY: checkpoints that know erased samples, once no running job can still read them."""

from __future__ import annotations

from sqlalchemy import exists, select

from models import artifacts, holdings
from models.moves import advance
from models.records import Job, JobStatus, ModelVersion, VersionStatus, record_event
from models.session import Database, current_time
from models.settings import Settings

ACTOR = "dispatcher"
METHOD = "overwritten with zeros, synchronised, removed"


def destroy_versions(database: Database, settings: Settings) -> int:
    """Destroy superseded versions, and quarantined ones that no rule lets anybody release again; returns how many.

    The file goes first and the row follows once it is seen to be gone, so a crash in between repeats the rest.
    """
    destroyed = 0
    for version in _condemned(database):
        artifacts.destroy(settings.data_dir / version.path)
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
            destroyed += moved
    return destroyed


def _condemned(database: Database) -> list[ModelVersion]:
    busy = exists().where(Job.model_id == ModelVersion.model_id, Job.status == JobStatus.RUNNING)
    with database.read() as session:
        superseded = session.scalars(
            select(ModelVersion).where(ModelVersion.status == VersionStatus.SUPERSEDED, ~busy)
        ).all()
        quarantined = session.scalars(
            select(ModelVersion).where(ModelVersion.status == VersionStatus.QUARANTINED, ~busy)
        ).all()
        return [*superseded, *(version for version in quarantined if holdings.still_known(session, version))]
