"""A request's status follows from its erasures and from what people decided."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.base import now
from models.records import Application, DeletionRequest, Erasure, ErasureStatus, Model, TrainingSet
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
        request = _request(session, erasures, **columns)
        return str(session.scalar(select(DeletionRequest.status).where(DeletionRequest.id == request.id)))


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
