"""Alembic's environment. The URL comes from the caller's configuration or, on the command line, from AMUN_ settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from models.crashes import crash_point
from models.records import Base
from models.session import Database
from models.settings import get_settings

ADVISORY_LOCK = 0x616D756E  # "amun": without it three of four concurrent upgrades fail


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
        context.run_migrations()
        crash_point("migrate.before_commit")


def _main() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or get_settings().database
    if context.is_offline_mode():
        raise SystemExit("migrations run against a database: offline SQL is not supported")
    database = Database(url)
    try:
        with database.engine.execution_options(amun_write=True).connect() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if sqlite:  # before the transaction, in which it would do nothing: a table is changed by making it anew
                connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
            _run(connection)
            if sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).all()):
                raise SystemExit(f"the migration was undone: {len(broken)} rows would refer to none, {broken[0]} first")
            connection.commit()
    finally:
        database.dispose()


_main()
