"""Run the pipeline as a child in its own process group: read its progress, keep the lease, stop it when told to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import select, update

from models.crashes import crash_point
from models.records import Job, JobStatus
from models.session import Database, current_time
from models.settings import Settings
from worker.claim import Claim
from worker.plan import PLAN_FILE, Progress
from worker.priority import give_way

LOG_FILE = "pipeline.log"
POLL_SECONDS = 0.2
PROGRESS_SECONDS = 2.0  # progress is written at most this often between heartbeats
TERM_SECONDS = 3.0  # from SIGTERM to SIGKILL: with a heartbeat before it, a cancelled child is gone within 15 s

FRAME = re.compile(r'\s*File ".+", line \d+, in \S+$')
RAISED = re.compile(r"(Fatal Python error|(\w+\.)*\w*(Error|Exception|Interrupt|Exit|Failed))\b")

log = structlog.get_logger(__name__)


class Stopped(StrEnum):
    """Why a child was stopped before its end."""

    FENCED = "fenced"  # the row belongs to another attempt: write nothing
    CANCELLED = "cancelled"  # a person asked for it
    SHUTDOWN = "shutdown"  # this worker was told to stop
    TIME_LIMIT = "time_limit"


@dataclass(frozen=True)
class Ended:
    """How the child ended: its exit status (negative: the signal), or why it was stopped."""

    returncode: int
    stopped: Stopped | None


class Heartbeat:
    """A thread that extends the lease from claim to commit and writes the newest progress into the row."""

    def __init__(self, database: Database, settings: Settings, claim: Claim) -> None:
        self._database = database
        self._settings = settings
        self._claim = claim
        self._progress: Progress | None = None
        self._written: Progress | None = None
        self._end = threading.Event()
        beat = partial(copy_context().run, self._beat)  # with what is bound to every line of the job
        self._thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        self.fenced = threading.Event()
        self.cancelled = threading.Event()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def report(self, progress: Progress) -> None:
        self._progress = progress

    def _beat(self) -> None:
        last = extended = time.monotonic()
        pause = min(PROGRESS_SECONDS, self._settings.heartbeat_seconds)
        while not self._end.wait(pause):
            due = time.monotonic() - last >= self._settings.heartbeat_seconds
            if not due and self._progress is self._written:
                continue
            last = time.monotonic()
            try:
                if not self._extend():
                    self.fenced.set()
                    return
                extended = last
            except Exception:
                log.warning("heartbeat.failed", exc_info=True)
                if time.monotonic() - extended > self._settings.lease_seconds:
                    self.fenced.set()  # by now another worker may hold the job
                    return

    def _extend(self) -> bool:
        progress = self._progress
        values: dict[str, object] = {}
        if progress is not None:
            values = {
                "phase": progress.phase,
                "step": progress.step,
                "progress": progress.progress,
                "eta_seconds": progress.eta_seconds,
            }
        mine = (Job.id == self._claim.job.id, Job.token == self._claim.token, Job.status == JobStatus.RUNNING)
        with self._database.write() as session:
            until = current_time(session) + timedelta(seconds=self._settings.lease_seconds)
            beaten = session.execute(update(Job).where(*mine).values(lease_expires_at=until, **values))
            if not beaten.rowcount:  # type: ignore[attr-defined]
                return False
            if session.scalar(select(Job.cancel_requested_at).where(Job.id == self._claim.job.id)) is not None:
                self.cancelled.set()
        self._written = progress
        return True


def run_child(
    command: list[str],
    folder: Path,
    settings: Settings,
    heartbeat: Heartbeat,
    shutting_down: Callable[[], bool],
) -> Ended:
    """Run ``command PLAN.json FOLDER --supervised`` to its end, or stop it and all it started.

    The child reads its standard input to the end of file, which comes when this process dies in whatever way.
    """
    environment = {**os.environ, "AMUN_DEVICE": settings.device, "PYTHONUNBUFFERED": "1"}
    with (folder / LOG_FILE).open("wb") as errors:
        child = subprocess.Popen(  # noqa: S603 - the command is the operator's setting
            [*command, str(folder / PLAN_FILE), str(folder), "--supervised"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
    give_way(child.pid, settings.niceness)
    crash_point("child.started")
    read = partial(copy_context().run, _read_progress, child, heartbeat)
    reader = threading.Thread(target=read, name="progress", daemon=True)
    reader.start()
    try:
        stopped = _watch(child, settings, heartbeat, shutting_down)
    finally:
        _stop_group(child)
    reader.join(timeout=TERM_SECONDS)
    return Ended(child.returncode, stopped)


def _watch(
    child: subprocess.Popen[bytes], settings: Settings, heartbeat: Heartbeat, shutting_down: Callable[[], bool]
) -> Stopped | None:
    deadline = time.monotonic() + settings.job_limit_seconds
    while child.poll() is None:
        if heartbeat.fenced.is_set():
            return Stopped.FENCED
        if heartbeat.cancelled.is_set():
            return Stopped.CANCELLED
        if shutting_down():
            return Stopped.SHUTDOWN
        if time.monotonic() > deadline:
            return Stopped.TIME_LIMIT
        time.sleep(POLL_SECONDS)
    return None


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to the child and every process it started (data loaders outlive a killed parent)."""
    try:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(TERM_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _read_progress(child: subprocess.Popen[bytes], heartbeat: Heartbeat) -> None:
    assert child.stdout is not None  # noqa: S101 - opened as a pipe above
    with child.stdout:
        for line in child.stdout:
            try:
                heartbeat.report(Progress(**json.loads(line)))
            except (ValueError, TypeError):
                log.warning("pipeline.stray_output", bytes=len(line))  # whatever it says, it may name somebody


def nameless(text: str) -> list[str]:
    """What may be logged of the child's standard error: frames of tracebacks, and exceptions without their messages."""
    return [kept[0] for line in text.splitlines() if (kept := FRAME.match(line) or RAISED.match(line))]
