"""Uploaded checkpoints: their rows and files, and their end. An upload knows training images, so it is not kept."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import ColumnElement, and_, delete, exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute

from models import artifacts
from models.base import now
from models.crashes import crash_point
from models.records import Model, ModelStatus, ModelVersion, Upload, record_event
from models.session import Database, current_time
from models.settings import Settings
from service.errors import Conflict

ACTOR = "dispatcher"
FOLDER = "uploads"
MADE = (ModelStatus.READY, ModelStatus.WITHDRAWN, ModelStatus.RETIRED)
STRAY_SECONDS = 3600.0  # since the last byte: an upload that still runs is younger
METHOD = "overwritten with zeros, synchronised, removed"

log = structlog.get_logger(__name__)


def relative_path(sha256: str) -> str:
    return f"{FOLDER}/{sha256}.safetensors"


def expires_at(settings: Settings, upload: Upload) -> datetime:
    """When it is destroyed if no model is made of it."""
    return upload.created_at + timedelta(hours=settings.upload_hours)


def intact(database: Database, settings: Settings, sha256: str) -> Upload | None:
    """The upload, if its row is there and its file is what the row says; reads the whole file."""
    with database.read() as session:
        upload = session.get(Upload, sha256)
    if upload is None:
        return None
    file = settings.data_dir / upload.path
    there = file.is_file() and file.stat().st_size == upload.size and artifacts.sha256_of(file) == sha256
    return upload if there else None


def enter(database: Database, sha256: str, size: int, *, key_id: str, actor: str) -> tuple[Upload, bool]:
    """The row of a file that is in its place, and whether it is new; a row that had lost its file starts anew."""
    crash_point("uploads.published")
    try:
        with database.write() as session:
            upload = session.get(Upload, sha256, with_for_update=True)
            made = upload is None
            if upload is None:
                upload = Upload(sha256=sha256, path=relative_path(sha256))
                session.add(upload)
            upload.size, upload.submitted_by, upload.created_at = size, key_id, now()
            record_event(session, "upload.received", "upload", sha256, actor, size=size, repaired=not made)
    except IntegrityError:  # the same file came twice at this moment
        with database.read() as session:
            return session.get_one(Upload, sha256), False
    return upload, made


def destroy_uploads(database: Database, settings: Settings) -> int:
    """Destroy uploads that a model was made of, and those that none was made of in time; returns how many."""
    with database.read() as session:
        due = list(session.scalars(select(Upload.sha256).where(_over(current_time(session), settings))))
    return sum(_destroy_if_over(database, settings, sha256) for sha256 in due)


def destroy_upload(database: Database, settings: Settings, sha256: str, *, actor: str) -> bool:
    """Destroy one at a person's wish; False where there is none. Raises Conflict while a model is being made of it."""
    _destroy_condemned(settings, sha256)
    with database.write() as session:
        upload = session.get(Upload, sha256, with_for_update=True)
        if upload is None:
            return False
        if session.scalar(select(_being_made(sha256))):
            raise Conflict("A model is being made of this upload: cancel its train job, or wait for its end.")
        _condemn(settings, upload)
    return _destroy(database, settings, sha256, actor, "deleted")


def remove_strays(database: Database, settings: Settings) -> int:
    """Destroy files of the folder that no row names and nothing was written to for an hour; returns how many."""
    folder = settings.data_dir / FOLDER
    if not folder.is_dir():
        return 0
    old = [file for file in folder.iterdir() if _untouched(file)]
    with database.read() as session:
        named = set(session.scalars(select(Upload.path))) if old else set()
    removed = 0
    for file in old:
        # Once more: it may have been uploaded anew since it was listed.
        if file.relative_to(settings.data_dir).as_posix() not in named and _untouched(file):
            artifacts.destroy(file)
            removed += 1
            log.info("uploads.stray_removed", file=file.name)
    return removed


def _untouched(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_mtime < time.time() - STRAY_SECONDS
    except FileNotFoundError:
        return False


def _over(at: datetime, settings: Settings) -> ColumnElement[bool]:
    old = Upload.created_at < at - timedelta(hours=settings.upload_hours)
    return and_(~_being_made(Upload.sha256), or_(_made(), old))


def _being_made(sha256: str | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    return exists().where(Model.checkpoint == sha256, Model.status == ModelStatus.TRAINING)


def _made() -> ColumnElement[bool]:
    """Whether a model was made of it since it came: sent once more, it is meant for the next one."""
    return exists().where(
        Model.checkpoint == Upload.sha256,
        Model.status.in_(MADE),
        ModelVersion.model_id == Model.id,
        ModelVersion.parent_id.is_(None),
        ModelVersion.created_at >= Upload.created_at,
    )


def _destroy_if_over(database: Database, settings: Settings, sha256: str) -> bool:
    _destroy_condemned(settings, sha256)
    with database.write() as session:
        over = Upload.sha256 == sha256, _over(current_time(session), settings)
        upload = session.scalars(select(Upload).where(*over).with_for_update()).one_or_none()
        if upload is None:  # a model is being made of it since we looked
            return False
        used = session.scalar(select(_made()).where(Upload.sha256 == sha256))
        _condemn(settings, upload)
    return _destroy(database, settings, sha256, ACTOR, "a model was made of it" if used else "unused")


def _condemned(settings: Settings, sha256: str) -> Path:
    return settings.data_dir / FOLDER / f".{sha256}.condemned"


def _condemn(settings: Settings, upload: Upload) -> None:
    """Take the file away from its place while the row is locked: overwriting it takes longer than a lock may be held."""
    try:
        os.rename(settings.data_dir / upload.path, _condemned(settings, upload.sha256))
    except FileNotFoundError:
        pass
    crash_point("uploads.condemned")


def _destroy_condemned(settings: Settings, sha256: str) -> None:
    """Also before another one is condemned: a crash may have left one, which a rename would replace unwritten."""
    artifacts.destroy(_condemned(settings, sha256))


def _destroy(database: Database, settings: Settings, sha256: str, actor: str, reason: str) -> bool:
    """The file goes first and the row follows once it is seen to be gone, so a crash in between repeats the rest."""
    _destroy_condemned(settings, sha256)
    crash_point("uploads.gone")
    with database.write() as session:
        upload = session.get(Upload, sha256, with_for_update=True)
        if upload is None or (settings.data_dir / upload.path).exists():  # uploaded again meanwhile
            return False
        session.execute(delete(Upload).where(Upload.sha256 == sha256))
        record_event(
            session,
            "upload.destroyed",
            "upload",
            sha256,
            actor,
            reason=reason,
            size=upload.size,
            method=METHOD,
            verified=True,
        )
    return True
