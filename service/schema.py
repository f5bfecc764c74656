"""The database schema: bring it up to date, and refuse to serve on another."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from models.session import Database
from models.settings import Settings

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


class WrongSchema(RuntimeError):
    """The database has another schema than this release: run `amun migrate`."""


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def expected_revision() -> str | None:
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


def current_revision(database: Database) -> str | None:
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check(database: Database) -> None:
    """Raises WrongSchema, naming both revisions, unless the database is at this release's head."""
    found, wanted = current_revision(database), expected_revision()
    if found != wanted:
        raise WrongSchema(
            f"the database is at {found or 'no revision'}, this release needs {wanted}: run `amun migrate`"
        )


def upgrade(settings: Settings) -> Path | None:
    """Run every pending migration; returns the copy that was made of an existing SQLite file first."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database)
    try:
        pending = current_revision(database) != expected_revision()
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
