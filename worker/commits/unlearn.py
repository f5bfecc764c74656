"""An unlearned version: the gate's decision, and what it means for the model, the erasures and the evidence."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models import holdings
from models.among import among
from models.base import now
from models.moves import advance
from models.parameters import Policy
from models.records import (
    Erasure,
    ErasureStatus,
    Job,
    Model,
    ModelStatus,
    ModelVersion,
    VersionStatus,
    record_event,
)
from models.release import release, released_version
from worker import gate, plans
from worker.commits.evidence import audit_report
from worker.commits.finished import Finished, Overtaken
from worker.commits.versions import new_version
from worker.plan import PLAN_FILE, UnlearnPlan, load_plan

IN_MEMORY = "held in the memory of the job's process, never written to a file; the process has ended"

log = structlog.get_logger(__name__)


def unlearn(session: Session, finished: Finished) -> None:
    """Raises Overtaken where a person has released another version, or withdrawn the model, since the job began."""
    taken, outcome = finished.taken, finished.outcome
    plan = load_plan(finished.folder / PLAN_FILE)
    assert isinstance(plan, UnlearnPlan)  # noqa: S101 - the job's kind says so
    model = session.get_one(Model, taken.job.model_id, with_for_update={"of": Model})
    parent = released_version(session, model)
    if parent is None or not plan.base.path.endswith(f"/{parent.path}"):
        raise Overtaken
    erasures = plans.forgetting(session, taken.job)
    policy = Policy.model_validate(model.policy)
    decision = gate.of_outcome(outcome, policy, plans.rehearsed(model, outcome["forget"]))
    version = new_version(finished, parent=parent.id, verdict=outcome["verdict"])
    if outcome["verdict"] == holdings.EXACT:
        everything = holdings.train_rows(session, model.training_set_id)
        version.never_trained = sorted(everything - set(plan.retain))
    session.add(version)
    session.flush()
    session.add(audit_report(finished, version))
    peaks = session.scalar(select(Job.measured).where(Job.id == taken.job.id)) or {}
    session.execute(update(Job).where(Job.id == taken.job.id).values(measured=peaks | _measured(outcome)))
    if decision.released:
        release(session, model, version, actor=taken.actor, reason=None)
        _finish_erasures(session, finished, erasures, version, ErasureStatus.DONE)
    else:
        _quarantine(session, finished, model, version, decision)
        _finish_erasures(session, finished, erasures, version, ErasureStatus.AWAITING_RELEASE)
    if outcome["withdraw"]:
        _withdraw(session, finished, model, parent)
    if outcome["incident"]:
        log.error("audit.disagrees_with_retraining", alert=True, job=str(taken.job.id), model=model.name)
        record_event(session, "audit.incident", "model", model.id, taken.actor, version=version.number)
    if outcome["adversarial"] is not None:
        record_event(
            session,
            "adversarial_set.gone",
            "job",
            taken.job.id,
            taken.actor,
            samples=outcome["adversarial"]["found"],
            method=IN_MEMORY,
            verified=True,  # the supervisor has seen it end before anything is committed
        )


def _measured(outcome: dict[str, Any]) -> dict[str, Any]:
    """What estimates for later requests rest on; accuracies, 0..1, are those on never-trained controls."""
    return {
        "forget": outcome["forget"],
        "accuracy_before": outcome["before"]["utility"]["controls"],
        "accuracy_after": outcome["after"]["utility"]["controls"],
    }


def _quarantine(session: Session, finished: Finished, model: Model, version: ModelVersion, decision: gate.Gate) -> None:
    advance(session, ModelVersion, ModelVersion.id == version.id, VersionStatus.QUARANTINED, reason=decision.reason)
    record_event(
        session,
        "version.quarantined",
        "model",
        model.id,
        finished.taken.actor,
        version=version.number,
        sha256=version.sha256,
        verdict=version.verdict,
        cause=decision.cause,
        reason=decision.reason,
    )


def _withdraw(session: Session, finished: Finished, model: Model, served: ModelVersion) -> None:
    """Nothing that was tried may be released, and what is served knows what it was asked to forget."""
    reason = "every step of the ladder failed: the model is withdrawn until a person decides"
    advance(session, ModelVersion, ModelVersion.id == served.id, VersionStatus.QUARANTINED, reason=reason)
    advance(session, Model, Model.id == model.id, ModelStatus.WITHDRAWN, released_number=None)
    log.error("model.withdrawn", alert=True, model=model.name, job=str(finished.taken.job.id))
    record_event(session, "model.withdrawn", "model", model.id, finished.taken.actor, reason=reason)


def _finish_erasures(
    session: Session, finished: Finished, erasures: list[Any], version: ModelVersion, target: ErasureStatus
) -> None:
    taken = finished.taken
    done = target is ErasureStatus.DONE
    # Those that waited for an earlier version to be released were forgotten by this one too.
    starts = [ErasureStatus.RUNNING, ErasureStatus.AWAITING_RELEASE] if done else [ErasureStatus.RUNNING]
    moved = advance(
        session,
        Erasure,
        among(Erasure.id, erasures),
        target,
        only_from=starts,
        version_id=version.id,
        finished_at=now() if done else None,
    )
    record_event(
        session, f"erasures.{target.value}", "job", taken.job.id, taken.actor, erasures=moved, version=version.number
    )
