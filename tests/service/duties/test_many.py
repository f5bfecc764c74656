"""With thousands of requests, jobs and documents, a round of the dispatcher does what is next and no more than that."""

from __future__ import annotations

import os
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update
from starlette.testclient import TestClient

from models import holdings
from models.base import new_id, now
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
    Model,
    ModelVersion,
    RequestStatus,
    Sample,
    Split,
    VersionStatus,
    record_event,
)
from models.session import Database, current_time
from models.settings import Settings
from service.dispatcher import Dispatcher
from service.duties import certifying, erasing, hinting, planning, sealing, sweeping
from tests.service import stored
from tests.service.conftest import Headers, World
from tests.service.lists.test_list_plans import BIG, reads
from tests.settled import settle_all
from worker import plans

WAITING = 400
STORED = 2000
MOST_READ = 100
# What may be read as a whole: indices of the few rows about which something is to be done, and the end of the seals.
SHORT = ("ix_erasures_signals", "ix_deletion_requests_controls", "SCAN event_seals")


def posted(client: TestClient, shop: Headers, index: int) -> uuid.UUID:
    body = {"training_set": "digits", "samples": [{"index": index}]}
    return uuid.UUID(client.post("/v1/deletion-requests", json=body, headers=shop).json()["id"])


@pytest.fixture
def waiting(database: Database, world: World, digits: uuid.UUID) -> list[uuid.UUID]:
    """Open erasures of one model, each of a sample of its own."""
    with database.write() as session:
        stored.store_samples(session, digits, 10 * WAITING, start=50)
        stored.store_requests(session, WAITING, "digits", ["digits-cnn"], ["shop"])
        session.execute(update(Erasure).values(status=ErasureStatus.OPEN))
        session.execute(update(Sample).values(split=Split.TRAIN))
        settle_all(session)
        return list(session.scalars(select(Erasure.id).order_by(Erasure.id)))


def test_thousands_of_erasures_become_one_job_in_statements_of_few_parameters(
    database: Database, settings: Settings, waiting: list[uuid.UUID]
) -> None:
    widest: list[int] = []
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        statements.append(statement)
        if not many:
            widest.append(len(parameters or ()))

    event.listen(database.engine, "before_cursor_execute", note)
    assert planning.plan(database, settings) == 1
    assert len(statements) < 60  # and not one for each
    with database.read() as session:
        job = session.scalars(select(Job).where(Job.status == JobStatus.QUEUED)).one()
        (planned,) = session.scalars(select(Event).where(Event.name == "job.planned"))
        assert planned.data["erasures"] == len(waiting)
        assert set(session.scalars(select(Erasure.id).where(Erasure.job_id == job.id))) == set(waiting)
        each = holdings.samples_of_each(session, waiting)
        wanted = sorted(set().union(*each.values()))
        parts = plans.slices(session, waiting, wanted)
    assert sorted(row for _, rows in parts for row in rows) == wanted
    assert [request for request, _ in parts] == sorted(request for request, _ in parts)
    assert max(widest) < 30


def test_erasures_that_are_forgotten_are_found_among_thousands(
    database: Database, settings: Settings, waiting: list[uuid.UUID]
) -> None:
    with database.write() as session:
        first = session.get_one(Erasure, waiting[50])
        version = session.scalars(select(ModelVersion)).one()
        known = holdings.samples_of(session, [first.id])
        again = DeletionRequest(
            **{
                column: getattr(session.get_one(DeletionRequest, first.request_id), column)
                for column in ("application_id", "training_set_id", "submitted_by", "regulation", "due_at")
            },
            fingerprint=b"",
        )
        session.add(again)
        session.flush()
        session.execute(
            text("INSERT INTO request_samples (request_id, sample_index, training_set_id) VALUES (:r, :s, :t)"),
            [
                {"r": _stored(session, again.id), "s": row, "t": _stored(session, again.training_set_id)}
                for row in known
            ],
        )
        done = Erasure(request_id=again.id, model_id=first.model_id, status=ErasureStatus.DONE, version_id=version.id)
        session.add(done)
    assert planning.plan(database, settings) == 1
    with database.read() as session:
        found = session.scalars(select(Erasure.id).where(Erasure.status == ErasureStatus.DONE)).all()
        assert set(found) == {waiting[50], done.id}
        left = session.scalars(select(Erasure.id).where(Erasure.job_id.is_not(None))).all()
        assert set(left) == {*waiting} - {waiting[50]}


def _stored(session: Any, value: uuid.UUID) -> object:
    return value.hex if session.get_bind().dialect.name == "sqlite" else value


def test_what_a_release_decides_at_this_moment_does_not_begin_again(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World
) -> None:
    world.training_set("digits", "shop")
    world.model("digits-cnn", "digits", inconclusive="wait_for_batch")
    request = posted(client, shop, 7)
    version = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.finish(str(request), "digits-cnn", version, ErasureStatus.AWAITING_RELEASE)
    with database.write() as session:
        session.execute(update(ModelVersion).where(ModelVersion.id == version.id).values(verdict="inconclusive"))
        session.execute(update(ModelVersion).values(created_at=now() - timedelta(days=20)))
        session.execute(update(DeletionRequest).values(due_at=now() + timedelta(days=1)))
    with database.write() as session:
        session.execute(select(Model.id).with_for_update()).all()  # as a release begins
        other = threading.Thread(target=planning._end_waiting_for_a_batch, args=(database,))
        other.start()
        other.join(0.5)
        session.execute(update(Erasure).values(status=ErasureStatus.DONE, finished_at=now()))
        settle_all(session)
    other.join(30)
    assert not other.is_alive()
    with database.read() as session:
        assert session.scalars(select(Erasure.status)).one() is ErasureStatus.DONE
        assert not session.scalars(select(Event).where(Event.name == "erasure.waited_long_enough")).all()


def _queue(database: Database, kind: JobKind, number: int, **more: Any) -> list[uuid.UUID]:
    rows = [{"id": new_id(), "kind": kind, "status": JobStatus.QUEUED, "seed": 0, **more} for _ in range(number)]
    if kind is JobKind.CERTIFY:
        rows = [row | {"about": "deletion_request", "about_id": new_id()} for row in rows]
    with database.write() as session:
        session.execute(insert(Job), rows)
    return [row["id"] for row in rows]


def test_hints_of_documents_do_not_keep_a_models_job_waiting(
    database: Database, settings: Settings, digits: uuid.UUID
) -> None:
    celery = celery_app(settings)
    documents = _queue(database, JobKind.CERTIFY, hinting.MOST_CERTIFY + 30)
    assert hinting.hint(database, celery) == hinting.MOST_CERTIFY
    with database.read() as session:
        model = session.scalars(select(Model.id)).one()
    (unlearn,) = _queue(database, JobKind.UNLEARN, 1, model_id=model)
    assert hinting._due(database) == [unlearn]  # the documents' hints are on their way
    with database.write() as session:
        first = Job.id.in_(documents[:20])
        session.execute(update(Job).where(first).values(status=JobStatus.SUCCEEDED))
    assert hinting._due(database) == [unlearn, *documents[hinting.MOST_CERTIFY : hinting.MOST_CERTIFY + 20]]
    assert hinting.hint(database, celery) == 21
    with database.write() as session:
        session.execute(update(Job).values(hinted_at=current_time(session) - timedelta(seconds=61)))
    again = hinting._due(database)
    assert again[0] == unlearn
    assert len(again) == 1 + hinting.MOST_CERTIFY


@pytest.mark.parametrize("hints", [1, 2, 3, 4, 5, 9])
def test_a_hint_is_due_again_exactly_when_its_wait_is_over(hints: int, database: Database, digits: uuid.UUID) -> None:
    with database.read() as session:
        model = session.scalars(select(Model.id)).one()
    (job,) = _queue(database, JobKind.UNLEARN, 1, model_id=model, hints=hints)

    def hinted(ago: timedelta) -> None:
        with database.write() as session:
            session.execute(update(Job).where(Job.id == job).values(hinted_at=current_time(session) - ago))

    hinted(hinting.wait_after(hints) - timedelta(seconds=20))
    assert hinting._due(database) == []
    hinted(hinting.wait_after(hints) + timedelta(seconds=1))
    assert hinting._due(database) == [job]


def test_a_round_seals_thousands_and_an_event_that_was_committed_late_too(
    database: Database, settings: Settings
) -> None:
    with database.write() as session:
        for number in range(sealing.AT_ONCE + 20):
            record_event(session, "x", "test", number, "test")
    assert sealing.seal_events(database, look_back=sealing.RECENT) == sealing.AT_ONCE + 20
    with database.write() as session:
        session.add(
            Event(at=now() - timedelta(minutes=20), name="late", record="test", record_id="0", actor="test", data={})
        )
    assert sealing.seal_events(database, look_back=sealing.RECENT) == 0
    assert sealing.seal_events(database) == 0
    Dispatcher(database, settings).round()  # which looks at the whole log at first, and then every hour
    with database.read() as session:
        late = select(EventSeal).join(Event, Event.id == EventSeal.event_id).where(Event.name == "late")
        assert session.scalars(late).one_or_none() is not None


def test_folders_of_long_ago_are_left_to_the_rare_look_at_everything(database: Database, settings: Settings) -> None:
    old, new = (settings.data_dir / "store" / name / "job.1" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    long_ago = (now() - timedelta(days=30)).timestamp()
    os.utime(old.parent, (long_ago, long_ago))
    assert sweeping.orphaned_files(database, settings, recent=True) == 1
    assert old.exists()
    assert not new.exists()
    assert sweeping.orphaned_files(database, settings) == 1
    assert not old.exists()


@pytest.fixture
def empty_postgres(postgres_database: str) -> str:
    """A database of its own: what others left behind in a reused one changes the planner's mind."""
    return postgres_database


def test_no_round_reads_what_is_done_or_only_waits(database: Database, settings: Settings, digits: uuid.UUID) -> None:
    with database.write() as session:
        stored.store_requests(session, STORED, "digits", ["digits-cnn"], ["shop"])
        ended = DeletionRequest.status.in_([RequestStatus.COMPLETED, RequestStatus.REJECTED])
        gone = {"samples_erased_at": now(), "certified_at": now()}
        session.execute(update(DeletionRequest).where(ended).values(**gone))
        session.execute(update(DeletionRequest).where(~ended).values(status=RequestStatus.QUEUED))
        session.execute(update(Erasure).where(Erasure.status == ErasureStatus.DONE).values(signals_erased_at=now()))
        stored.store_events(session, STORED, new_id())
    _queue(database, JobKind.UNLEARN, 1, model_id=_only_model(database))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    with reads(database) as sent:
        planning.plan(database, settings, gathering=False)
        hinting._due(database)
        erasing.erase_signals(database, settings)
        erasing.erase_controls(database, settings)
        erasing.erase_samples(database, settings)
        certifying.plan_documents(database, settings)
        sealing.seal_events(database, look_back=timedelta(0))
    assert [found for statement in sent for found in _many_read(database, *statement)] == []


def _only_model(database: Database) -> uuid.UUID:
    with database.read() as session:
        return session.scalars(select(Model.id)).one()


def _many_read(database: Database, statement: str, parameters: Any) -> list[str]:
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "sqlite":
            rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
            whole = [f"SCAN {table}" for table in BIG if table not in ("jobs", "audit_reports")]
            by_status = "deletion_requests USING INDEX ix_deletion_requests_status "
            return [
                row[3]
                for row in rows
                if by_status in row[3] or (row[3].startswith(tuple(whole)) and not row[3].endswith(SHORT))
            ]
        plan = connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters).scalar_one()
        return _read_by(plan[0]["Plan"])


def _read_by(node: dict[str, Any]) -> list[str]:
    read = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    found = [f"{node['Node Type']} of {node['Relation Name']}: {read}"] if "Relation Name" in node else []
    below = [each for child in node.get("Plans", []) for each in _read_by(child)]
    return (found if read > MOST_READ else []) + below
