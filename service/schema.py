"""The database schema: bring it up to date, and refuse to serve on another."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from models.revisions import HEAD, REVISIONS, WrongSchema, check, current
from models.session import Database
from models.settings import Settings

__all__ = ["WrongSchema", "check", "expected_revision", "upgrade"]

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def expected_revision() -> str | None:
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


def upgrade(settings: Settings) -> Path | None:
    """Run every pending migration; returns the copy that was made of an existing SQLite file first.

    Raises WrongSchema where a newer release has migrated the database.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database)
    try:
        found = current(database)
        pending = found != HEAD
        if found is not None and found not in REVISIONS:
            check(database)
    finally:
        database.dispose()
    copy = _copy_sqlite(settings) if pending else None
    if pending:
        command.upgrade(_config(settings.database), "head")
    return copy


def _copy_sqlite(settings: Settings) -> Path | None:
    prefix = "sqlite:///"
    source = Path(settings.database.removeprefix(prefix))
    if not settings.database.startswith(prefix) or not source.exists() or source.stat().st_size == 0:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(shutil.copy2(source, source.with_name(f"{source.name}.{stamp}.bak")))
