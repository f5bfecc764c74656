"""Transactions on both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, StatementError

from models.records import Application, Lease
from models.session import Database
from models.settings import Settings


def test_a_block_that_raises_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as session:
        session.add(Application(name="a"))
        session.flush()
        raise RuntimeError
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Application)) == 0


def test_writers_of_many_threads_all_get_their_turn(database: Database) -> None:
    def write(number: int) -> None:
        with database.write() as session:
            session.add(Application(name=str(number)))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(100)))
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Application)) == 100


def test_what_is_read_in_one_block_is_of_one_moment(postgres_settings: Settings) -> None:
    """SQLite lets nobody commit meanwhile; PostgreSQL does, and an answer must not be half old and half new."""
    database = Database(postgres_settings.database)
    count = select(func.count()).select_from(Application)
    with database.read() as reading:
        assert reading.scalar(count) == 0
        with database.write() as writing:
            writing.add(Application(name="a"))
        assert reading.scalar(count) == 0
    with database.read() as reading:
        assert reading.scalar(count) == 1
    database.dispose()


def test_a_block_that_reads_cannot_write(postgres_settings: Settings) -> None:
    database = Database(postgres_settings.database)
    with pytest.raises(DBAPIError, match="read-only"), database.read() as session:
        session.add(Application(name="a"))
        session.flush()
    database.dispose()


def test_a_look_sees_what_is_committed_and_opens_no_transaction(database: Database) -> None:
    names = select(Application.name)
    with database.look() as connection:
        assert connection.scalars(names).all() == []
        with database.write() as session:
            session.add(Application(name="a"))
        assert connection.scalars(names).all() == ["a"]


def test_a_connection_that_the_server_ended_is_replaced_before_it_is_used(postgres_settings: Settings) -> None:
    database, other = Database(postgres_settings.database), Database(postgres_settings.database)
    backend = text("SELECT pg_backend_pid()")
    with database.read() as session:
        first = session.scalar(backend)
    with other.write() as session:
        assert session.scalar(text("SELECT pg_terminate_backend(:pid)"), {"pid": first})
    deadline = time.monotonic() + 10
    with other.look() as connection:
        while connection.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": first}):
            assert time.monotonic() < deadline
    for block in (database.look, database.read, database.write):
        with block() as handle:
            assert handle.scalar(backend) != first
    database.dispose()
    other.dispose()


def test_a_connection_that_was_closed_on_this_side_is_replaced_before_it_is_used(postgres_settings: Settings) -> None:
    database = Database(postgres_settings.database)
    with database.look() as connection:
        driver = connection.connection.driver_connection
    assert driver is not None
    driver.close()
    with database.look() as connection:
        assert connection.scalar(select(1)) == 1
    database.dispose()


def test_a_connection_is_pinged_only_after_a_long_pause(
    postgres_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_settings.database)
    pinged: list[object] = []
    real = database.engine.dialect.do_ping
    monkeypatch.setattr(database.engine.dialect, "do_ping", lambda found: (pinged.append(found), real(found))[1])
    for _ in range(3):
        with database.look() as connection:
            connection.scalar(select(1))
    assert pinged == []
    monkeypatch.setattr("models.session.QUIET_SECONDS", 0.0)
    with database.look() as connection:
        connection.scalar(select(1))
    assert len(pinged) == 1
    database.dispose()


def test_a_server_of_which_nothing_comes_back_is_given_up_after_a_while(postgres_settings: Settings) -> None:
    url = postgres_settings.database
    for told, expected in ((url, ("30", "30000")), (f"{url}?connect_timeout=7", ("7", "30000"))):
        database = Database(told)
        with database.look() as connection:
            parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        database.dispose()
        assert (parameters["connect_timeout"], parameters["tcp_user_timeout"]) == expected


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(DBAPIError), database.write() as session:
        session.execute(
            text("INSERT INTO training_set_applications (training_set_id, application_id) VALUES (:a, :a)"),
            {"a": "0" * 32},
        )


def test_times_come_back_aware_and_in_utc(database: Database) -> None:
    at = datetime(2026, 1, 30, 12, 0, 0, 123456, tzinfo=UTC)
    with database.write() as session:
        session.add(Lease(name="x", holder="y", expires_at=at))
    with database.read() as session:
        assert session.scalar(select(Lease.expires_at)) == at


def test_a_naive_time_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="naive datetime"), database.write() as session:
        session.add(Lease(name="x", holder="y", expires_at=datetime(2026, 1, 1)))


def test_an_error_of_the_database_does_not_carry_parameters(database: Database) -> None:
    with database.write() as session:
        session.add(Application(name="alice@example.org"))
    with pytest.raises(DBAPIError) as raised, database.write() as session:
        session.add(Application(name="alice@example.org"))
        session.flush()
    assert "SQL parameters hidden" in str(raised.value)
