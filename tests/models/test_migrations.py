"""An older database with rows in it is brought up to date, and nothing in it is lost."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.session import Database
from models.settings import Settings
from service import schema


@pytest.fixture(params=["sqlite", "postgres"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an empty database at the second revision."""
    url = None
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_database")
        database = Database(url)
        with database.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        database.dispose()
    settings = Settings(data_dir=tmp_path / "old", database_url=url)
    settings.data_dir.mkdir()
    command.upgrade(schema._config(settings.database), "0002")
    return settings


def _insert(settings: Settings, erasures: list[str], **columns: object) -> str:
    """One request with its erasures as the second revision stored them."""
    ids = {name: uuid.uuid4() for name in ("application", "training_set", "request")}
    database = Database(settings.database)
    form = (lambda value: value.hex) if database.engine.dialect.name == "sqlite" else str
    named = {name: form(value) for name, value in ids.items()} | {"name": uuid.uuid4().hex}
    flags = {"approval_required": False, "has_controls": False, "rejected_at": None} | columns
    with database.engine.begin() as connection:
        run = lambda statement, **more: connection.execute(text(statement), named | flags | more)  # noqa: E731
        run("INSERT INTO applications (id, name, created_at) VALUES (:application, :name, '2026-01-01 00:00:00')")
        run(
            "INSERT INTO training_sets (id, name, status, source, controls, created_at) "
            "VALUES (:training_set, :name, 'ready', '{}', '{}', '2026-01-01 00:00:00')"
        )
        run(
            "INSERT INTO deletion_requests (id, application_id, training_set_id, submitted_by, regulation, received_at, "
            "due_at, fingerprint, approval_required, has_controls, rejected_at) VALUES (:request, :application, "
            ":training_set, 'key', 'GDPR', '2026-01-01 00:00:00', '2026-02-01 00:00:00', :print, :approval_required, "
            ":has_controls, :rejected_at)",
            print=b"f",
        )
        for status in erasures:
            model, erasure = form(uuid.uuid4()), form(uuid.uuid4())
            run(
                "INSERT INTO models (id, name, status, training_set_id, network, recipe, policy, created_at) "
                "VALUES (:model, :label, 'ready', :training_set, '{}', '{}', '{}', '2026-01-01 00:00:00')",
                model=model,
                label=uuid.uuid4().hex,
            )
            run(
                "INSERT INTO erasures (id, request_id, model_id, status, created_at) "
                "VALUES (:erasure, :request, :model, :status, '2026-01-01 00:00:00')",
                model=model,
                erasure=erasure,
                status=status,
            )
    database.dispose()
    return named["request"]


@pytest.mark.parametrize(
    ("erasures", "columns", "expected"),
    [
        (["open"], {}, "queued"),
        (["open"], {"approval_required": True}, "awaiting_approval"),
        (["running", "done"], {}, "running"),
        (["on_hold", "running"], {}, "on_hold"),
        (["awaiting_release"], {}, "awaiting_release"),
        (["done", "failed"], {}, "partially_completed"),
        (["failed"], {}, "failed"),
        (["cancelled"], {}, "cancelled"),
        (["done", "not_applicable"], {}, "completed"),
        ([], {"has_controls": True}, "queued"),
        (["open"], {"rejected_at": "2026-01-02 00:00:00"}, "rejected"),
    ],
)
def test_requests_get_the_status_that_was_computed_before(
    erasures: list[str], columns: dict[str, object], expected: str, old: Settings
) -> None:
    request = _insert(old, erasures, **columns)
    schema.upgrade(old)
    database = Database(old.database)
    with database.engine.connect() as connection:
        stored = connection.execute(text("SELECT status FROM deletion_requests WHERE id = :id"), {"id": request})
        assert stored.scalar_one() == expected
        kept = connection.execute(text("SELECT status FROM erasures ORDER BY status")).scalars().all()
    database.dispose()
    assert kept == sorted(erasures)


def test_seals_name_the_record_of_their_event_and_stay_append_only(old: Settings) -> None:
    database = Database(old.database)
    event = uuid.uuid4().hex
    form = event if database.engine.dialect.name == "sqlite" else str(uuid.UUID(event))
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO events (id, at, name, record, record_id, actor, data) "
                "VALUES (:id, '2026-01-01 00:00:00', 'x', 'job', '7', 'test', '{}')"
            ),
            {"id": form},
        )
        connection.execute(
            text("INSERT INTO event_seals (position, event_id, hash) VALUES (1, :id, 'h')"), {"id": form}
        )
    command.upgrade(schema._config(old.database), "head")
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT record, record_id FROM event_seals")).one() == ("job", "7")
    _refuses_changes(database)
    command.downgrade(schema._config(old.database), "0002")
    _refuses_changes(database)
    database.dispose()


def _refuses_changes(database: Database) -> None:
    for statement in ("UPDATE event_seals SET hash = 'x'", "DELETE FROM event_seals"):
        with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
            connection.execute(text(statement))
