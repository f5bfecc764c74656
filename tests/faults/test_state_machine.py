"""Requests, jobs and attempts in any order that Hypothesis thinks of: no order loses a request or does one twice.

AMUN_STATEFUL=long looks for much longer: `AMUN_STATEFUL=long python -m pytest tests/faults/test_state_machine.py`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update

from models import artifacts, lifecycle
from models.crashes import VARIABLE
from models.records import Job, JobKind, JobStatus
from models.settings import Settings
from service.duties import sweeping
from tests.faults.conftest import Pair
from tests.faults.scene import LONG_AGO, Scene
from tests.oracle import rows, violations
from tests.replaying import files, outcomes
from worker import finish, tasks
from worker.claim import Claim, claim
from worker.plan import PLAN_FILE, Environment, OutputFile, Result, dump
from worker.plans import make_plan
from worker.supervise import Heartbeat

IMAGES = 6
LONG = os.environ.get("AMUN_STATEFUL") == "long"
PROFILES = {"embedded": (200, 60) if LONG else (6, 25), "production": (100, 60) if LONG else (2, 20)}
ENVIRONMENT = Environment(device="cpu", hardware="replay", threads=1, python="3", torch="none", code_version="replay")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Life(RuleBasedStateMachine):
    """What API, dispatcher, workers and operators may do, one thing at a time, in any order."""

    start: Callable[[], tuple[Scene, Callable[[], None]]]

    @initialize()
    def begin(self) -> None:
        self.scene, self.end = type(self).start()
        self.attempts: list[Claim] = []  # of workers that live, whether the row is theirs or not
        self.accepted: dict[int, str] = {}

    def teardown(self) -> None:
        if not hasattr(self, "scene"):
            return
        try:
            self.scene.later()
            self._resume_all()
            self.scene.quiet()
            assert violations(self.scene.database, self.scene.settings, self.scene.accepted()) == []
        finally:
            self.scene.close()
            self.end()

    @rule(image=st.integers(0, IMAGES - 1))
    def submit(self, image: int) -> None:
        """Sent again, it is the same request."""
        found = self.scene.ask(f"image {image}", [{"key": f"train/{image:05d}"}])
        assert self.accepted.setdefault(image, found) == found

    @rule()
    def dispatch(self) -> None:
        self.scene.round()

    @rule(again=st.booleans())
    def take(self, again: bool) -> None:
        """Claim what is queued; a second message of the same job is refused."""
        for job in self._jobs(JobStatus.QUEUED):
            taken = claim(self.scene.database, self.scene.settings, job, "worker")
            if taken is not None:
                self.attempts.append(taken)
            if again:
                assert claim(self.scene.database, self.scene.settings, job, "another") is None or taken is None

    @precondition(lambda self: self.attempts)
    @rule(at=st.integers(0, 5))
    def beat(self, at: int) -> None:
        """A heartbeat goes through for the current attempt alone."""
        taken = self.attempts[at % len(self.attempts)]
        beaten = Heartbeat(self.scene.database, self.scene.settings, taken)._extend()
        assert beaten == self._is_current(taken)

    @rule()
    def expire(self) -> None:
        """A worker is paused for longer than its lease; it may well go on later."""
        with self.scene.database.write() as session:
            session.execute(update(Job).where(Job.status == JobStatus.RUNNING).values(lease_expires_at=LONG_AGO))

    @rule()
    def sweep(self) -> None:
        sweeping.expired_leases(self.scene.database)

    @precondition(lambda self: self.attempts)
    @rule(at=st.integers(0, 5))
    def finish(self, at: int) -> None:
        """An attempt comes to its end: it counts exactly where the row is still its own."""
        taken = self.attempts.pop(at % len(self.attempts))
        current = self._is_current(taken) and not self._is_cancelled(taken)
        self._finish(taken)
        assert (self._status(taken) is JobStatus.SUCCEEDED) >= current

    @precondition(lambda self: self.attempts)
    @rule(
        at=st.integers(0, 5), point=st.sampled_from(["finish.published", "finish.before_commit", "finish.after_commit"])
    )
    def crash(self, at: int, point: str) -> None:
        """A worker is killed close to the end, with its files in their place."""
        taken = self.attempts.pop(at % len(self.attempts))
        with _killed_at(point):
            try:
                self._finish(taken)
            except Killed:
                pass

    @precondition(lambda self: self.attempts)
    @rule(at=st.integers(0, 5), counted=st.booleans())
    def give_back(self, at: int, counted: bool) -> None:
        taken = self.attempts.pop(at % len(self.attempts))
        with self.scene.database.write() as session:
            lifecycle.requeue(session, taken.job, taken.token, actor=taken.actor, reason="a test", counted=counted)

    @rule()
    def cancel(self) -> None:
        for job in self._jobs(JobStatus.QUEUED, JobStatus.RUNNING)[:1]:
            self.scene.post(f"/v1/jobs/{job}/cancel", {"reason": "a test"}, "operator", 409)

    @precondition(lambda self: self.accepted)
    @rule(at=st.integers(0, 5), decision=st.sampled_from(["hold", "resume", "cancel"]))
    def decide(self, at: int, decision: str) -> None:
        request = sorted(self.accepted.values())[at % len(self.accepted)]
        self.scene.post(f"/v1/deletion-requests/{request}/{decision}", {"reason": "a test"}, "operator", 409)

    @invariant()
    def nothing_is_lost_or_twice(self) -> None:
        if hasattr(self, "scene"):
            with self.scene.database.read() as session:
                found = [
                    each
                    for check in (rows.stuck, rows.wrong_status, rows.jobs, rows.versions)
                    for each in check(session)
                ]
            assert found == []

    def _finish(self, taken: Claim) -> None:
        """As worker.tasks does around its child."""
        scene = self.scene
        folder = artifacts.staging(scene.settings.data_dir, taken.job.id, taken.token)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if taken.job.kind is JobKind.CERTIFY:
                finish.certify(scene.database, scene.settings, taken, folder)
                return
            with scene.database.read() as session:
                plan = make_plan(session, scene.settings, taken.job, folder)
            (folder / PLAN_FILE).write_text(dump(plan))
            outcome = outcomes.of(plan, case=None, rows=None, scores=False)
            listed = [files.write(folder / name, content) for name, content in files.of(plan, outcome).items()]
            result = Result(
                kind=plan.kind,
                status="succeeded",
                seconds={"load": 0.1},
                environment=ENVIRONMENT,
                files=[OutputFile(**file) for file in listed],
                outcome=outcome,
            )
            finish.finish(scene.database, scene.settings, taken, folder, result)
        except Exception as error:
            tasks._retry_or_fail(scene.database, taken, "internal", str(error))
        finally:
            artifacts.remove_folder(folder)

    def _resume_all(self) -> None:
        for request in self.accepted.values():
            self.scene.post(f"/v1/deletion-requests/{request}/resume", {"reason": "the end"}, "operator", 409)

    def _jobs(self, *statuses: JobStatus) -> list[uuid.UUID]:
        with self.scene.database.read() as session:
            return list(session.scalars(select(Job.id).where(Job.status.in_(statuses)).order_by(Job.id)))

    def _row(self, taken: Claim) -> Job:
        with self.scene.database.read() as session:
            return session.get_one(Job, taken.job.id)

    def _status(self, taken: Claim) -> JobStatus:
        return self._row(taken).status

    def _is_current(self, taken: Claim) -> bool:
        row = self._row(taken)
        return row.status is JobStatus.RUNNING and row.token == taken.token

    def _is_cancelled(self, taken: Claim) -> bool:
        return self._row(taken).cancel_requested_at is not None


@contextmanager
def _killed_at(point: str) -> Iterator[None]:
    """In this process an exception that nothing catches stands for the signal."""

    def kill(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(VARIABLE, point)
        patched.setattr("models.crashes.os.kill", kill)
        yield


def test_no_order_of_events_loses_a_request_or_does_one_twice(pair: Pair, request: pytest.FixtureRequest) -> None:
    def start() -> tuple[Scene, Callable[[], None]]:
        made: Settings = pair.at("trained")
        return Scene(made, receiver=pair.receiver), pair.forget_copies

    examples, steps = PROFILES[request.node.callspec.params["pair"]]
    machine: Any = type("LifeOnAPair", (Life,), {"start": staticmethod(start)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not LONG,
            suppress_health_check=list(HealthCheck),
        ),
    )
