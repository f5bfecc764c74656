"""Row 10: a database that is locked, cut off or says that a commit failed which it did: nothing half, nothing twice."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, func, select
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import InternalError, OperationalError
from starlette.testclient import TestClient

import models.session
from models.records import DeletionRequest, Erasure, Job, JobStatus, RequestSample, Sample, TrainingSetStatus
from models.session import Database
from models.settings import Settings
from service.app import create_app
from tests.service.conftest import Headers
from tests.worker.test_tasks import look, replaying, training_set
from worker import finish, tasks

pytestmark = pytest.mark.fault(10)

BODY = {"training_set": "digits", "samples": [{"index": 1}, {"index": 7}]}


def post(client: TestClient, shop: Headers) -> Any:
    return client.post("/v1/deletion-requests", json=BODY, headers=shop | {"Idempotency-Key": "one"})


def rows(database: Database) -> tuple[int | None, ...]:
    """Requests, erasures and samples of requests."""
    with database.read() as session:
        return tuple(
            session.scalar(select(func.count()).select_from(record))
            for record in (DeletionRequest, Erasure, RequestSample)
        )


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_database_locked_by_another_process_is_answered_with_503_and_then_takes_the_request(
    settings: Settings, database: Database, shop: Headers, digits: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.session, "BUSY_SECONDS", 0.2)
    holder = sqlite3.connect(settings.data_dir / "amun.sqlite3", isolation_level=None)
    with TestClient(create_app(settings, dispatch=False)) as client:
        holder.execute("BEGIN IMMEDIATE")
        answer = post(client, shop)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        holder.execute("ROLLBACK")
        holder.close()
        assert rows(database) == (0, 0, 0)
        assert post(client, shop).status_code == 202
    assert rows(database) == (1, 1, 2)


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_a_connection_cut_in_the_middle_of_a_request_leaves_nothing_of_it(
    settings: Settings, client: TestClient, database: Database, shop: Headers, digits: uuid.UUID
) -> None:
    engine = client.app.state.database.engine  # type: ignore[attr-defined]
    server = settings.database.replace("+psycopg", "").rsplit("/", 1)[0]
    name = settings.database.rsplit("/", 1)[1]

    def cut(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO request_samples" in statement:  # its rows are written, and not committed
            event.remove(engine, "after_cursor_execute", cut)
            with psycopg.connect(f"{server}/postgres", autocommit=True) as administrator:
                administrator.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
                )

    event.listen(engine, "after_cursor_execute", cut)
    answer = post(client, shop)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert rows(database) == (0, 0, 0)
    assert post(client, shop).status_code == 202
    assert rows(database) == (1, 1, 2)


def commit_and_deny(monkeypatch: pytest.MonkeyPatch, wanted: Any) -> None:
    """The next commit for which ``wanted()`` is true happens, and is reported failed."""
    commit, asking = DefaultDialect.do_commit, [False]

    def deny(dialect: DefaultDialect, connection: Any) -> None:
        commit(dialect, connection)
        if asking[0]:  # wanted() reads, and that is a transaction too
            return
        asking[0] = True
        denied = wanted()
        asking[0] = False
        if denied:
            monkeypatch.undo()
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(DefaultDialect, "do_commit", deny)


def test_a_request_whose_commit_was_reported_failed_is_one_request_when_it_is_sent_again(
    client: TestClient, database: Database, shop: Headers, digits: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_and_deny(monkeypatch, lambda: rows(database)[0] == 1)
    answer = post(client, shop)
    assert answer.status_code == 503, answer.text
    assert "a later GET" in answer.json()["detail"]
    again = post(client, shop)
    assert again.status_code == 202
    assert rows(database) == (1, 1, 2)
    listed = client.get("/v1/deletion-requests", headers=shop).json()["data"]
    assert [request["id"] for request in listed] == [again.json()["id"]]


def test_a_job_whose_commit_was_reported_failed_has_succeeded_once_and_keeps_its_files(
    database: Database, settings: Settings, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    finishing: list[bool] = []
    succeed = finish._succeed

    def noted(*arguments: Any) -> None:
        succeed(*arguments)
        finishing.append(True)

    monkeypatch.setattr(finish, "_succeed", noted)
    commit_and_deny(monkeypatch, lambda: bool(finishing))
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    ended, made = look(database, job), training_set(database)
    assert (ended.status, ended.attempts, made.status) == (JobStatus.SUCCEEDED, 1, TrainingSetStatus.READY)
    assert finishing == [True]
    assert (settings.data_dir / str(made.folder) / "pixels.u8").is_file()
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Sample)) == made.rows
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_a_job_whose_commit_failed_leaves_no_file_and_is_tried_again(
    database: Database, settings: Settings, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed = finish._succeed

    def refuse(*arguments: Any) -> None:
        succeed(*arguments)
        monkeypatch.undo()
        raise InternalError("UPDATE", {}, Exception("could not read block 7"))

    monkeypatch.setattr(finish, "_succeed", refuse)
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    assert (look(database, job).status, look(database, job).attempts) == (JobStatus.QUEUED, 1)
    assert list((settings.data_dir / "store").glob("*/*")) == []
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    assert look(database, job).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_a_job_is_finished_once_the_database_server_is_back(
    database: Database, settings: Settings, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections are cut in the middle of its last transaction, and for a while nobody is let in."""
    name = settings.database.rsplit("/", 1)[1]
    server = psycopg.connect(settings.database.replace("+psycopg", "").removesuffix(name) + "postgres", autocommit=True)
    succeed, away = (
        finish._succeed,
        threading.Timer(2.5, server.execute, [f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"]),
    )

    def cut(*arguments: Any) -> None:
        monkeypatch.undo()
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
        away.start()
        succeed(*arguments)

    monkeypatch.setattr(finish, "_succeed", cut)
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    away.join()
    server.close()
    ended, made = look(database, job), training_set(database)
    assert (ended.status, ended.attempts, made.status) == (JobStatus.SUCCEEDED, 1, TrainingSetStatus.READY)
    assert (settings.data_dir / str(made.folder) / "pixels.u8").is_file()
