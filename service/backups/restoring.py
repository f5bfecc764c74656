"""Restore a backup into an empty place, look that it is whole, and bring back what a newer ledger knows."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import artifacts, chain, revisions
from models.records import (
    AuditReport,
    Certificate,
    ModelVersion,
    TrainingSet,
    VersionStatus,
    record_event,
)
from models.session import Database
from models.settings import Settings
from service import schema
from service.backups import databases, ledger, making


class NotEmpty(RuntimeError):
    """There is something where the backup would go."""


@dataclass
class Restored:
    manifest: dict[str, Any]
    chain: chain.Chain
    wrong: list[str]  # files that rows name and that are not what the rows say
    applied: ledger.Applied = field(default_factory=ledger.Applied)

    @property
    def whole(self) -> bool:
        return self.chain.intact and not self.wrong


def restore(settings: Settings, folder: Path, newer: Path | None = None) -> Restored:
    """Files, secrets, then the database, whose presence makes it a service; then everything is looked at.

    ``newer`` is a ledger. Raises NotABackup, NotEmpty, databases.CannotCopy, and revisions.WrongSchema for a backup of a
    newer release; nothing was restored then.
    """
    manifest = making.check(folder)
    _must_be_empty(settings, with_secrets=manifest["secrets"])
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    _move_in(folder / making.FILES, settings.data_dir)
    if manifest["secrets"]:
        settings.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
        _move_in(folder / making.SECRETS, settings.secrets)
    databases.restore(settings, folder / manifest["database"])
    schema.upgrade(settings)
    database = Database(settings.database)
    try:
        revisions.check(database)
        with database.read() as session:
            found = Restored(manifest, chain.verify_chain(session), wrong_files(session, settings))
        with database.write() as session:
            record_event(session, "backup.restored", "backup", manifest["name"], ledger.ACTOR, ledger=newer is not None)
            if newer is not None:
                with newer.open(encoding="utf-8") as lines:
                    found.applied = ledger.apply(session, lines)
    finally:
        database.dispose()
    return found


def wrong_files(session: Session, settings: Settings) -> list[str]:
    """Files that live rows name and that are missing or have another digest."""
    expected: dict[str, str] = {}
    versions = select(ModelVersion.path, ModelVersion.sha256).where(ModelVersion.status != VersionStatus.DESTROYED)
    expected.update({path: sha256 for path, sha256 in session.execute(versions)})  # noqa: C416
    for record in (AuditReport, Certificate):
        for document in session.scalars(select(record)):
            for kind in ("json", "pdf", "csv", "envelope"):
                if (path := getattr(document, f"{kind}_path")) is not None:
                    expected[path] = getattr(document, f"{kind}_sha256")
    wrong = [
        path
        for path, sha256 in expected.items()
        if not (settings.data_dir / path).is_file() or artifacts.sha256_of(settings.data_dir / path) != sha256
    ]
    for folder in session.scalars(select(TrainingSet.folder).where(TrainingSet.folder.is_not(None))):
        wrong += [f"{folder}/{name}" for name in ("pixels.u8", "digests.bin") if not _there(settings, folder, name)]
    return sorted(wrong)


def _there(settings: Settings, folder: str | None, name: str) -> bool:
    return (settings.data_dir / str(folder) / name).is_file()


def _must_be_empty(settings: Settings, *, with_secrets: bool) -> None:
    taken = [settings.data_dir / name for name in making.FOLDERS]
    if with_secrets:
        taken.append(settings.secrets)
    for place in taken:
        if place.exists() and any(place.iterdir()):
            raise NotEmpty(f"{place} is not empty: restore into an empty place, or move it away")


def _move_in(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        shutil.copyfile(path, to)
        os.chmod(to, 0o600)
        with to.open("rb") as file:
            os.fsync(file.fileno())
