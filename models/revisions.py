"""The schema that this release's service and worker work with: on another one neither starts."""

from __future__ import annotations

from sqlalchemy import inspect, text

from models.session import Database

# In order, as migrations/versions has them; the worker's image does not hold those files. A test compares.
REVISIONS = ("0001", "0002", "0003", "0004")
HEAD = REVISIONS[-1]


class WrongSchema(RuntimeError):
    """The database has another schema than this release."""


def current(database: Database) -> str | None:
    """The revision that the database is at; None where there is no schema yet."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.scalar(text("SELECT version_num FROM alembic_version"))  # type: ignore[no-any-return]


def check(database: Database) -> None:
    """Raises WrongSchema, with both revisions and what to do, unless the database is at this release's."""
    found = current(database)
    if found == HEAD:
        return
    if found is None or found in REVISIONS:
        raise WrongSchema(f"the database is at {found or 'no revision'}, this release needs {HEAD}: run `amun migrate`")
    raise WrongSchema(
        f"the database is at {found}, which this release does not know (it needs {HEAD}): a newer release has migrated "
        "it. Run that release; `amun migrate` cannot go back, but a backup made before can be restored"
    )
