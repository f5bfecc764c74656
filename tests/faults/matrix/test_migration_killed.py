"""Row 24: a migration killed half-way leaves the old schema with every row, and runs to its end when it is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import inspect, text

from models import revisions
from models.session import Database
from models.settings import Settings
from service import schema
from service.embedded import environment
from tests.models.test_migrations import _insert, old  # noqa: F401 - a fixture

pytestmark = pytest.mark.fault(24)

UPGRADE = "from models.settings import Settings; from service import schema; schema.upgrade(Settings())"


def looked_at(settings: Settings) -> tuple[str | None, dict[str, set[str]], list[tuple[object, ...]]]:
    """Revision, columns by table, and the requests with their erasures."""
    database = Database(settings.database)
    try:
        inspector = inspect(database.engine)
        columns = {
            table: {column["name"] for column in inspector.get_columns(table)} for table in inspector.get_table_names()
        }
        with database.engine.connect() as connection:
            if database.engine.dialect.name == "sqlite":
                assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
            rows = connection.execute(
                text("SELECT r.id, e.status FROM deletion_requests r JOIN erasures e ON e.request_id = r.id ORDER BY 2")
            ).all()
        return revisions.current(database), columns, [tuple(row) for row in rows]
    finally:
        database.dispose()


def test_a_migration_killed_half_way_has_changed_nothing_and_runs_when_it_is_started_again(
    old: Settings,  # noqa: F811
) -> None:
    _insert(old, ["open", "done"])
    before = looked_at(old)
    assert before[0] == "0002"
    killed = subprocess.run(
        [sys.executable, "-c", UPGRADE],
        env={**environment(old), "AMUN_CRASH": "migrate.before_commit"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert looked_at(old) == before
    copies = list(old.data_dir.glob("*.bak"))
    assert len(copies) == (1 if old.database.startswith("sqlite") else 0)
    for copy in copies:
        assert looked_at(old.model_copy(update={"database_url": f"sqlite:///{copy}"})) == before
    schema.upgrade(old)
    revision, _, rows = looked_at(old)
    assert (revision, rows) == (schema.expected_revision(), before[2])
    assert "AMUN_CRASH" not in os.environ


@pytest.mark.parametrize("old", ["sqlite"], indirect=True)
def test_a_migration_that_would_leave_a_row_referring_to_none_is_undone(old: Settings) -> None:  # noqa: F811
    _insert(old, ["open"])
    database = Database(old.database)
    with database.engine.begin() as connection:
        connection.connection.cursor().execute("ROLLBACK")
        connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
        connection.connection.cursor().execute("BEGIN")
        connection.execute(text("DELETE FROM applications"))
    database.dispose()
    before = looked_at(old)
    with pytest.raises(SystemExit, match="would refer to none"):
        schema.upgrade(old)
    assert looked_at(old) == before
