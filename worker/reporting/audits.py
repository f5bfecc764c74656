"""The audit report of an unlearn job, the report of a re-audit, and later editions of either."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from models import artifacts, holdings
from models.among import among
from models.base import now
from models.evidence import sample_reference
from models.parameters import Policy
from models.records import (
    AuditReport,
    DeletionRequest,
    Erasure,
    Event,
    Job,
    Model,
    ModelVersion,
    Split,
)
from models.rehearsals import rehearsal_failed
from models.secrets import SAMPLE_REFERENCES, load_or_create
from models.session import Database
from models.settings import Settings
from worker import gate, plans, report
from worker.claim import Claim
from worker.plan import PLAN_FILE, AuditPlan, Result, UnlearnPlan, load_plan
from worker.reporting import rows
from worker.reporting.issuing import Written, head, issue, signing_key

CHECKPOINT = "checkpoint.safetensors"

Json = dict[str, Any]


class DocumentDamaged(RuntimeError):
    """A stored document is not the one that its row names."""


def write_report(database: Database, settings: Settings, taken: Claim, folder: Path, result: Result) -> Written:
    """The signed report of an unlearn or audit job, into ``folder``."""
    plan = load_plan(folder / PLAN_FILE)
    if not isinstance(plan, UnlearnPlan | AuditPlan):
        raise TypeError(f"a report is made of an unlearn or audit job, not of kind {plan.kind}")
    key = signing_key(database, settings)
    issued_at = now()
    made = isinstance(plan, UnlearnPlan)
    with database.read() as session:
        facts = gather(session, settings, taken, plan, result, issued_at)
    facts["head"] = head(settings, key, "audit_report" if made else "re_audit", issued_at)
    document = report.audit_report(facts, result) if made else report.re_audit(facts, result)
    return issue(folder, key, document, {CHECKPOINT: _checkpoint(document)})


def write_edition(database: Database, settings: Settings, taken: Claim, folder: Path) -> Written:
    """The next signed edition of the report that a certify job is about: with what people have decided since."""
    key = signing_key(database, settings)
    issued_at = now()
    with database.read() as session:
        earlier = session.get_one(AuditReport, taken.job.about_id)
        document = load_document(settings, earlier)
        version = session.get_one(ModelVersion, earlier.version_id)
        model = session.get_one(Model, earlier.model_id)
        job = session.get_one(Job, earlier.job_id)
        edition = report.edition(
            document,
            head(settings, key, earlier.kind, issued_at),
            rows.overrides(session, model, version.number),
            rows.recipients(session, _knowing(session, version)),
            rows.trail(session, settings, _about(job, model, version.number)),
        )
    return issue(folder, key, edition, {CHECKPOINT: _checkpoint(edition)})


def load_document(settings: Settings, row: AuditReport) -> Json:
    """The stored JSON of a report. Raises DocumentDamaged."""
    path = settings.data_dir / row.json_path
    if not path.is_file() or artifacts.sha256_of(path) != row.json_sha256:
        raise DocumentDamaged(f"report {row.id} is missing or was changed: restore it from a back-up")
    document: Json = json.loads(path.read_bytes())
    return document


def gather(
    session: Session,
    settings: Settings,
    taken: Claim,
    plan: UnlearnPlan | AuditPlan,
    result: Result,
    issued_at: datetime,
) -> Json:
    """What the rows know of a job that is about to finish. Samples appear as keyed references only."""
    job = taken.job
    model = session.get_one(Model, job.model_id)
    base = session.scalars(
        select(ModelVersion)
        .where(ModelVersion.model_id == model.id, ModelVersion.sha256 == plan.base.sha256)
        .order_by(ModelVersion.number.desc())
    ).first()
    if base is None:
        raise ValueError(f"job {job.id} started from a checkpoint that no version has")
    requests = _requests(session, _erasures(session, job, plan))
    key = load_or_create(settings.secrets, SAMPLE_REFERENCES)
    policy = Policy.model_validate(model.policy)
    rehearsed = plans.rehearsed(model, len(plan.forget))
    new = next((file for file in result.files if file.name == CHECKPOINT), None)
    number = job.version_number if isinstance(plan, UnlearnPlan) else base.number
    return {
        "requests": [rows.request(session, request, issued_at) for request in requests],
        "slices": _slices(session, requests, plan),
        "samples": {index: sample_reference(key, model.training_set_id, index) for index in plan.forget},
        "scope": {
            "training_set": rows.training_set(model.training_set),
            "model": model.name,
            "network": model.network,
            "recipe": model.recipe,
            "uploaded_checkpoint": model.checkpoint,
            "base_version": rows.version(base),
            "new_version": {"number": number, "sha256": new.sha256, "size": new.size} if new else None,
        },
        "form": plan.unlearn.form if isinstance(plan, UnlearnPlan) else None,
        "seed": str(job.seed),
        "job": {
            "id": str(job.id),
            "attempt": job.attempts,
            "worker": taken.worker,
            "started_at": rows.at_or_none(job.started_at),
            "ended_at": rows.at(issued_at),
        },
        "policy": policy.model_dump(mode="json"),
        "rehearsed": _rehearsed(policy, rehearsed, len(plan.forget)),
        "gate": _gate(result, policy, rehearsed),
        "overrides": [],
        "downloads": rows.recipients(session, _knowing(session, base, itself=True)),
        "trail": rows.trail(session, settings, _about(job, model, number)),
    }


def _checkpoint(document: Json) -> str:
    """sha256 of the checkpoint that the report is about."""
    scope = document["scope"]
    return str((scope["new_version"] or scope["base_version"])["sha256"])


def _erasures(session: Session, job: Job, plan: UnlearnPlan | AuditPlan) -> list[Any]:
    if isinstance(plan, UnlearnPlan):
        return plans.forgetting(session, job)
    return list(
        session.scalars(
            select(Erasure.id).where(Erasure.model_id == job.model_id, Erasure.status.in_(holdings.UNFINISHED))
        )
    )


def _requests(session: Session, erasures: list[Any]) -> list[DeletionRequest]:
    return list(
        session.scalars(
            select(DeletionRequest)
            .join(Erasure, Erasure.request_id == DeletionRequest.id)
            .where(among(Erasure.id, erasures))
            .order_by(DeletionRequest.id)
        )
    )


def _slices(session: Session, requests: list[DeletionRequest], plan: UnlearnPlan | AuditPlan) -> list[str | None]:
    """Whose samples each slice of the plan is: by the samples themselves, since rows may have moved on meanwhile."""
    wanted = set(plan.forget)
    named = [(str(each.id), sorted(_named(session, each) & wanted)) for each in requests]
    found: list[str | None] = []
    for part in plan.requests:
        owner = next((pair for pair in named if pair[1] == part), None)
        found.append(owner[0] if owner else None)
        if owner:
            named.remove(owner)
    return found


def _named(session: Session, request: DeletionRequest) -> set[int]:
    return set(rows.samples_of(session, request, Split.TRAIN))


def _rehearsed(policy: Policy, strength: Json | None, size: int) -> Json | None:
    if strength is None:
        return None
    why_not = rehearsal_failed(policy, strength, size)
    return {"passed": why_not is None, "why_not": why_not, "strength": strength}


def _gate(result: Result, policy: Policy, rehearsed: Json | None) -> Json | None:
    if result.kind != "unlearn" or result.outcome is None:
        return None
    made = gate.of_outcome(result.outcome, policy, rehearsed)
    return {"decision": made.decision, "cause": made.cause, "reason": made.reason, "rule": gate.RULE}


def _knowing(session: Session, version: ModelVersion, *, itself: bool = False) -> list[ModelVersion]:
    """Versions before this one: they know what it was made to forget."""
    ids = holdings.lineage(session, version)
    return rows.by_ids(session, ids if itself else ids[1:])


def _about(job: Job, model: Model, number: int | None) -> ColumnElement[bool]:
    """Events of the job, and of the version that it made or audited."""
    of_job = and_(Event.record == "job", Event.record_id == str(job.id))
    of_version = and_(
        Event.record == "model", Event.record_id == str(model.id), Event.data["version"].as_integer() == number
    )
    return or_(of_job, of_version)
