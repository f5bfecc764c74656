"""Row 7: a broker that is down, hung, flushed or full keeps nobody from being accepted, and everything runs later."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models.base import now
from models.queue import QUEUE, celery_app
from models.records import Job, JobStatus
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.dispatcher import LEASE_SECONDS, Dispatcher
from service.duties import hinting
from tests.faults.matrix.conftest import Broker, SmallDisk
from tests.service.conftest import Headers
from tests.worker.test_tasks import look, replaying, until
from worker import tasks

pytestmark = pytest.mark.fault(7)

BREAK: dict[str, Callable[[Broker], None]] = {"down": Broker.stop, "full": Broker.fill}
MEND: dict[str, Callable[[Broker], None]] = {"down": Broker.start, "full": Broker.empty}


def registered(client: TestClient, operator: Headers, name: str) -> uuid.UUID:
    """A job that was accepted."""
    source = {"kind": "builtin", "path": "digits"}
    body = {"name": name, "applications": [], "source": source, "controls": {"share": 0.5}}
    answer = client.post("/v1/training-sets", json=body, headers=operator)
    assert answer.status_code == 202, answer.text
    return uuid.UUID(answer.json()["job"]["id"])


def run_what_waits(celery: Celery, database: Database, settings: Settings) -> set[uuid.UUID]:
    """Do what a worker does with every message; returns the jobs that they named."""
    named = set()
    with celery.connection_for_read() as connection, connection.channel() as channel:
        while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
            named.add(uuid.UUID(message.decode()[0][0]))
    for job in named:
        tasks.run_job(database, replaying(settings, "ok"), job, "here")
    return named


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fault", list(BREAK))
def test_what_is_accepted_while_the_broker_is_away_runs_once_it_is_back(
    fault: str, broker: Broker, client: TestClient, operator: Headers, database: Database, settings: Settings
) -> None:
    settings = settings.model_copy(update={"broker_url": broker.url})
    celery = celery_app(settings)
    first = registered(client, operator, "before")
    assert hinting.hint(database, celery) == 1
    BREAK[fault](broker)
    second = registered(client, operator, "meanwhile")
    assert hinting.hint(database, celery) == 0
    assert look(database, second).hinted_at is None
    MEND[fault](broker)
    assert hinting.hint(database, celery) == 1
    if fault == "down":  # it had kept nothing on the disk: the first message is gone with it
        with database.write() as session:
            session.execute(update(Job).where(Job.id == first).values(hinted_at=now() - timedelta(seconds=61)))
        assert hinting.hint(database, celery) == 1
    assert run_what_waits(celery, database, settings) == {first, second}
    assert {look(database, job).status for job in (first, second)} == {JobStatus.SUCCEEDED}


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_messages_that_were_flushed_are_sent_again_after_a_minute(
    broker: Broker, client: TestClient, operator: Headers, database: Database, settings: Settings
) -> None:
    settings = settings.model_copy(update={"broker_url": broker.url})
    celery = celery_app(settings)
    jobs = {registered(client, operator, name) for name in ("one", "two", "three")}
    assert hinting.hint(database, celery) == 3
    broker.client.flushall()
    assert hinting.hint(database, celery) == 0
    with database.write() as session:
        session.execute(update(Job).values(hinted_at=now() - timedelta(seconds=61)))
    assert hinting.hint(database, celery) == 3
    assert run_what_waits(celery, database, settings) == jobs
    assert {look(database, job).status for job in jobs} == {JobStatus.SUCCEEDED}


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_request_is_answered_while_the_dispatcher_hangs_on_a_broker_that_never_answers(
    broker: Broker, operator: Headers, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, let_go = threading.Event(), threading.Event()
    send = Celery.send_task

    def observed(*arguments: Any, **options: Any) -> Any:
        hanging.set()
        try:
            return send(*arguments, **options)
        finally:
            let_go.set()

    monkeypatch.setattr(Celery, "send_task", observed)
    broker.freeze()
    settings = settings.model_copy(update={"broker_url": broker.url})
    with TestClient(create_app(settings)) as client:
        first = registered(client, operator, "one")
        assert hanging.wait(30)
        later = registered(client, operator, "two")
        assert not let_go.is_set(), "the dispatcher had not hung any more"
        assert client.get(f"/v1/jobs/{later}", headers=operator).json()["status"] == "queued"
        assert let_go.wait(LEASE_SECONDS), "the dispatcher hung for longer than its lease"
        broker.thaw()
        until(lambda: look(database, first).hinted_at and look(database, later).hinted_at)
    assert run_what_waits(celery_app(settings), database, settings) == {first, later}
    assert {look(database, job).status for job in (first, later)} == {JobStatus.SUCCEEDED}


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_folder_of_messages_that_is_full_gets_no_half_message_and_works_again_with_room(
    small_disk: SmallDisk, client: TestClient, operator: Headers, database: Database, settings: Settings
) -> None:
    (settings.data_dir / "broker").symlink_to(small_disk.folder)
    small_disk.fill()
    job = registered(client, operator, "one")
    dispatcher = Dispatcher(database, settings)
    for _ in range(3):
        dispatcher.round()
    written = [path for path in small_disk.folder.rglob("*") if path.is_file() and path.name != ".filler"]
    assert written == []
    assert look(database, job).hinted_at is None
    small_disk.empty()
    dispatcher.round()
    dispatcher.stop()
    assert run_what_waits(celery_app(settings), database, settings) == {job}
    assert look(database, job).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_what_an_older_release_left_half_written_stops_neither_sender_nor_worker(
    client: TestClient, operator: Headers, database: Database, settings: Settings
) -> None:
    celery = celery_app(settings)
    (settings.data_dir / "broker/control" / f"{QUEUE}.exchange").touch()
    (settings.data_dir / "broker/messages" / f"1_{uuid.uuid4()}.{QUEUE}.msg").touch()
    job = registered(client, operator, "one")
    assert hinting.hint(database, celery) == 1
    assert run_what_waits(celery, database, settings) == {job}
    with database.read() as session:
        assert session.scalars(select(Job.status)).all() == [JobStatus.SUCCEEDED]
