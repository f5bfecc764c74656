"""The dispatcher's duties on rows: plan, hint, sweep, seal; and its lease."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update
from starlette.testclient import TestClient

from models.base import now
from models.evidence import GENESIS, seal
from models.queue import celery_app
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    EventSeal,
    Job,
    JobKind,
    JobStatus,
    Lease,
    VersionStatus,
    record_event,
)
from models.session import Database
from models.settings import Settings
from service.dispatcher import Dispatcher
from service.duties import hinting, planning, sealing, sweeping
from tests.service.conftest import Headers, World
from tests.settled import settle_all


def posted(client: TestClient, shop: Headers, *samples: dict[str, Any]) -> str:
    answer = client.post(
        "/v1/deletion-requests", json={"training_set": "digits", "samples": list(samples)}, headers=shop
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def erasure_of(database: Database, request: str) -> Erasure:
    with database.read() as session:
        return session.scalars(select(Erasure).where(Erasure.request_id == uuid.UUID(request))).one()


def live_jobs(database: Database) -> list[Job]:
    with database.read() as session:
        return list(session.scalars(select(Job).where(Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]))))


@pytest.mark.usefixtures("digits")
def test_open_erasures_of_a_model_become_one_job(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    first, second = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 7})
    assert planning.plan(database, settings) == 1
    (job,) = live_jobs(database)
    assert erasure_of(database, first).job_id == erasure_of(database, second).job_id == job.id
    assert job.kind is JobKind.UNLEARN


@pytest.mark.fault(17)
@pytest.mark.usefixtures("digits")
def test_a_request_that_comes_while_a_job_lives_waits_for_the_next(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    posted(client, shop, {"index": 1})
    planning.plan(database, settings)
    later = posted(client, shop, {"index": 7})
    assert planning.plan(database, settings) == 0
    assert erasure_of(database, later).job_id is None


@pytest.mark.fault(16)
@pytest.mark.usefixtures("digits")
def test_a_request_that_waits_for_approval_is_not_planned(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    request = posted(client, shop, *({"index": index} for index in range(30)))  # three quarters of the set
    assert planning.plan(database, settings) == 0
    with database.write() as session:
        session.execute(update(DeletionRequest).values(approved_at=now()))
        settle_all(session)
    assert planning.plan(database, settings) == 1
    assert erasure_of(database, request).job_id is not None


@pytest.mark.usefixtures("digits")
def test_what_the_released_version_has_forgotten_is_done_at_once_with_it_as_evidence(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World
) -> None:
    first, second = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 1})
    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(first, "digits-cnn", version)
    assert planning.plan(database, settings) == 0
    done = erasure_of(database, second)
    assert (done.status, done.version_id) == (ErasureStatus.DONE, version.id)


@pytest.mark.fault(7)
@pytest.mark.parametrize(("hints", "seconds"), [(1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (50, 600)])
def test_hints_are_repeated_after_a_minute_and_then_less_often(hints: int, seconds: int) -> None:
    assert hinting.wait_after(hints) == timedelta(seconds=seconds)


@pytest.mark.usefixtures("digits")
def test_a_queued_job_is_hinted_once_and_again_when_its_wait_is_over(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    posted(client, shop, {"index": 1})
    planning.plan(database, settings)
    celery = celery_app(settings)
    assert hinting.hint(database, celery) == 1
    assert hinting.hint(database, celery) == 0
    with database.write() as session:
        session.execute(update(Job).where(Job.hints == 1).values(hinted_at=now() - timedelta(seconds=61)))
    assert hinting.hint(database, celery) == 1
    assert len(list((settings.data_dir / "broker" / "messages").iterdir())) == 2


@pytest.mark.fault(7)
@pytest.mark.usefixtures("digits")
def test_a_broker_that_is_down_loses_nothing(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    posted(client, shop, {"index": 1})
    planning.plan(database, settings)
    nobody_listens = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    assert hinting.hint(database, celery_app(nobody_listens)) == 0
    assert live_jobs(database)[0].hinted_at is None
    assert hinting.hint(database, celery_app(settings)) == 1


def test_seals_chain_every_event_and_an_altered_one_would_break_them(database: Database) -> None:
    for number in range(5):
        with database.write() as session:
            record_event(session, f"event.{number}", "job", number, "test", number=number)
    assert sealing.seal_events(database) == 5
    with database.write() as session:
        record_event(session, "event.5", "job", 5, "test")
    assert sealing.seal_events(database) == 1
    assert sealing.seal_events(database) == 0
    with database.read() as session:
        events = {event.id: event for event in session.scalars(select(Event))}
        seals = list(session.scalars(select(EventSeal).order_by(EventSeal.position)))
    previous = GENESIS
    for position, sealed in enumerate(seals, start=1):
        assert sealed.position == position
        previous = seal(previous, events[sealed.event_id], position)
        assert sealed.hash == previous
    altered = events[seals[2].event_id]
    altered.data = {"number": 99}
    assert seal(seals[1].hash, altered, 3) != seals[2].hash


def test_sealing_reads_the_last_seal_and_not_the_whole_log(database: Database) -> None:
    for number in range(5):
        with database.write() as session:
            record_event(session, f"event.{number}", "job", number, "test")
    sealing.seal_events(database)
    rows: list[int] = []

    def counted(connection: Any, cursor: Any, *_: Any) -> None:
        rows.append(cursor.rowcount)  # SQLite, which sends rows one by one, says -1

    event.listen(database.engine, "after_cursor_execute", counted)
    try:
        sealing.seal_events(database)
    finally:
        event.remove(database.engine, "after_cursor_execute", counted)
    assert rows
    assert max(rows) <= 1


@pytest.mark.fault(3)
def test_files_that_no_row_names_are_removed_and_others_stay(
    database: Database, settings: Settings, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    running = world.job("digits-cnn", status=JobStatus.RUNNING)
    names = [f"staging/{uuid.uuid4()}.1", f"staging/{running}.0", "store/set/2", f"store/set/{running}.0"]
    for name in names:
        (settings.data_dir / name).mkdir(parents=True)
    assert sweeping.orphaned_files(database, settings) == 2
    assert [(settings.data_dir / name).exists() for name in names] == [False, True, False, True]
    assert (settings.data_dir / "store/set/1/pixels.u8").exists()
    assert (settings.data_dir / "store/digits-cnn/1/checkpoint.safetensors").exists()


@pytest.mark.fault(25)
def test_one_of_two_dispatchers_works_and_the_other_takes_over_once_the_lease_is_over(
    database: Database, settings: Settings
) -> None:
    first, second = Dispatcher(database, settings), Dispatcher(database, settings)
    with database.write() as session:
        record_event(session, "one", "job", 1, "test")
    first.round()
    with database.write() as session:
        record_event(session, "two", "job", 1, "test")
    second.round()
    assert sealed(database) == 1
    with database.write() as session:
        session.execute(update(Lease).values(expires_at=now() - timedelta(seconds=1)))
    second.round()
    assert sealed(database) == 2
    second.stop()
    third = Dispatcher(database, settings)
    with database.write() as session:
        record_event(session, "three", "job", 1, "test")
    third.round()
    assert sealed(database) == 3


def sealed(database: Database) -> int:
    with database.read() as session:
        return len(list(session.scalars(select(EventSeal))))
