"""The Celery task: claim a job's row, supervise its pipeline, finish or fail. Imports no torch."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models import artifacts, lifecycle, revisions, tracing
from models.crashes import crash_point
from models.log import configure_logging
from models.queue import RUN_TASK, celery_app
from models.records import MAX_ATTEMPTS, JobKind
from models.session import Database
from models.settings import Settings, get_settings
from worker import finish
from worker.claim import Claim, claim
from worker.materials import CannotPlan
from worker.plan import NO_SPACE_STATUS, PLAN_FILE, RESULT_FILE, Result, dump, load_result
from worker.plans import make_plan
from worker.supervise import LOG_FILE, Ended, Heartbeat, Stopped, nameless, run_child

NO_GPU_SECONDS = 60
LOG_TAIL = 2000  # characters of the child's standard error that a failure quotes to the operator

app = celery_app(get_settings())
log = structlog.get_logger(__name__)

# Made before the pool forks, so that the signal which reaches the main process reaches its children through it.
_shutting_down = multiprocessing.get_context("fork").Event()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: object) -> None:
    _shutting_down.set()


@setup_logging.connect  # type: ignore[untyped-decorator]
def _on_logging(**_: object) -> None:
    """Celery leaves its own format away where somebody listens here: its lines are JSON like ours."""
    configure_logging()


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _without_banner(instance: Any, **_: object) -> None:
    instance.quiet = True


@worker_init.connect  # type: ignore[untyped-decorator]
def _on_start(**_: object) -> None:
    """Raises SystemExit on another schema. A database that does not answer is asked again when a job comes."""
    configure_logging()
    gc.freeze()  # what was imported stays: pool processes share its memory with this one, and none looks through it
    atexit.register(gc.freeze)
    database = Database(get_settings().database)
    try:
        revisions.check(database)
    except revisions.WrongSchema as error:
        log.error("worker.wrong_schema", detail=str(error))
        raise SystemExit(1) from None
    except SQLAlchemyError as error:
        log.warning("worker.database_unavailable", error=type(error).__name__)
    finally:
        database.dispose()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _in_pool_process(**_: object) -> None:
    configure_logging()
    tracing.start("amun-worker")
    _exit_with_parent()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _out_of_pool_process(**_: object) -> None:
    tracing.stop()


def _exit_with_parent() -> None:
    """End this pool process soon after the main one was killed. The job's lease covers what is lost."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@lru_cache(maxsize=1)
def _database() -> Database:
    """One engine in each pool process: connections do not survive a fork. Raises revisions.WrongSchema."""
    database = Database(get_settings().database)
    revisions.check(database)
    return database


@app.task(name=RUN_TASK)  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """Run the job if it can be claimed now. Raises nothing: Celery would quote the message in its own line."""
    try:
        run_job(_database(), get_settings(), uuid.UUID(job_id), f"{socket.gethostname()}:{os.getpid()}")
    except Exception:  # the row's lease brings the job back
        log.error("job.not_concluded", job=job_id, exc_info=True)


def run_job(database: Database, settings: Settings, job_id: uuid.UUID, worker: str) -> None:
    """Claim, run and conclude one job. A refused claim is not an error, for a message is only a hint."""
    taken = claim(database, settings, job_id, worker)
    if taken is None:
        log.info("job.not_claimed", job=str(job_id))
        return
    kind, folder = taken.job.kind.value, artifacts.staging(settings.data_dir, taken.job.id, taken.token)
    about = {"job": str(job_id), "kind": kind, "token": taken.token}
    with (
        structlog.contextvars.bound_contextvars(**about),
        tracing.span(f"job {kind}", trace=job_id, kind="consumer") as span,
    ):
        span.set(amun__job=str(job_id), amun__kind=kind, amun__token=taken.token, amun__attempt=taken.job.attempts)
        log.info("job.claimed", attempt=taken.job.attempts)
        crash_point("claim.after_commit")
        try:
            _run_claimed(database, settings, taken, folder)
        except Exception as error:
            span.fail(type(error).__name__)
            log.error("job.supervisor_failed", exc_info=True)
            if artifacts.is_full_disk(error):
                artifacts.remove_folder(folder)  # a database beside it may need the space to say so
                _fail(database, taken, "disk_full", "no space was left in the data folder")
            else:
                _retry_or_fail(database, taken, "internal", f"{type(error).__name__}: {error}")
        finally:
            artifacts.remove_folder(folder)
        crash_point("staging.removed")


def _run_claimed(database: Database, settings: Settings, taken: Claim, folder: Path) -> None:
    folder.mkdir(parents=True)
    crash_point("staging.made")
    with Heartbeat(database, settings, taken) as heartbeat:
        if taken.job.kind is JobKind.CERTIFY:
            finish.certify(database, settings, taken, folder)
            log.info("job.finished")
            return
        try:
            with database.read() as session:
                plan = make_plan(session, settings, taken.job, folder)
        except CannotPlan as error:
            _fail(database, taken, error.code, str(error))
            return
        artifacts.write_durably(folder / PLAN_FILE, dump(plan).encode())
        crash_point("plan.written")
        with tracing.span("pipeline") as span:
            ended = run_child(settings.pipeline_command, folder, settings, heartbeat, _shutting_down.is_set)
            span.set(amun__returncode=ended.returncode, amun__stopped=ended.stopped)
        crash_point("child.ended")
        log.info("pipeline.ended", returncode=ended.returncode, stopped=ended.stopped)
        with tracing.span("conclude"):
            _conclude(database, settings, taken, folder, ended)
        log.info("job.finished")


@contextmanager
def _ending(database: Database) -> Iterator[Session]:
    """The transaction in which a job ends other than well."""
    with database.write() as session:
        yield session
        crash_point("stop.before_commit")
    crash_point("stop.after_commit")


def _conclude(database: Database, settings: Settings, taken: Claim, folder: Path, ended: Ended) -> None:
    if ended.stopped is Stopped.FENCED:
        log.warning("job.fenced")
    elif ended.stopped is Stopped.CANCELLED:
        with _ending(database) as session:
            lifecycle.cancel(session, taken.job, taken.token, actor=taken.actor)
    elif ended.stopped is Stopped.SHUTDOWN:
        with _ending(database) as session:
            lifecycle.requeue(
                session, taken.job, taken.token, actor=taken.actor, reason="the worker is shutting down", counted=False
            )
    elif ended.stopped is Stopped.TIME_LIMIT:
        _fail(database, taken, "time_limit", f"it ran longer than {settings.job_limit_seconds:.0f} seconds")
    else:
        _conclude_result(database, settings, taken, folder, ended.returncode)


def _conclude_result(database: Database, settings: Settings, taken: Claim, folder: Path, returncode: int) -> None:
    result_path = folder / RESULT_FILE
    if returncode == NO_SPACE_STATUS:
        _fail(database, taken, "disk_full", "no space was left even for the pipeline's result")
        return
    if not result_path.exists():
        how = f"signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
        tail = (folder / LOG_FILE).read_text(errors="replace")[-LOG_TAIL:]
        log.error("pipeline.lost", how=how, tail=nameless(tail))
        _retry_or_fail(database, taken, "worker_lost", f"the pipeline ended with {how} and no result. {tail}".strip())
        return
    result = load_result(result_path)
    if result.status == "succeeded":
        finish.finish(database, settings, taken, folder, result)
    else:
        _failed_result(database, taken, result)


def _failed_result(database: Database, taken: Claim, result: Result) -> None:
    code, detail = (result.error.code, result.error.detail) if result.error else ("internal", "no reason was given")
    if code == "no_gpu":
        log.error("worker.no_gpu", alert=True)
        with _ending(database) as session:
            lifecycle.requeue(
                session,
                taken.job,
                taken.token,
                actor=taken.actor,
                reason="no_gpu",
                counted=False,
                not_before=finish.seconds_from_now(session, NO_GPU_SECONDS),
            )
        return
    _fail(database, taken, code, detail)


def _fail(database: Database, taken: Claim, code: str, detail: str) -> None:
    with _ending(database) as session:
        lifecycle.fail(session, taken.job, taken.token, actor=taken.actor, code=code, detail=detail)


def _retry_or_fail(database: Database, taken: Claim, code: str, detail: str) -> None:
    """The attempt was counted: queue the job again, or fail it at the third."""
    if taken.job.attempts >= MAX_ATTEMPTS:
        _fail(database, taken, code, detail)
        return
    with _ending(database) as session:
        lifecycle.requeue(session, taken.job, taken.token, actor=taken.actor, reason=code, counted=True)
