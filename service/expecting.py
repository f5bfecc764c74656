"""What a model's earlier jobs and its rehearsal let expect of the next request. Where nothing was measured: nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.parameters import Policy
from models.records import Erasure, ErasureStatus, Job, JobKind, JobStatus, Model, ModelStatus
from models.rehearsals import REHEARSED_WITHIN, rehearsal_failed, rehearsed
from service.duties import batching
from service.schemas.previews import (
    AccuracyAnswer,
    EstimateAnswer,
    InconclusiveAnswer,
    QueueAnswer,
    RehearsedAnswer,
    Spread,
)

LAST_JOBS = 50  # older ones ran with other code or on another machine
MOST_COUNTED = 1000


@dataclass(frozen=True)
class Earlier:
    """A succeeded unlearn job: how long it took, how many samples it forgot, what that did to the accuracy."""

    seconds: float
    forget: int | None
    accuracy_change: float | None

    def comparable(self, size: int) -> bool:
        return self.forget is not None and alike(self.forget, size)


def alike(one: int, other: int) -> bool:
    """Whether two sizes are within the factor that rehearsal is good for."""
    return max(one, other) <= REHEARSED_WITHIN * min(one, other)


def earlier_jobs(session: Session, model: Model) -> list[Earlier]:
    """The model's last succeeded unlearn jobs, newest first."""
    query = (
        select(Job.started_at, Job.finished_at, Job.measured)
        .where(Job.model_id == model.id, Job.kind == JobKind.UNLEARN, Job.status == JobStatus.SUCCEEDED)
        .order_by(Job.id.desc())
        .limit(LAST_JOBS)
    )
    found = []
    for started, finished, measured in session.execute(query):
        if started is not None and finished is not None:
            values = measured or {}
            before, after = values.get("accuracy_before"), values.get("accuracy_after")
            change = after - before if before is not None and after is not None else None
            found.append(Earlier((finished - started).total_seconds(), values.get("forget"), change))
    return found


def estimate(jobs: Sequence[Earlier], size: int) -> EstimateAnswer | None:
    used, comparable = _nearest(jobs, size)
    if not used:
        return None
    return EstimateAnswer(seconds=_spread([job.seconds for job in used]), jobs=len(used), comparable=comparable)


def accuracy_change(jobs: Sequence[Earlier], model: Model, size: int) -> AccuracyAnswer | None:
    """From the jobs; else from the model's rehearsal at the nearest size."""
    used, comparable = _nearest([job for job in jobs if job.accuracy_change is not None], size)
    if used:
        spread = _spread([job.accuracy_change for job in used if job.accuracy_change is not None])
        return AccuracyAnswer(
            change=spread.median,
            source="earlier_jobs",
            lowest=spread.lowest,
            highest=spread.highest,
            count=len(used),
            size=None,
            comparable=comparable,
        )
    strength = rehearsed(model.training, size)
    if strength is None:
        return None
    return AccuracyAnswer(
        change=strength["accuracy_change_mean"],
        source="rehearsal",
        lowest=None,
        highest=None,
        count=strength["requests"],
        size=strength["size"],
        comparable=alike(strength["size"], size),
    )


def rehearsal(model: Model, policy: Policy, size: int) -> RehearsedAnswer:
    strength = rehearsed(model.training, size)
    failed = rehearsal_failed(policy, strength, size)
    return RehearsedAnswer(passed=failed is None, size=strength["size"] if strength else None, reason=failed)


def inconclusive(policy: Policy, passed: bool) -> InconclusiveAnswer:
    """As the worker's gate decides."""
    if policy.inconclusive == "release":
        meaning = (
            "the new version is served, since rehearsal passed for this size"
            if passed
            else "the new version is kept back until a person releases it, since rehearsal does not speak for this size"
        )
        return InconclusiveAnswer(policy=policy.inconclusive, released=passed, meaning=meaning)
    if policy.inconclusive == "wait_for_batch":
        meaning = "it waits for more requests, until shortly before it is due; then the model is retrained without them"
        return InconclusiveAnswer(policy=policy.inconclusive, released=False, meaning=meaning)
    meaning = "the model is retrained without the samples"
    return InconclusiveAnswer(policy=policy.inconclusive, released=None, meaning=meaning)


def queue(session: Session, model: Model, begins: bool, received: datetime, due: datetime) -> QueueAnswer:
    """``begins``: nothing but gathering keeps the request back."""
    # Every kind by name: the index has it between model and status.
    waiting = select(Job.status).where(
        Job.model_id == model.id, Job.status.in_([JobStatus.RUNNING, JobStatus.QUEUED]), Job.kind.in_(list(JobKind))
    )
    states = list(session.scalars(waiting))
    unbegun = (
        select(Erasure.id)
        .where(Erasure.model_id == model.id, Erasure.status == ErasureStatus.OPEN)
        .limit(MOST_COUNTED)
        .subquery()
    )
    return QueueAnswer(
        running=JobStatus.RUNNING in states,
        queued=states.count(JobStatus.QUEUED),
        requests=session.scalar(select(func.count()).select_from(unbegun)) or 0,
        starts_by=_starts_by(session, model, received, due) if begins else None,
    )


def _starts_by(session: Session, model: Model, received: datetime, due: datetime) -> datetime | None:
    """With one request more, received now, than wait for the model."""
    if model.status is not ModelStatus.READY:
        return None
    waiting = batching.gatherings(session, [model.id]).get(model.id)
    gathering = waiting.joined(received, due) if waiting else batching.Gathering(1, received, due)
    return batching.starts_by(batching.of_model(model), gathering, received)


def _nearest(jobs: Sequence[Earlier], size: int) -> tuple[Sequence[Earlier], bool]:
    """Jobs of about this size; where there are none, all of them."""
    comparable = [job for job in jobs if job.comparable(size)]
    return (comparable, True) if comparable else (jobs, False)


def _spread(values: Sequence[Any]) -> Spread:
    return Spread(median=statistics.median(values), lowest=min(values), highest=max(values))
