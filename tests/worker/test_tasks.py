"""Claim, supervision and the end of a job, with a pipeline child that replays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, update

from models import artifacts
from models.base import now
from models.records import (
    Application,
    DeletionRequest,
    Erasure,
    Event,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    Sample,
    TrainingSet,
    TrainingSetStatus,
)
from models.session import Database
from models.settings import Settings
from service.duties import sweeping
from worker import supervise, tasks
from worker.claim import claim

REPLAY = Path(__file__).parent.parent / "replay.py"


@pytest.fixture
def job(database: Database) -> uuid.UUID:
    """A queued register job of a training set."""
    with database.write() as session:
        made = TrainingSet(name="set", source={"kind": "builtin", "path": "digits"}, controls={"share": 0.5})
        session.add(made)
        session.flush()
        queued = Job(kind=JobKind.REGISTER, training_set_id=made.id, seed=1)
        session.add(queued)
    return queued.id


def replaying(settings: Settings, mode: str, **more: Any) -> Settings:
    return settings.model_copy(
        update={"pipeline": f"{sys.executable} {REPLAY} {mode}", "heartbeat_seconds": 0.2} | more
    )


def look(database: Database, job: uuid.UUID) -> Job:
    with database.read() as session:
        return session.get_one(Job, job)


def training_set(database: Database) -> TrainingSet:
    with database.read() as session:
        return session.scalars(select(TrainingSet)).one()


def until(ready: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.05)
    pytest.fail("it did not happen in time")


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it may end, or be a zombie, while it is looked at
            if "replay.py" in " ".join(process.cmdline()):
                found.append(process)
    return found


def in_background(database: Database, settings: Settings, job: uuid.UUID) -> threading.Thread:
    thread = threading.Thread(target=tasks.run_job, args=(database, settings, job, "here"))
    thread.start()
    until(lambda: children() and look(database, job).phase == "load")
    return thread


def test_a_finished_job_publishes_its_files_and_inserts_its_samples(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    ended, made = look(database, job), training_set(database)
    assert (ended.status, ended.progress, ended.seconds) == (JobStatus.SUCCEEDED, 1.0, {"load": 0.1})
    assert made.status is TrainingSetStatus.READY
    assert made.folder is not None
    assert sorted(path.name for path in (settings.data_dir / made.folder).iterdir()) == [
        "digests.bin",
        "labels.i32",
        "pixels.u8",
    ]
    with database.read() as session:
        assert [sample.key for sample in session.scalars(select(Sample).order_by(Sample.index))][:2] == [
            "train/0",
            "train/1",
        ]
    assert list((settings.data_dir / "staging").iterdir()) == []


@pytest.mark.fault(8)
def test_parallel_deliveries_of_a_hint_claim_a_job_once(database: Database, settings: Settings, job: uuid.UUID) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda number: claim(database, settings, job, f"worker {number}"), range(8)))
    assert sum(one is not None for one in taken) == 1
    assert look(database, job).token == 1


def test_a_job_is_not_claimed_before_its_time(database: Database, settings: Settings, job: uuid.UUID) -> None:
    with database.write() as session:
        session.execute(update(Job).values(not_before=now() + timedelta(seconds=60)))
    assert claim(database, settings, job, "here") is None


def test_an_unknown_job_is_not_claimed(database: Database, settings: Settings) -> None:
    assert claim(database, settings, uuid.uuid4(), "here") is None


@pytest.mark.parametrize("code", ["data_error", "oom", "disk_full"])
def test_a_failure_of_the_pipeline_fails_the_job_and_its_training_set(
    database: Database, settings: Settings, job: uuid.UUID, code: str
) -> None:
    tasks.run_job(database, replaying(settings, f"fail:{code}"), job, "here")
    ended, made = look(database, job), training_set(database)
    assert (ended.status, ended.error) == (JobStatus.FAILED, {"code": code, "detail": "as replayed"})
    assert (made.status, made.error) == (TrainingSetStatus.FAILED, ended.error)


@pytest.mark.fault(6)
def test_without_a_gpu_the_job_waits_and_the_attempt_is_not_counted(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    tasks.run_job(database, replaying(settings, "fail:no_gpu"), job, "here")
    waiting = look(database, job)
    assert (waiting.status, waiting.attempts) == (JobStatus.QUEUED, 0)
    assert waiting.not_before is not None
    assert timedelta(seconds=50) < waiting.not_before - now() <= timedelta(seconds=60)


@pytest.mark.fault(4)
def test_a_child_that_is_killed_three_times_fails_the_job_with_the_reason(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    for attempt in (1, 2):
        tasks.run_job(database, replaying(settings, "killed"), job, "here")
        assert (look(database, job).status, look(database, job).attempts) == (JobStatus.QUEUED, attempt)
    tasks.run_job(database, replaying(settings, "killed"), job, "here")
    ended = look(database, job)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "worker_lost"
    assert "signal 9" in ended.error["detail"]


def test_a_file_with_another_hash_than_the_result_says_is_never_published(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    tasks.run_job(database, replaying(settings, "flipped"), job, "here")
    assert look(database, job).status is JobStatus.QUEUED
    assert training_set(database).folder is None
    assert not (settings.data_dir / "store").exists()


@pytest.mark.fault(9)
def test_a_fenced_attempt_kills_its_child_and_writes_nothing(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    thread = in_background(database, replaying(settings, "sleep"), job)
    with database.write() as session:
        session.execute(update(Job).values(token=Job.token + 1, worker="another"))
    thread.join(15)
    assert not thread.is_alive()
    assert children() == []
    assert (look(database, job).status, look(database, job).worker) == (JobStatus.RUNNING, "another")


@pytest.mark.fault(9)
def test_a_fenced_attempt_that_has_finished_removes_what_it_published(
    database: Database, settings: Settings, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = artifacts.publish

    def publish_late(*arguments: Any) -> Path:
        placed = publish(*arguments)
        with database.write() as session:
            session.execute(update(Job).values(token=Job.token + 1))
        return placed

    monkeypatch.setattr(artifacts, "publish", publish_late)
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    assert look(database, job).status is JobStatus.RUNNING
    assert training_set(database).status is TrainingSetStatus.REGISTERING
    assert list(settings.data_dir.glob("store/*/*")) == []


@pytest.mark.fault(23)
def test_a_cancelled_job_loses_its_child_and_its_training_set_says_so(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    thread = in_background(database, replaying(settings, "sleep"), job)
    with database.write() as session:
        session.execute(update(Job).values(cancel_requested_at=now()))
    thread.join(15)
    assert children() == []
    assert look(database, job).status is JobStatus.CANCELLED
    assert training_set(database).status is TrainingSetStatus.FAILED


@pytest.mark.fault(22)
def test_a_worker_that_shuts_down_gives_the_job_back_without_counting_the_attempt(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    thread = in_background(database, replaying(settings, "sleep"), job)
    try:
        tasks._shutting_down.set()
        thread.join(15)
    finally:
        tasks._shutting_down.clear()
    assert children() == []
    assert (look(database, job).status, look(database, job).attempts) == (JobStatus.QUEUED, 0)


def test_a_job_beyond_its_time_limit_is_stopped_and_fails(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    tasks.run_job(database, replaying(settings, "sleep", job_limit_seconds=1), job, "here")
    ended = look(database, job)
    assert ended.error is not None
    assert (ended.status, ended.error["code"]) == (JobStatus.FAILED, "time_limit")


def test_the_heartbeat_extends_the_lease_and_shows_progress(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    thread = in_background(database, replaying(settings, "sleep", lease_seconds=5, job_limit_seconds=3), job)
    first = look(database, job)
    assert (first.progress, first.step) == (0.25, "replayed")
    until(lambda: (look(database, job).lease_expires_at or now()) > (first.lease_expires_at or now()))
    thread.join(15)


@pytest.mark.fault(3)
def test_the_child_dies_with_a_supervisor_that_is_killed(sqlite_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace; import threading;"
        "from models.settings import Settings; from worker.supervise import run_child;"
        "beat = SimpleNamespace(fenced=threading.Event(), cancelled=threading.Event(), report=lambda p: None);"
        f"run_child([sys.executable, {str(REPLAY)!r}, 'sleep'], Path({str(tmp_path)!r}), Settings(), beat, lambda: False)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    try:
        child = until(lambda: psutil.Process(supervisor.pid).children())[0]
        until(lambda: "replay.py" in " ".join(child.cmdline()))
    finally:
        os.kill(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, seconds=5)


@pytest.mark.fault(4)
def test_an_expired_lease_gives_the_job_back_twice_and_fails_it_the_third_time(
    database: Database, settings: Settings, job: uuid.UUID
) -> None:
    for attempt in (1, 2, 3):
        assert claim(database, settings, job, "gone") is not None
        assert sweeping.expired_leases(database) == 0
        with database.write() as session:
            session.execute(update(Job).values(lease_expires_at=now() - timedelta(seconds=1)))
        assert sweeping.expired_leases(database) == 1
        assert look(database, job).attempts == attempt
    ended = look(database, job)
    assert ended.error is not None
    assert (ended.status, ended.error["code"]) == (JobStatus.FAILED, "worker_lost")
    with database.read() as session:
        names = [event.name for event in session.scalars(select(Event).order_by(Event.id))]
    assert names == ["job.started", "job.requeued"] * 2 + ["job.started", "job.failed"]


def test_progress_is_written_between_heartbeats() -> None:
    assert supervise.PROGRESS_SECONDS < Settings().heartbeat_seconds < Settings().lease_seconds


def test_a_job_of_a_withdrawn_model_waits_until_it_serves_a_version_again(
    database: Database, settings: Settings
) -> None:
    with database.write() as session:
        application, made = Application(name="shop"), TrainingSet(name="set", source={}, controls={})
        session.add_all([application, made])
        session.flush()
        model = Model(
            name="cnn", training_set_id=made.id, status=ModelStatus.WITHDRAWN, network={}, recipe={}, policy={}
        )
        request = DeletionRequest(
            application_id=application.id,
            training_set_id=made.id,
            submitted_by="key",
            regulation="GDPR",
            due_at=now(),
            fingerprint=b"",
        )
        session.add_all([model, request])
        session.flush()
        job = Job(kind=JobKind.UNLEARN, model_id=model.id, training_set_id=made.id, seed=1)
        session.add(job)
        session.flush()
        session.add(Erasure(request_id=request.id, model_id=model.id, job_id=job.id))
    assert claim(database, settings, job.id, "here") is None
    assert look(database, job.id).status is JobStatus.QUEUED
    with database.write() as session:
        session.get_one(Model, model.id).status = ModelStatus.READY
    assert claim(database, settings, job.id, "here") is not None
