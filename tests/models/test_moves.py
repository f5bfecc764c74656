"""Every table of moves, in the database: what it lists moves, what it does not list stays."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from enum import StrEnum
from itertools import product
from typing import Any

import pytest
from sqlalchemy.orm import Session

from models.base import now
from models.moves import ForbiddenMove, advance
from models.records import (
    Application,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    TrainingSet,
    TrainingSetStatus,
    VersionStatus,
)
from models.session import Database

# Written out by hand from the design, not read from the records: a changed table must fail here.
ALLOWED: dict[type[Any], set[tuple[StrEnum, StrEnum]]] = {
    TrainingSet: {
        (TrainingSetStatus.REGISTERING, TrainingSetStatus.READY),
        (TrainingSetStatus.REGISTERING, TrainingSetStatus.FAILED),
        (TrainingSetStatus.FAILED, TrainingSetStatus.REGISTERING),
    },
    Model: {
        (ModelStatus.TRAINING, ModelStatus.READY),
        (ModelStatus.TRAINING, ModelStatus.FAILED),
        (ModelStatus.FAILED, ModelStatus.TRAINING),
        (ModelStatus.READY, ModelStatus.WITHDRAWN),
        (ModelStatus.READY, ModelStatus.RETIRED),
        (ModelStatus.WITHDRAWN, ModelStatus.READY),
        (ModelStatus.WITHDRAWN, ModelStatus.RETIRED),
    },
    ModelVersion: {
        (VersionStatus.CANDIDATE, VersionStatus.RELEASED),
        (VersionStatus.CANDIDATE, VersionStatus.QUARANTINED),
        (VersionStatus.QUARANTINED, VersionStatus.RELEASED),
        (VersionStatus.QUARANTINED, VersionStatus.DESTROYED),
        (VersionStatus.RELEASED, VersionStatus.SUPERSEDED),
        (VersionStatus.RELEASED, VersionStatus.QUARANTINED),
        (VersionStatus.SUPERSEDED, VersionStatus.DESTROYED),
    },
    Erasure: {
        (ErasureStatus.OPEN, ErasureStatus.RUNNING),
        (ErasureStatus.OPEN, ErasureStatus.ON_HOLD),
        (ErasureStatus.OPEN, ErasureStatus.DONE),
        (ErasureStatus.OPEN, ErasureStatus.CANCELLED),
        (ErasureStatus.OPEN, ErasureStatus.NOT_APPLICABLE),
        (ErasureStatus.RUNNING, ErasureStatus.DONE),
        (ErasureStatus.RUNNING, ErasureStatus.OPEN),
        (ErasureStatus.RUNNING, ErasureStatus.AWAITING_RELEASE),
        (ErasureStatus.RUNNING, ErasureStatus.FAILED),
        (ErasureStatus.AWAITING_RELEASE, ErasureStatus.DONE),
        (ErasureStatus.AWAITING_RELEASE, ErasureStatus.OPEN),
        (ErasureStatus.AWAITING_RELEASE, ErasureStatus.NOT_APPLICABLE),
        (ErasureStatus.FAILED, ErasureStatus.OPEN),
        (ErasureStatus.FAILED, ErasureStatus.NOT_APPLICABLE),
        (ErasureStatus.ON_HOLD, ErasureStatus.OPEN),
        (ErasureStatus.ON_HOLD, ErasureStatus.CANCELLED),
        (ErasureStatus.ON_HOLD, ErasureStatus.NOT_APPLICABLE),
    },
    Job: {
        (JobStatus.QUEUED, JobStatus.RUNNING),
        (JobStatus.QUEUED, JobStatus.CANCELLED),
        (JobStatus.RUNNING, JobStatus.QUEUED),
        (JobStatus.RUNNING, JobStatus.SUCCEEDED),
        (JobStatus.RUNNING, JobStatus.FAILED),
        (JobStatus.RUNNING, JobStatus.CANCELLED),
    },
}
STATES: dict[type[Any], type[StrEnum]] = {
    TrainingSet: TrainingSetStatus,
    Model: ModelStatus,
    ModelVersion: VersionStatus,
    Erasure: ErasureStatus,
    Job: JobStatus,
}


def _training_set(session: Session, status: Any = TrainingSetStatus.READY) -> TrainingSet:
    made = TrainingSet(name=uuid.uuid4().hex, status=status, source={}, controls={})
    session.add(made)
    session.flush()
    return made


def _model(session: Session, status: Any = ModelStatus.READY) -> Model:
    made = Model(
        name=uuid.uuid4().hex,
        status=status,
        training_set_id=_training_set(session).id,
        network={},
        recipe={},
        policy={},
    )
    session.add(made)
    session.flush()
    return made


def _job(session: Session, status: Any = JobStatus.SUCCEEDED) -> Job:
    made = Job(kind=JobKind.TRAIN, status=status, model_id=_model(session).id, seed=1)
    session.add(made)
    session.flush()
    return made


def _version(session: Session, status: Any) -> ModelVersion:
    job = _job(session)
    made = ModelVersion(
        model_id=job.model_id, number=1, job_id=job.id, status=status, path="x", sha256="0" * 64, size=1
    )
    session.add(made)
    session.flush()
    return made


def _erasure(session: Session, status: Any) -> Erasure:
    application = Application(name=uuid.uuid4().hex)
    session.add(application)
    session.flush()
    model = _model(session)
    request = DeletionRequest(
        application_id=application.id,
        training_set_id=model.training_set_id,
        submitted_by="key",
        regulation="GDPR",
        due_at=now(),
        fingerprint=b"",
    )
    session.add(request)
    session.flush()
    made = Erasure(request_id=request.id, model_id=model.id, status=status)
    session.add(made)
    session.flush()
    return made


MAKE: dict[type[Any], Callable[[Session, Any], Any]] = {
    TrainingSet: _training_set,
    Model: _model,
    ModelVersion: _version,
    Erasure: _erasure,
    Job: _job,
}


@pytest.mark.parametrize("record", ALLOWED, ids=lambda record: record.__name__)
def test_exactly_the_listed_moves_change_a_row(record: type[Any], database: Database) -> None:
    for start, target in product(STATES[record], repeat=2):
        with database.write() as session:
            row = MAKE[record](session, start)
            try:
                moved = advance(session, record, record.id == row.id, target)
            except ForbiddenMove:
                moved = 0
            session.refresh(row)
            assert (moved == 1) == ((start, target) in ALLOWED[record]), f"{start.value} -> {target.value}"
            assert row.status == (target if moved else start)


@pytest.mark.parametrize("record", ALLOWED, ids=lambda record: record.__name__)
def test_every_state_has_its_line_in_the_table(record: type[Any]) -> None:
    assert set(record.MOVES) == set(STATES[record])


@pytest.mark.parametrize("terminal", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_ended_never_moves_again(terminal: JobStatus) -> None:
    assert Job.MOVES[terminal] == frozenset()


def test_a_caller_cannot_ask_for_a_start_that_the_table_does_not_list(database: Database) -> None:
    with database.write() as session, pytest.raises(ForbiddenMove, match="succeeded may not become running"):
        advance(session, Job, Job.token == 0, JobStatus.RUNNING, only_from=[JobStatus.SUCCEEDED])


def test_a_move_sets_its_values_with_it(database: Database) -> None:
    with database.write() as session:
        job = _job(session, JobStatus.QUEUED)
        assert advance(session, Job, Job.id == job.id, JobStatus.RUNNING, worker="somebody") == 1
        session.refresh(job)
        assert (job.status, job.worker) == (JobStatus.RUNNING, "somebody")
