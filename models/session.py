"""Database sessions for SQLite and PostgreSQL, with the pragmas and locks each needs."""

from __future__ import annotations

import select as readiness
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, select, text
from sqlalchemy.orm import Session

from models.base import now

# A write-ahead log of SQLite before 3.51.3 can corrupt the file when two connections reset it at once.
WAL_IS_SAFE = sqlite3.sqlite_version_info >= (3, 51, 3)
BUSY_SECONDS = 30
QUIET_SECONDS = 60.0  # a firewall may have dropped a connection that was idle for longer, without a word


class Database:
    """One engine a process. ``write()`` and ``read()`` are one transaction each, committed at the end of the block."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.one_writer = self.engine.dialect.name == "sqlite"
        self._writer = self.engine.execution_options(amun_write=True)
        # An answer is put together from several queries: all see the rows of one moment, as they do on SQLite.
        snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self.engine if self.one_writer else self.engine.execution_options(**snapshot)
        alone = {"amun_alone": True} if self.one_writer else {"isolation_level": "AUTOCOMMIT"}
        self._looker = self.engine.execution_options(**alone)
        # SQLite lets one writer in: threads of this process queue here rather than spin on the busy handler.
        self._lock = threading.Lock()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write; rolled back on any exception."""
        if self.one_writer:
            with self._lock, Session(self._writer, expire_on_commit=False) as session, session.begin():
                yield session
        else:
            with Session(self._writer, expire_on_commit=False) as session, session.begin():
                yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """For one statement that reads, without a transaction: that would be two more messages to a server."""
        with self._looker.connect() as connection:
            yield connection

    @property
    def remote(self) -> bool:
        """Whether a server holds it, which may go away and come back."""
        return not self.one_writer

    def dispose(self) -> None:
        self.engine.dispose()


def current_time(session: Session) -> datetime:
    """The clock that leases go by: the server's on PostgreSQL, since hosts differ; this host's on SQLite."""
    if session.get_bind().dialect.name == "postgresql":
        return session.execute(select(text("clock_timestamp()"))).scalar_one().astimezone(UTC)  # type: ignore[no-any-return]
    return now()


def _engine(url: str) -> Engine:
    # Parameters name people: an error's text must not carry them into a log.
    if not url.startswith("sqlite"):
        # Every statement is short: to compile one to machine code takes PostgreSQL longer than to run it. And a server from
        # which nothing comes back is given up, as a locked file is: others wait behind whoever waits for it.
        defaults = {"options": "-c jit=off", "connect_timeout": BUSY_SECONDS, "tcp_user_timeout": 1000 * BUSY_SECONDS}
        arguments = {name: value for name, value in defaults.items() if name not in make_url(url).query}
        engine = create_engine(url, hide_parameters=True, pool_size=10, max_overflow=20, connect_args=arguments)
        _ping_where_in_doubt(engine)
        return engine
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is ours to choose
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA journal_mode={'WAL' if WAL_IS_SAFE else 'DELETE'}")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("amun_alone"):
            return
        # A deferred transaction that turns into a writer late fails with "database is locked" at once.
        write = connection.get_execution_options().get("amun_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _ping_where_in_doubt(engine: Engine) -> None:
    """Ask a pooled connection for an answer before it is used, where it may be gone: SQLAlchemy's own ping always asks.

    Between transactions a server says nothing. What can be read then is its farewell: it was stopped, or ended the session.
    """

    @event.listens_for(engine, "checkin")
    def left(_connection: Any, record: Any) -> None:
        record.info["amun_left"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def taken(connection: Any, record: Any, _proxy: object) -> None:
        since = record.info.get("amun_left")
        if since is None:  # it was made just now
            return
        try:
            if time.monotonic() - since >= QUIET_SECONDS or _can_be_read(connection):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise exc.InvalidatePoolError from error  # those that were made before it are gone too: the pool connects anew


def _can_be_read(connection: Any) -> bool:
    """Raises the driver's error where the connection is closed on this side."""
    poll = readiness.poll()
    poll.register(connection.fileno(), readiness.POLLIN)
    return bool(poll.poll(0))
