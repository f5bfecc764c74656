"""A request's status follows from its erasures and from what people decided."""

from __future__ import annotations

import threading
import uuid

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.base import now
from models.moves import advance
from models.records import (
    Application,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Model,
    RequestStatus,
    TrainingSet,
    unsettle,
)
from models.session import Database

OPEN, RUNNING, AWAITING = ErasureStatus.OPEN, ErasureStatus.RUNNING, ErasureStatus.AWAITING_RELEASE
DONE, FAILED, HOLD = ErasureStatus.DONE, ErasureStatus.FAILED, ErasureStatus.ON_HOLD
CANCELLED, SPARED = ErasureStatus.CANCELLED, ErasureStatus.NOT_APPLICABLE


def _request(session: Session, erasures: list[ErasureStatus], **columns: object) -> DeletionRequest:
    application = Application(name=uuid.uuid4().hex)
    training_set = TrainingSet(name=uuid.uuid4().hex, source={}, controls={})
    session.add_all([application, training_set])
    session.flush()
    request = DeletionRequest(
        application_id=application.id,
        training_set_id=training_set.id,
        submitted_by="key",
        regulation="GDPR",
        due_at=now(),
        fingerprint=b"",
        **columns,
    )
    session.add(request)
    session.flush()
    for status in erasures:
        model = Model(name=uuid.uuid4().hex, training_set_id=training_set.id, network={}, recipe={}, policy={})
        session.add(model)
        session.flush()
        session.add(Erasure(request_id=request.id, model_id=model.id, status=status))
    session.flush()
    return request


def _status(database: Database, erasures: list[ErasureStatus], **columns: object) -> str:
    with database.write() as session:
        request = _request(session, erasures, **columns).id
    with database.read() as session:
        return session.get_one(DeletionRequest, request).status.value


@pytest.mark.parametrize(
    ("erasures", "expected"),
    [
        ([OPEN], "queued"),
        ([RUNNING], "running"),
        ([AWAITING], "awaiting_release"),
        ([DONE], "completed"),
        ([FAILED], "failed"),
        ([HOLD], "on_hold"),
        ([CANCELLED], "cancelled"),
        ([SPARED], "completed"),
        ([OPEN, RUNNING], "running"),
        ([OPEN, DONE], "queued"),
        ([OPEN, FAILED], "queued"),
        ([AWAITING, OPEN], "queued"),
        ([AWAITING, DONE], "awaiting_release"),
        ([AWAITING, FAILED], "awaiting_release"),
        ([HOLD, RUNNING], "on_hold"),
        ([HOLD, DONE], "on_hold"),
        ([DONE, FAILED], "partially_completed"),
        ([DONE, CANCELLED], "partially_completed"),
        ([SPARED, FAILED], "partially_completed"),
        ([FAILED, CANCELLED], "failed"),
        ([DONE, SPARED], "completed"),
        ([], "completed"),
    ],
)
def test_the_status_follows_from_the_erasures(erasures: list[ErasureStatus], expected: str, database: Database) -> None:
    assert _status(database, erasures) == expected


def test_a_large_request_waits_for_its_approval(database: Database) -> None:
    assert _status(database, [OPEN], approval_required=True) == "awaiting_approval"


def test_an_approved_request_is_queued(database: Database) -> None:
    assert _status(database, [OPEN], approval_required=True, approved_at=now()) == "queued"


@pytest.mark.parametrize("erasures", [[OPEN], [DONE], []])
def test_a_rejection_outranks_everything(erasures: list[ErasureStatus], database: Database) -> None:
    assert _status(database, erasures, rejected_at=now()) == "rejected"


def test_a_request_for_controls_alone_is_queued_until_they_are_erased(database: Database) -> None:
    assert _status(database, [], has_controls=True) == "queued"


def test_a_request_for_controls_alone_is_completed_once_they_are_erased(database: Database) -> None:
    assert _status(database, [], has_controls=True, controls_erased_at=now()) == "completed"


def test_controls_keep_a_request_open_after_its_models_are_done(database: Database) -> None:
    assert _status(database, [DONE], has_controls=True) == "queued"


def test_controls_wait_while_a_request_for_them_is_held(database: Database) -> None:
    assert _status(database, [], has_controls=True, held_at=now()) == "on_hold"


def test_controls_that_were_spared_by_a_cancellation_are_no_completion(database: Database) -> None:
    assert _status(database, [], has_controls=True, cancelled_at=now()) == "cancelled"
    assert _status(database, [DONE], has_controls=True, cancelled_at=now()) == "partially_completed"


def test_a_cancellation_after_the_controls_went_is_in_part_a_completion(database: Database) -> None:
    gone = {"has_controls": True, "controls_erased_at": now(), "cancelled_at": now()}
    assert _status(database, [CANCELLED], **gone) == "partially_completed"


def _changes(database: Database, request: uuid.UUID) -> list[tuple[str, str]]:
    with database.read() as session:
        found = session.scalars(
            select(Event).where(Event.record_id == str(request), Event.name == "deletion_request.status_changed")
        )
        return [(event.data["was"], event.data["now"]) for event in sorted(found, key=lambda event: event.id)]


def test_a_moved_erasure_takes_its_request_along_and_the_log_says_so(database: Database) -> None:
    with database.write() as session:
        request = _request(session, [OPEN]).id
    for target in (RUNNING, DONE):
        with database.write() as session:
            advance(session, Erasure, Erasure.request_id == request, target)
    with database.read() as session:
        assert session.get_one(DeletionRequest, request).status is RequestStatus.COMPLETED
    assert _changes(database, request) == [("queued", "running"), ("running", "completed")]


def test_a_transaction_that_is_undone_leaves_the_status(database: Database) -> None:
    with database.write() as session:
        request = _request(session, [OPEN]).id
    with pytest.raises(RuntimeError), database.write() as session:
        advance(session, Erasure, Erasure.request_id == request, RUNNING)
        raise RuntimeError
    with database.read() as session:
        assert session.get_one(DeletionRequest, request).status is RequestStatus.QUEUED
    assert _changes(database, request) == []


def test_a_statement_that_writes_past_the_objects_says_which_request_it_touched(database: Database) -> None:
    with database.write() as session:
        request = _request(session, [], has_controls=True).id
    with database.write() as session:
        session.execute(update(DeletionRequest).values(controls_erased_at=now()))
        unsettle(session, request)
    with database.read() as session:
        assert session.get_one(DeletionRequest, request).status is RequestStatus.COMPLETED


def test_two_models_that_finish_one_request_at_once_complete_it(database: Database) -> None:
    with database.write() as session:
        request = _request(session, [RUNNING, RUNNING]).id
        erasures = list(session.scalars(select(Erasure.id).where(Erasure.request_id == request)))
    together = threading.Barrier(2, timeout=5)

    def finish(erasure: uuid.UUID) -> None:
        with database.write() as session:
            advance(session, Erasure, Erasure.id == erasure, DONE)
            try:  # on SQLite the second one waits for the first to commit and never gets here in time
                together.wait(0.5 if database.engine.dialect.name == "sqlite" else None)
            except threading.BrokenBarrierError:
                pass

    threads = [threading.Thread(target=finish, args=(erasure,)) for erasure in erasures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.get_one(DeletionRequest, request).status is RequestStatus.COMPLETED
