"""Row 11: a full disk fails the job that met it, is answered with 503 by the database, and all goes on once there is room."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from models.records import DeletionRequest, Job, JobKind, JobStatus, Role, TrainingSet
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.dispatcher import Dispatcher
from tests.faults.matrix.conftest import SmallDisk
from tests.service.conftest import World
from tests.worker.test_tasks import look, replaying
from worker import pipeline, tasks
from worker.plan import NO_SPACE_STATUS

pytestmark = pytest.mark.fault(11)

REGISTER = '{"kind":"register","source":{"kind":"builtin","path":"digits"},"controls":{"share":0.5},"seed":1}'


@pytest.fixture
def settings(sqlite_settings: Settings, small_disk: SmallDisk) -> Settings:
    """Files on the small disk, the database elsewhere."""
    data = small_disk.folder / "data"
    data.mkdir()
    return sqlite_settings.model_copy(update={"data_dir": data, "database_url": sqlite_settings.database})


def another(database: Database) -> uuid.UUID:
    with database.write() as session:
        made = TrainingSet(name="another", source={"kind": "builtin", "path": "digits"}, controls={"share": 0.5})
        session.add(made)
        session.flush()
        queued = Job(kind=JobKind.REGISTER, training_set_id=made.id, seed=1)
        session.add(queued)
    return queued.id


def failed_for_space(database: Database, settings: Settings, job: uuid.UUID) -> None:
    ended = look(database, job)
    assert ended.error is not None
    assert (ended.status, ended.error["code"], ended.attempts) == (JobStatus.FAILED, "disk_full", 1)
    assert list((settings.data_dir / "staging").iterdir()) == []


def test_a_disk_that_the_real_pipeline_fills_fails_the_job_and_the_next_one_runs(
    database: Database, settings: Settings, small_disk: SmallDisk, job: uuid.UUID
) -> None:
    small_disk.fill(but=160 * 1024)  # 112 KiB of pixels and 7 of labels fit, and 56 of digests do not
    tasks.run_job(database, settings.model_copy(update={"device": "cpu"}), job, "here")
    failed_for_space(database, settings, job)
    assert "no space was left" in look(database, job).error["detail"]  # it had begun
    small_disk.empty()
    later = another(database)
    tasks.run_job(database, replaying(settings, "ok"), later, "here")
    assert look(database, later).status is JobStatus.SUCCEEDED


def test_a_disk_that_is_full_before_the_child_starts_fails_the_job_once(
    database: Database, settings: Settings, small_disk: SmallDisk, job: uuid.UUID
) -> None:
    small_disk.fill()
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    failed_for_space(database, settings, job)


def test_a_pipeline_without_space_for_its_result_says_so_by_its_exit_status(small_disk: SmallDisk) -> None:
    plan = small_disk.folder / "plan.json"
    plan.write_text(REGISTER)
    small_disk.fill()
    assert pipeline.main([str(plan), str(small_disk.folder / "out")]) == NO_SPACE_STATUS
    assert list((small_disk.folder / "out").iterdir()) == []


def test_that_exit_status_fails_the_job_for_want_of_space(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    leaves = settings.model_copy(update={"pipeline": f"{sys.executable} -c 'import sys; sys.exit({NO_SPACE_STATUS})'"})
    tasks.run_job(database, leaves, job, "here")
    failed_for_space(database, settings, job)


def test_a_dispatcher_on_a_full_disk_goes_on_with_its_other_duties(
    database: Database, settings: Settings, small_disk: SmallDisk, job: uuid.UUID
) -> None:
    dispatcher = Dispatcher(database, settings)
    small_disk.fill()
    dispatcher.round()
    assert look(database, job).hinted_at is None
    small_disk.empty()
    dispatcher.round()
    assert look(database, job).hinted_at is not None
    dispatcher.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def small_database(
    request: pytest.FixtureRequest, small_disk: SmallDisk, migrated_sqlite: Path, tmp_path: Path
) -> Iterator[Settings]:
    """A database that lies on the small disk; its service's files do not."""
    if request.param == "sqlite":
        shutil.copyfile(migrated_sqlite, small_disk.folder / "amun.sqlite3")
        yield Settings(data_dir=tmp_path / "data", database_url=f"sqlite:///{small_disk.folder / 'amun.sqlite3'}")
        return
    url: str = request.getfixturevalue("postgres_database")
    server, name = url.replace("+psycopg", "").rsplit("/", 1)
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{small_disk.folder}'")  # type: ignore[call-overload]
        connection.execute(f"ALTER DATABASE {name} SET TABLESPACE small")  # type: ignore[call-overload]
        yield Settings(data_dir=tmp_path / "data", database_url=url)
        small_disk.empty()
        connection.execute(f"ALTER DATABASE {name} SET TABLESPACE pg_default")  # type: ignore[call-overload]
        connection.execute("DROP TABLESPACE small")


@pytest.fixture
def opened(small_database: Settings) -> Iterator[Database]:
    database = Database(small_database.database)
    yield database
    database.dispose()


def test_a_full_database_is_answered_with_503_and_takes_the_same_request_once_there_is_room(
    small_database: Settings, opened: Database, small_disk: SmallDisk
) -> None:
    small_database.data_dir.mkdir()
    world = World(opened, small_database)
    world.training_set("digits", "shop")
    world.model("digits-cnn", "digits")
    headers = world.key(Role.APPLICATION, "shop") | {"Idempotency-Key": "one"}
    body = {"training_set": "digits", "samples": [{"index": index} for index in range(10)]}
    with TestClient(create_app(small_database, dispatch=False)) as client:
        small_disk.fill()
        answer = client.post("/v1/deletion-requests", json=body, headers=headers)
        assert answer.status_code == 503, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) >= 1
        assert client.get("/v1/deletion-requests", headers=headers).json()["data"] == []
        small_disk.empty()
        answers = [client.post("/v1/deletion-requests", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    with opened.read() as session:
        assert [str(found) for found in session.scalars(select(DeletionRequest.id))] == [answers[0].json()["id"]]
