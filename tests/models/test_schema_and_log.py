"""Migrations make what the records say, and the log keeps what it was given."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.evidence import GENESIS, seal
from models.records import Base, EventSeal, record_event
from models.session import Database
from models.settings import Settings
from service import schema


def test_a_migrated_database_has_exactly_the_tables_of_the_records(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_database_is_served(database: Database) -> None:
    schema.check(database)


def test_a_database_of_another_release_is_refused(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'other'"))
    with pytest.raises(schema.WrongSchema, match="amun migrate"):
        schema.check(database)


@pytest.mark.fault(24)
def test_an_upgrade_copies_an_existing_sqlite_file_first(sqlite_settings: Settings) -> None:
    database = Database(sqlite_settings.database)
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        for table in Base.metadata.tables:
            connection.execute(text(f'DROP TABLE "{table}"'))
        connection.execute(text("CREATE TABLE kept (x INTEGER)"))
    database.dispose()
    copy = schema.upgrade(sqlite_settings)
    assert copy is not None
    copied = Database(f"sqlite:///{copy}")
    with copied.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM kept")).scalar_one() == 0
    copied.dispose()


@pytest.mark.parametrize("table", ["events", "event_seals"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET {}"])
def test_the_log_refuses_changes_in_the_database_itself(table: str, statement: str, database: Database) -> None:
    with database.write() as session:
        event = record_event(session, "something.happened", "job", 1, "test")
        session.flush()
        session.add(EventSeal(position=1, event_id=event.id, hash=seal(GENESIS, event, 1)))
    column = "name = 'x'" if table == "events" else "hash = 'x'"
    with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
        session.execute(text(statement.format(table, column)))
