"""A batch whose requests are cancelled, held or whose model is retired while it runs: whoever commits first has decided."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from models import lifecycle
from models.base import now
from models.records import (
    Certificate,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    RequestStatus,
    VersionStatus,
)
from models.session import Database
from models.settings import Settings
from service import decisions, job_decisions
from service.duties import planning
from service.errors import Conflict
from service.releases import quarantine_version, release_version
from service.retiring import retire
from tests.worker.test_reporting_batch import OPERATOR, Batch
from worker import finish


@pytest.fixture
def batch(database: Database, settings: Settings, tmp_path: Path) -> Batch:
    return Batch(database, settings, tmp_path, "retrained")


def erasures(batch: Batch) -> list[ErasureStatus]:
    with batch.database.read() as session:
        return list(session.scalars(select(Erasure.status).order_by(Erasure.request_id)))


def job(batch: Batch, kind: JobKind = JobKind.UNLEARN) -> Job:
    with batch.database.read() as session:
        return session.scalars(select(Job).where(Job.kind == kind).order_by(Job.id.desc()).limit(1)).one()


def numbers(batch: Batch) -> list[int]:
    with batch.database.read() as session:
        of_model = ModelVersion.model_id == batch.models[0]
        return list(session.scalars(select(ModelVersion.number).where(of_model).order_by(ModelVersion.number)))


def decide(batch: Batch, decision: Any, number: int, reason: str | None) -> None:
    with batch.database.write() as session:
        request = session.get_one(DeletionRequest, batch.requests[number])
        decision(session, request, OPERATOR, reason)


def test_a_request_that_is_cancelled_before_the_commit_is_not_in_what_is_committed(batch: Batch) -> None:
    taken, folder = batch.begin()
    decide(batch, decisions.cancel, 0, "the person withdrew it")
    assert erasures(batch) == [ErasureStatus.CANCELLED, ErasureStatus.OPEN, ErasureStatus.OPEN]
    assert (job(batch).status, job(batch).attempts) == (JobStatus.QUEUED, 0)
    batch.end(taken, folder)
    assert numbers(batch) == [1]
    assert erasures(batch) == [ErasureStatus.CANCELLED, ErasureStatus.OPEN, ErasureStatus.OPEN]
    assert job(batch).status is JobStatus.QUEUED
    assert list((batch.settings.data_dir / "store").glob(f"*/{taken.job.id}.*")) == []
    with batch.database.read() as session:
        attached = session.scalars(select(Erasure.request_id).where(Erasure.job_id == taken.job.id)).all()
    assert set(attached) == set(batch.requests[1:])


def test_a_cancellation_and_a_commit_at_the_same_moment_agree_on_who_was_first(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, folder = batch.begin()
    together, publish = threading.Barrier(2), finish._publish
    refused: list[str] = []

    def published(*arguments: Any) -> None:
        publish(*arguments)
        together.wait(60)

    def cancels() -> None:
        together.wait(60)
        try:
            decide(batch, decisions.cancel, 0, "withdrawn")
        except Conflict as conflict:
            refused.append(conflict.detail)

    monkeypatch.setattr(finish, "_publish", published)
    person = threading.Thread(target=cancels)
    person.start()
    batch.end(taken, folder)
    person.join(60)
    assert not person.is_alive()
    if refused:
        assert (erasures(batch), numbers(batch)) == ([ErasureStatus.DONE] * 3, [1, 2])
        assert job(batch).status is JobStatus.SUCCEEDED
    else:
        assert erasures(batch) == [ErasureStatus.CANCELLED, ErasureStatus.OPEN, ErasureStatus.OPEN]
        assert (numbers(batch), job(batch).status) == ([1], JobStatus.QUEUED)


@pytest.mark.parametrize("decision", [decisions.cancel, decisions.hold, decisions.reject])
def test_a_job_that_commits_first_leaves_nothing_to_decide(batch: Batch, decision: Any) -> None:
    batch.unlearn()
    with pytest.raises(Conflict):
        decide(batch, decision, 0, "too late")
    assert erasures(batch) == [ErasureStatus.DONE] * 3
    assert numbers(batch) == [1, 2]


def test_a_job_that_was_claimed_since_the_look_at_it_is_stopped_all_the_same(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.begin()
    look, looks = decisions._lock_jobs, iter([False])

    def too_early(*arguments: Any) -> list[Job]:
        return look(*arguments) if next(looks, True) else []

    monkeypatch.setattr(decisions, "_lock_jobs", too_early)
    decide(batch, decisions.hold, 0, "identity is being checked")
    assert erasures(batch) == [ErasureStatus.ON_HOLD, ErasureStatus.OPEN, ErasureStatus.OPEN]
    assert job(batch).status is JobStatus.QUEUED


def test_a_job_whose_last_request_is_held_is_cancelled_and_resuming_makes_a_new_one(batch: Batch) -> None:
    taken, folder = batch.begin()
    for number in range(3):
        decide(batch, decisions.hold, number, "identity is being checked")
    assert erasures(batch) == [ErasureStatus.ON_HOLD] * 3
    assert job(batch).status is JobStatus.CANCELLED
    batch.end(taken, folder)
    assert numbers(batch) == [1]
    for number in range(3):
        decide(batch, decisions.resume, number, None)
    batch.unlearn()
    assert erasures(batch) == [ErasureStatus.DONE] * 3


def test_a_job_that_somebody_asked_to_cancel_does_not_commit(batch: Batch) -> None:
    taken, folder = batch.begin()
    with batch.database.write() as session:
        job_decisions.cancel(session, session.get_one(Job, taken.job.id), OPERATOR, "the wrong policy")
    batch.end(taken, folder)
    assert job(batch).status is JobStatus.CANCELLED
    assert erasures(batch) == [ErasureStatus.ON_HOLD] * 3
    assert numbers(batch) == [1]


def test_a_committed_job_leaves_what_estimates_need(batch: Batch) -> None:
    batch.unlearn()
    before, after = (batch.outcome[model]["utility"]["controls"] for model in ("before", "after"))
    assert job(batch).measured == {
        "forget": sum(batch.sizes),
        "accuracy_before": before,
        "accuracy_after": after,
    }
    assert 0 < after <= 1


def test_a_model_retired_while_its_job_runs_gets_no_version_and_its_requests_a_certificate_that_says_so(
    batch: Batch, tmp_path: Path
) -> None:
    taken, folder = batch.begin()
    store = batch.settings.data_dir / "store/digits-cnn"
    with batch.database.write() as session:
        retire(session, session.get_one(Model, batch.models[0]), OPERATOR, "replaced by another product")
    batch.end(taken, folder)
    assert (job(batch).status, numbers(batch)) == (JobStatus.CANCELLED, [1])
    assert erasures(batch) == [ErasureStatus.NOT_APPLICABLE] * 3
    assert batch.certificates() == []
    batch.round()
    assert [path.name for path in store.iterdir()] == []
    made = batch.certificates()
    assert sorted(row.request_id for row, _ in made) == sorted(batch.requests)
    for row, document in made:
        (erasure,) = document["erasures"]
        assert (erasure["status"], erasure["reason"]) == ("not_applicable", "replaced by another product")
        gone = {line["what"]: line for line in document["destroyed"]}
        assert set(gone) == {"checkpoint", "reference signals", "pixels and names"}
        assert all(line["verified"] for line in gone.values())
        checkpoint = hashlib.sha256(b"digits-cnn").hexdigest()
        assert gone["checkpoint"]["sha256"] == checkpoint
        assert row.outcome == "completed"
    with batch.database.read() as session:
        pixels = (batch.settings.data_dir / "store/set/pixels.u8").read_bytes()
        assert session.get_one(Model, batch.models[0]).folder is None
    for index in batch.forget:
        assert pixels[64 * index : 64 * (index + 1)] == bytes(64)


def test_a_rejected_request_is_told_why_and_a_cancelled_one_gets_no_certificate(batch: Batch) -> None:
    decide(batch, decisions.reject, 0, "Article 17(3)(e): a legal claim is pending")
    decide(batch, decisions.cancel, 1, "withdrawn")
    decide(batch, decisions.hold, 2, "identity is being checked")
    batch.round()
    ((row, document),) = batch.certificates()
    assert (row.request_id, row.outcome) == (batch.requests[0], "rejected")
    (line,) = [line for line in document["request"]["history"] if line["event"] == "deletion_request.rejected"]
    assert line["data"]["reason"] == "Article 17(3)(e): a legal claim is pending"
    assert line["actor"] == OPERATOR.actor
    assert document["request"]["rejected_at"] is not None
    with batch.database.read() as session:
        states = session.scalars(select(DeletionRequest.status).order_by(DeletionRequest.id)).all()
        told = [json.dumps(event.data) for event in session.scalars(select(Event))]
    assert states == [RequestStatus.REJECTED, RequestStatus.CANCELLED, RequestStatus.ON_HOLD]
    assert "person-" not in " ".join(told)


def test_a_failed_batch_is_retried_with_another_seed_and_finishes(batch: Batch) -> None:
    taken, _ = batch.begin()
    with batch.database.write() as session:
        assert lifecycle.fail(session, taken.job, taken.token, actor="gpu-1", code="diverged", detail="loss is NaN")
    with batch.database.write() as session:
        failed = session.get_one(Job, taken.job.id)
        made = job_decisions.retry(session, batch.settings, OPERATOR, failed)
        assert made.seed != failed.seed
    assert planning.plan(batch.database, batch.settings) == 0
    assert erasures(batch) == [ErasureStatus.OPEN] * 3
    with batch.database.read() as session:
        assert set(session.scalars(select(Erasure.job_id))) == {made.id}
        assert session.scalars(select(Certificate)).all() == []
        assert session.get_one(DeletionRequest, batch.requests[0]).due_at > now()
    assert isinstance(made.retry_of_id, uuid.UUID)


@pytest.mark.fault(17)
def test_a_job_whose_base_is_no_longer_served_starts_again_from_what_is(batch: Batch) -> None:
    # Kept back, and never taught what a request asks for that waits beside the batch.
    kept_back = version(batch, VersionStatus.QUARANTINED, never_trained=batch.forget)
    taken, folder = batch.begin()
    with batch.database.write() as session:
        model = session.get_one(Model, batch.models[0], with_for_update={"of": Model})
        release_version(session, model, session.get_one(ModelVersion, kept_back), OPERATOR, "it is good enough")
    batch.end(taken, folder)
    assert (numbers(batch), erasures(batch)) == ([1, 2], [ErasureStatus.OPEN] * 3)
    assert (job(batch).status, job(batch).attempts, job(batch).error) == (JobStatus.QUEUED, 0, None)
    assert list((batch.settings.data_dir / "store").glob(f"*/{taken.job.id}.*")) == []
    with batch.database.read() as session:
        served = session.scalars(select(ModelVersion).where(ModelVersion.status == VersionStatus.RELEASED)).all()
        assert kept_back in {each.id for each in served}


def test_a_model_that_was_withdrawn_while_its_job_ran_is_not_served_again_by_it(batch: Batch) -> None:
    taken, folder = batch.begin()
    with batch.database.write() as session:
        model = session.get_one(Model, batch.models[0], with_for_update={"of": Model})
        first = session.scalars(select(ModelVersion).where(ModelVersion.model_id == model.id)).one()
        quarantine_version(session, model, first, OPERATOR, "something is wrong with it")
    batch.end(taken, folder)
    assert (numbers(batch), job(batch).status) == ([1], JobStatus.QUEUED)
    with batch.database.read() as session:
        assert session.get_one(Model, batch.models[0]).status is ModelStatus.WITHDRAWN


def version(batch: Batch, status: VersionStatus, **values: Any) -> uuid.UUID:
    """Another version of the first model, made of its first."""
    with batch.database.write() as session:
        first = session.scalars(select(ModelVersion).where(ModelVersion.model_id == batch.models[0])).one()
        made_by = Job(kind=JobKind.UNLEARN, status=JobStatus.SUCCEEDED, model_id=first.model_id, seed=1)
        session.add(made_by)
        session.flush()
        made = ModelVersion(
            model_id=first.model_id,
            number=2,
            parent_id=first.id,
            job_id=made_by.id,
            status=status,
            path="store/second/checkpoint.safetensors",
            sha256=hashlib.sha256(b"second").hexdigest(),
            size=6,
            **values,
        )
        session.add(made)
    return made.id
