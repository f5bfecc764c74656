"""Rows 2, 3, 9, 22, 23: a worker that is killed, paused, told to stop, or told that nobody wants its job any more."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select, update

from models.base import now
from models.queue import RUN_TASK, celery_app
from models.records import Erasure, ErasureStatus, Event, Job, JobKind, JobStatus, ModelVersion
from models.session import Database
from models.settings import Settings
from service.dispatcher import LEASE_SECONDS
from service.duties import hinting
from service.embedded import environment, worker_command
from tests.faults.conftest import WELL_BEHAVED, Pair
from tests.faults.plays import CONTEXT, Play, _perform, play
from tests.faults.scene import Scene
from tests.faults.test_crashes import WELL
from tests.oracle import violations
from tests.worker.test_tasks import until
from worker import supervise, tasks
from worker.plan import UNLEARN_PHASES

CHILD_SECONDS = 5.0  # that a killed worker's child may live on
CANCEL_SECONDS = 15.0
RECOVERY_SECONDS = 90.0
ASLEEP = 300.0  # a child that nobody stops would still be there


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def working(pair: Pair, settings: Settings, marker: Path) -> Iterator[tuple[BaseProcess, psutil.Process]]:
    """A process that does all there is to do, and its pipeline, once that sleeps."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_perform, args=(Play(settings, "go_on", pair.receiver), theirs), daemon=True)
    process.start()
    theirs.close()
    child = None
    try:
        until(marker.exists, seconds=90)
        (child,) = until(lambda: [each for each in _children(process) if "tests.replaying" in each.cmdline()])
        yield process, child
    finally:
        for each in (process, child):
            if each is not None and (each.is_alive() if isinstance(each, BaseProcess) else alive(each)):
                each.kill()
        process.join()
        ours.close()


def _children(process: BaseProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def well(settings: Settings) -> Settings:
    return settings.model_copy(update={"pipeline": WELL_BEHAVED})


def numbers(settings: Settings) -> list[int]:
    database = Database(settings.database)
    try:
        with database.read() as session:
            return list(session.scalars(select(ModelVersion.number).order_by(ModelVersion.number)))
    finally:
        database.dispose()


def wrong(settings: Settings, *, settled: bool) -> list[str]:
    scene = Scene(settings)
    try:
        return violations(scene.database, settings, scene.accepted(), settled=settled)
    finally:
        scene.close()


@pytest.mark.fault(2)
@pytest.mark.fault(3)
@pytest.mark.parametrize("phase", ["load", "attack", "finetune", "audit", "save"])
def test_a_worker_killed_in_any_phase_leaves_no_child_and_one_version_by_another(
    phase: str, embedded: Pair, tmp_path: Path
) -> None:
    marker = tmp_path / "asleep"
    settings = embedded.at("asked", kind="unlearn", at=phase, sleep=ASLEEP, once=marker)
    with working(embedded, settings, marker) as (worker, child):
        worker.kill()
        until(lambda: not alive(child), seconds=CHILD_SECONDS)
    to_the_end = phase == "finetune"  # the others up to the version: what follows it does not know who made it
    act = "go_on" if to_the_end else "forget"
    recovered = play(Play(well(settings), act, embedded.receiver, recovers=True)).told
    assert recovered.pop("error", None) is None
    if to_the_end:
        assert recovered == WELL | {"violations": []}
    assert numbers(settings) == [1, 2]
    assert wrong(settings, settled=to_the_end) == []


@pytest.mark.fault(2)
def test_a_job_of_a_killed_worker_is_with_the_next_one_long_before_90_seconds_by_the_defaults() -> None:
    """From the kill: the lease, a dispatcher that died too, its round; the hint leaves in the round that swept."""
    settings = Settings()
    waiting = settings.lease_seconds + LEASE_SECONDS + 2 * settings.dispatch_seconds
    assert waiting <= RECOVERY_SECONDS - 20, "too little would be left to run a short job"
    # A message that its worker took with it before the claim comes again.
    assert hinting.wait_after(1).total_seconds() + 2 * settings.dispatch_seconds <= RECOVERY_SECONDS - 20


@pytest.mark.fault(2)
def test_a_swept_job_is_hinted_in_the_same_round(embedded: Pair) -> None:
    scene = Scene(embedded.at("asked"))
    scene.round()
    with scene.database.write() as session:
        expired = {"status": JobStatus.RUNNING, "lease_expires_at": now() - timedelta(seconds=1), "attempts": 1}
        session.execute(update(Job).where(Job.kind == JobKind.UNLEARN).values(hinted_at=now(), hints=3, **expired))
        job = session.scalars(select(Job.id).where(Job.kind == JobKind.UNLEARN)).one()
    assert job in scene.hinted()
    scene.round()
    assert job in scene.hinted()
    scene.close()


@pytest.mark.fault(9)
@pytest.mark.parametrize("ended", [False, True], ids=["its child still runs", "its child has finished"])
def test_a_worker_paused_beyond_its_lease_is_fenced_when_it_goes_on(
    ended: bool, embedded: Pair, tmp_path: Path
) -> None:
    marker = tmp_path / "asleep"
    settings = embedded.at("asked", kind="unlearn", at="audit", sleep=1.0 if ended else ASLEEP, once=marker)
    settings = settings.model_copy(update={"heartbeat_seconds": 0.3, "lease_seconds": 2})
    with working(embedded, settings, marker) as (worker, child):
        assert worker.pid is not None
        until(lambda: _paused(worker, settings))
        if ended:
            until(lambda: not alive(child))
        recovered = play(Play(well(settings), "go_on", embedded.receiver, recovers=True)).told
        os.kill(worker.pid, signal.SIGCONT)
        until(lambda: not alive(child), seconds=CHILD_SECONDS)
        worker.join(20)
        assert worker.exitcode == 0
    assert recovered.pop("error", None) is None
    assert recovered == WELL | {"violations": []}
    assert numbers(settings) == [1, 2]
    again = play(Play(well(settings), "go_on", embedded.receiver, recovers=True)).told
    assert again == WELL | {"violations": []}, "the paused worker has written"


def _paused(worker: BaseProcess, settings: Settings) -> bool:
    """Stop it, but not within a transaction, a heartbeat's: SQLite would stay locked."""
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
    with closing(sqlite3.connect(settings.data_dir / "amun.sqlite3", timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            os.kill(worker.pid, signal.SIGCONT)
            return False
    return True


@pytest.mark.fault(22)
def test_sigterm_to_a_real_worker_gives_its_job_back_and_leaves_nothing(embedded: Pair, tmp_path: Path) -> None:
    marker = tmp_path / "asleep"
    settings = embedded.at("asked", kind="unlearn", at="finetune", sleep=ASLEEP, once=marker)
    scene = Scene(settings)
    scene.round()
    log = (tmp_path / "worker.log").open("wb")
    worker = subprocess.Popen(
        worker_command(), env=environment(settings), stdout=log, stderr=log, start_new_session=True
    )
    try:
        until(marker.exists, seconds=90)
        family = psutil.Process(worker.pid).children(recursive=True)
        assert any("tests.replaying" in process.cmdline() for process in family)
        worker.send_signal(signal.SIGTERM)
        worker.wait(CANCEL_SECONDS)
        until(lambda: not any(map(alive, family)), seconds=CHILD_SECONDS)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        log.close()
    with scene.database.read() as session:
        job = session.scalars(select(Job).where(Job.kind == JobKind.UNLEARN)).one()
        told = session.scalars(select(Event.data).where(Event.name == "job.requeued")).one()
        erasures = set(session.scalars(select(Erasure.status)))
    assert (job.status, job.attempts, job.worker) == (JobStatus.QUEUED, 0, None)
    assert (told["reason"], told["attempt_counted"]) == ("the worker is shutting down", False)
    assert ErasureStatus.RUNNING not in erasures
    assert list((settings.data_dir / "staging").iterdir()) == []
    scene.close()


@pytest.mark.fault(23)
@pytest.mark.parametrize("phase", UNLEARN_PHASES)
def test_a_job_cancelled_in_any_phase_loses_its_child_and_makes_no_version(
    phase: str, embedded: Pair, tmp_path: Path
) -> None:
    marker = tmp_path / "asleep"
    settings = embedded.at("asked", kind="unlearn", at=phase, sleep=ASLEEP, once=marker)
    settings = settings.model_copy(update={"heartbeat_seconds": 0.3})
    with working(embedded, settings, marker) as (worker, child):
        database = Database(settings.database)
        with database.write() as session:
            asked = update(Job).where(Job.status == JobStatus.RUNNING).values(cancel_requested_at=now())
            assert session.execute(asked).rowcount == 1  # type: ignore[attr-defined]
        until(lambda: not alive(child), seconds=CANCEL_SECONDS)
        worker.join(20)
        assert worker.exitcode == 0
    with database.read() as session:
        job = session.scalars(select(Job).where(Job.kind == JobKind.UNLEARN)).one()
        assert job.status is JobStatus.CANCELLED
    assert wrong(settings, settled=False) == []
    assert numbers(settings) == [1]
    database.dispose()


@pytest.mark.fault(23)
def test_by_the_defaults_a_cancelled_child_is_gone_within_15_seconds_whatever_it_does() -> None:
    settings = Settings()
    # The heartbeat looks every PROGRESS_SECONDS whether it is due, so it comes at most that much late.
    step = min(supervise.PROGRESS_SECONDS, settings.heartbeat_seconds)
    noticed = -(-settings.heartbeat_seconds // step) * step
    assert noticed + supervise.POLL_SECONDS + supervise.TERM_SECONDS < CANCEL_SECONDS


@pytest.mark.fault(22)
@pytest.mark.fault(23)
def test_a_child_that_does_not_hear_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        ["python3", "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"deaf\n"
    started = time.monotonic()
    supervise._stop_group(child)
    assert child.returncode == -signal.SIGKILL
    assert time.monotonic() - started >= supervise.TERM_SECONDS
    child.stdout.close()


@pytest.mark.fault(8)
def test_a_second_message_of_a_job_that_has_ended_does_nothing(embedded: Pair) -> None:
    settings = embedded.at("forgotten")
    database = Database(settings.database)
    with database.read() as session:
        job: uuid.UUID = session.scalars(select(Job.id).where(Job.kind == JobKind.UNLEARN)).one()
    celery_app(settings).send_task(RUN_TASK, args=[str(job)], retry=False)
    tasks.run_job(database, settings, job, "late")
    with database.read() as session:
        assert session.get_one(Job, job).token == 1
    assert numbers(settings) == [1, 2]
    database.dispose()
