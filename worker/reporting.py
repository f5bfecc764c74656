"""Rows to the facts of an audit report, and the report's files into the job's folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import artifacts
from models.base import new_id, now
from models.evidence import sample_reference
from models.parameters import Policy
from models.records import Application, DeletionRequest, Erasure, Model, ModelVersion, RequestSample
from models.release import released_version
from models.secrets import SAMPLE_REFERENCES, load_or_create
from models.session import Database
from models.settings import Settings
from worker import plans, report
from worker.claim import Claim
from worker.plan import PLAN_FILE, OutputFile, Result, UnlearnPlan, load_plan

REPORT_JSON = "report.json"
REPORT_PDF = "report.pdf"
GATE_RULE = "released where the audit's verdict is pass; otherwise quarantined until a person decides"


def write_report(
    database: Database, settings: Settings, taken: Claim, folder: Path, result: Result
) -> dict[str, OutputFile]:
    """Write report.json and report.pdf into ``folder``; returns them by name, hashed."""
    plan = load_plan(folder / PLAN_FILE)
    if not isinstance(plan, UnlearnPlan):
        raise TypeError(f"a report is made of an unlearn job, not of kind {plan.kind}")
    with database.read() as session:
        facts = gather(session, settings, taken, plan, result)
    document = report.build(facts, result)
    (folder / REPORT_JSON).write_bytes(report.dumps(document))
    report.render_pdf(document, folder / REPORT_PDF)
    return {name: _described(folder / name) for name in (REPORT_JSON, REPORT_PDF)}


def gather(session: Session, settings: Settings, taken: Claim, plan: UnlearnPlan, result: Result) -> dict[str, Any]:
    """What the rows know of a job that is about to finish. Samples appear as keyed references only."""
    job = taken.job
    model = session.get_one(Model, job.model_id)
    training_set = model.training_set
    base = released_version(session, model)
    checkpoint = next(file for file in result.files if file.name.endswith(".safetensors"))
    key = load_or_create(settings.secrets, SAMPLE_REFERENCES)
    rehearsal = (model.training or {}).get("rehearsal", [])
    verdict = (result.outcome or {})["after"]["audit"]["verdict"]
    return {
        "report_id": str(new_id()),
        "issued_at": now().isoformat(timespec="seconds"),
        "issuer": settings.issuer,
        "job": {
            "id": str(job.id),
            "seed": job.seed,
            "attempt": job.attempts,
            "started_at": job.started_at.isoformat(timespec="seconds") if job.started_at else None,
            "worker": taken.worker,
        },
        "model": {
            "name": model.name,
            "network": model.network,
            "recipe": model.recipe,
            "base": _version(base),
            "new": {"number": job.version_number, "sha256": checkpoint.sha256, "size": checkpoint.size},
        },
        "training_set": {
            "name": training_set.name,
            "manifest_sha256": training_set.manifest_sha256,
            "rows": training_set.rows,
            "shape": training_set.shape,
            "classes": training_set.classes,
        },
        "requests": [_request(session, request) for request in _requests(session, taken)],
        "samples": {index: sample_reference(key, training_set.id, index) for index in plan.forget},
        "policy": Policy.model_validate(model.policy).model_dump(mode="json"),
        "rehearsed": plans.nearest_strength(rehearsal, len(plan.forget)) if rehearsal else None,
        "form": plan.unlearn.form,
        "gate": {"decision": "released" if verdict == "pass" else "quarantined", "rule": GATE_RULE},
    }


def _requests(session: Session, taken: Claim) -> list[DeletionRequest]:
    served = plans.forgetting(session, taken.job)
    return list(
        session.scalars(
            select(DeletionRequest)
            .join(Erasure, Erasure.request_id == DeletionRequest.id)
            .where(Erasure.id.in_(served))
            .order_by(DeletionRequest.id)
        )
    )


def _request(session: Session, request: DeletionRequest) -> dict[str, Any]:
    application = session.get_one(Application, request.application_id)
    named = len(list(session.scalars(select(RequestSample.sample_index).where(RequestSample.request_id == request.id))))
    return {
        "id": str(request.id),
        "external_id": request.external_id,
        "regulation": request.regulation,
        "ground": request.ground,
        "application": application.name,
        "received_at": request.received_at.isoformat(timespec="seconds"),
        "due_at": request.due_at.isoformat(timespec="seconds"),
        "resolution": dict(Counter(answer["outcome"] for answer in request.selectors or [])),
        "samples": named,
    }


def _version(version: ModelVersion | None) -> dict[str, Any] | None:
    return {"number": version.number, "sha256": version.sha256} if version is not None else None


def _described(path: Path) -> OutputFile:
    return OutputFile(name=path.name, sha256=artifacts.sha256_of(path), size=path.stat().st_size)
