"""The oracle itself: it says nothing of a service where all is well, and names whatever is broken by hand."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session

from models.base import now
from models.records import (
    AuditReport,
    Cursor,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    EventSeal,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelVersion,
    RequestStatus,
    TrainingSet,
    VersionStatus,
    WebhookAttempt,
    WebhookDelivery,
    record_event,
)
from models.session import Database
from models.settings import Settings
from tests.faults.conftest import Pair
from tests.faults.scene import ACCEPTED
from tests.oracle import violations

Break = Callable[[Session, Settings], Any]


def unlearned(session: Session) -> Job:
    return session.scalars(select(Job).where(Job.kind == JobKind.UNLEARN)).one()


def served(session: Session) -> ModelVersion:
    return session.scalars(select(ModelVersion).where(ModelVersion.status == VersionStatus.RELEASED)).one()


def another_job(session: Session, kind: JobKind, status: JobStatus, **values: Any) -> None:
    model = session.scalars(select(Model)).one()
    session.add(
        Job(kind=kind, status=status, model_id=model.id, training_set_id=model.training_set_id, seed=1, **values)
    )


def expire(session: Session, _: Settings) -> None:
    another_job(session, JobKind.AUDIT, JobStatus.RUNNING, lease_expires_at=now().replace(year=2001), attempts=1)


def unlearn_twice(session: Session, _: Settings) -> None:
    session.execute(text("DROP INDEX uq_jobs_one_live_unlearn_a_model"))
    for _number in range(2):
        another_job(session, JobKind.UNLEARN, JobStatus.QUEUED)


def rewrite_the_log(session: Session, _: Settings) -> None:
    for name in session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
        session.execute(text(f'DROP TRIGGER "{name}"'))
    session.execute(update(EventSeal).where(EventSeal.position == 3).values(hash="0" * 64))


def over(path: Callable[[Session], str], at: int) -> Break:
    """Write one byte into a file that a row names."""

    def write(session: Session, settings: Settings) -> None:
        with (settings.data_dir / path(session)).open("r+b") as file:
            file.seek(at)
            file.write(b"\x99")

    return write


def bring_back(session: Session, settings: Settings) -> None:
    gone = session.scalars(select(ModelVersion).where(ModelVersion.status == VersionStatus.DESTROYED)).one()
    (settings.data_dir / gone.path).write_bytes(b"checkpoint")


def pixels(session: Session) -> str:
    return f"{session.scalars(select(TrainingSet.folder)).one()}/pixels.u8"


def signals(session: Session) -> str:
    return f"{session.scalars(select(Model.folder)).one()}/phi.f32"


def report(session: Session) -> AuditReport:
    return session.scalars(select(AuditReport)).one()


def leave(name: str) -> Break:
    def make(_: Session, settings: Settings) -> None:
        (settings.data_dir / name).mkdir(parents=True)
        (settings.data_dir / name / "file").write_bytes(b"left")

    return make


CONTROLS, IMAGE, SIGNAL = 16, 64, 16  # of the replayed set: rows 16 and up are train/00000 and so on; bytes a row
ERASED = CONTROLS + 1  # train/00001
BREAKS: dict[str, tuple[Break, str]] = {
    "an erasure that nobody plans": (
        lambda session, _: session.execute(update(Erasure).values(status=ErasureStatus.OPEN)),
        "nobody plans it again",
    ),
    "an erasure without a running job": (
        lambda session, _: session.execute(update(Erasure).values(status=ErasureStatus.RUNNING)),
        "running in a job that is not",
    ),
    "an erasure without evidence": (
        lambda session, _: session.execute(update(Erasure).values(version_id=None)),
        "without a version as evidence",
    ),
    "a status that is not what follows": (
        lambda session, _: session.execute(update(DeletionRequest).values(status=RequestStatus.QUEUED)),
        "but its erasures say completed",
    ),
    "a request with nothing left to do": (
        lambda session, _: session.execute(update(DeletionRequest).values(status=RequestStatus.QUEUED)),
        "nothing of it is left to do",
    ),
    "a lease that ran out": (expire, "although its lease expired"),
    "two live jobs of a model": (unlearn_twice, "2 live unlearn jobs"),
    "a job without its version": (
        lambda session, _: another_job(session, JobKind.TRAIN, JobStatus.SUCCEEDED, finished_at=now()),
        "its versions do not agree",
    ),
    "a job without its report": (lambda session, _: session.delete(report(session)), "its reports do not agree"),
    "a number left out": (lambda session, _: setattr(served(session), "number", 5), "has versions [1, 5]"),
    "another version served": (
        lambda session, _: session.execute(update(Model).values(released_number=1)),
        "says 1 and serves [2]",
    ),
    "an event that the row does not bear out": (
        lambda session, _: record_event(session, "job.failed", "job", unlearned(session).id, "worker:1"),
        "the log has it failed 1 times",
    ),
    "a checkpoint that was changed": (over(lambda session: served(session).path, 200), "is not what its row says"),
    "a checkpoint that came back": (bring_back, "is destroyed, and"),
    "a report that is gone": (
        lambda session, settings: (settings.data_dir / report(session).pdf_path).unlink(),
        "report.pdf is named by a row and not there",
    ),
    "pixels that were changed": (over(pixels, IMAGE * (ERASED + 5)), "pixels of live sample 22 of digits have changed"),
    "pixels that came back": (over(pixels, IMAGE * ERASED), "sample 17 of digits is erased, and its pixels are there"),
    "signals that came back": (over(signals, SIGNAL * ERASED), "signals of erased sample 17"),
    "a staging folder": (leave("staging/0.1"), "staging/0.1 is of no running attempt"),
    "files that no row names": (leave("store/owner/0.1"), "no row names store/owner/0.1/file"),
    "an event that nobody sealed": (
        lambda session, _: record_event(session, "told", "test", "1", "nobody"),
        "1 events are not sealed",
    ),
    "a rewritten log": (rewrite_the_log, "the log is broken at 3"),
    "a log that was not told": (
        lambda session, _: session.execute(update(Cursor).values(position=0)),
        "webhooks were told of the log up to 0",
    ),
    "an answer that nobody gave": (
        lambda session, _: session.execute(delete(WebhookAttempt)),
        "without an attempt that was answered",
    ),
    "a message that is lost": (
        lambda session, _: (
            session.execute(
                text("DELETE FROM webhook_attempts WHERE delivery_number = 3"),
            )
            and session.execute(delete(WebhookDelivery).where(WebhookDelivery.number == 3))
        ),
        "has no delivery for 1 messages",
    ),
}


@pytest.fixture
def settings(embedded: Pair) -> Settings:
    return embedded.at("done")


def accepted(settings: Settings) -> list[uuid.UUID]:
    return [uuid.UUID(line) for line in (settings.data_dir / ACCEPTED).read_text().split()]


def test_nothing_is_said_where_all_is_well(database: Database, settings: Settings) -> None:
    assert len(accepted(settings)) == 2
    assert violations(database, settings, accepted(settings)) == []


def test_a_request_that_was_accepted_and_is_not_there_is_named(database: Database, settings: Settings) -> None:
    lost = uuid.uuid4()
    assert violations(database, settings, [*accepted(settings), lost]) == [f"request {lost} was accepted and is gone"]


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_broken_by_hand_is_named(database: Database, settings: Settings, broken: str) -> None:
    breaks, named = BREAKS[broken]
    with database.engine.begin() as connection, Session(connection) as session:  # past the rules of `write`
        breaks(session, settings)
        session.flush()
        session.info.clear()  # nor does a status follow by itself
    found = violations(database, settings, accepted(settings))
    assert any(named in each for each in found), found
