"""Rows of signed documents: audit reports and their editions, re-audits, certificates."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.base import now
from models.records import AuditReport, Certificate, DeletionRequest, Model, ModelVersion, record_event
from worker.commits.finished import Finished
from worker.plan import PLAN_FILE, AuditPlan, load_plan

REPORT_FILES = {"json": "report.json", "pdf": "report.pdf", "csv": "samples.csv", "envelope": "envelope.json"}
CERTIFICATE_FILES = REPORT_FILES | {"json": "certificate.json", "pdf": "certificate.pdf"}


def audit_report(finished: Finished, version: ModelVersion, *, kind: str = "audit_report") -> AuditReport:
    """The row of an unlearn job's report, or of a re-audit's."""
    written = finished.documents
    return AuditReport(
        id=written.document_id,
        job_id=finished.taken.job.id,
        model_id=version.model_id,
        version_id=version.id,
        edition=written.edition,
        supersedes_id=written.supersedes,
        kind=kind,
        verdict=written.verdict,
        key_id=written.key_id,
        created_at=_begun(finished),
        **_files(finished, REPORT_FILES),
    )


def audit(session: Session, finished: Finished) -> None:
    """A re-audit: nothing changes but that there is one more report."""
    plan = load_plan(finished.folder / PLAN_FILE)
    if not isinstance(plan, AuditPlan):
        raise TypeError(f"a re-audit is made of an audit job, not of kind {plan.kind}")
    version = session.scalars(
        select(ModelVersion).where(
            ModelVersion.model_id == finished.taken.job.model_id, ModelVersion.sha256 == plan.base.sha256
        )
    ).first()
    if version is None:
        raise ValueError(f"job {finished.taken.job.id} audited a checkpoint that no version has")
    session.add(audit_report(finished, version, kind="re_audit"))
    _event(session, finished, "report.issued", "model", version.model_id)


def edition(session: Session, finished: Finished) -> None:
    """A new edition of a report, because a person decided something since the last."""
    earlier = session.get_one(AuditReport, finished.documents.supersedes)
    written = finished.documents
    session.add(
        AuditReport(
            id=written.document_id,
            job_id=earlier.job_id,
            model_id=earlier.model_id,
            version_id=earlier.version_id,
            edition=written.edition,
            supersedes_id=earlier.id,
            kind=earlier.kind,
            verdict=written.verdict,
            key_id=written.key_id,
            created_at=_begun(finished),
            **_files(finished, REPORT_FILES),
        )
    )
    model = session.get_one(Model, earlier.model_id)
    _event(session, finished, "report.edition_issued", "model", model.id)


def certificate(session: Session, finished: Finished) -> None:
    written = finished.documents
    request = session.get_one(DeletionRequest, finished.taken.job.about_id)
    session.add(
        Certificate(
            id=written.document_id,
            request_id=request.id,
            job_id=finished.taken.job.id,
            edition=written.edition,
            supersedes_id=written.supersedes,
            outcome=written.verdict,
            key_id=written.key_id,
            created_at=_begun(finished),
            **_files(finished, CERTIFICATE_FILES),
        )
    )
    request.certified_at = _begun(finished)
    if request.rejected_at is None and request.samples_kept is None:
        request.selectors = None  # also where everything that they named had been erased before
    _event(session, finished, "certificate.issued", "deletion_request", request.id)


def _begun(finished: Finished) -> Any:
    """Before any fact was read: what is decided after this is not in the document."""
    return finished.taken.job.started_at or now()


def _files(finished: Finished, names: dict[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for part, name in names.items():
        values[f"{part}_path"] = finished.path(name)
        values[f"{part}_sha256"] = finished.files[name].sha256
    return values


def _event(session: Session, finished: Finished, name: str, record: str, record_id: Any) -> None:
    written = finished.documents
    record_event(
        session,
        name,
        record,
        record_id,
        finished.taken.actor,
        document=str(written.document_id),
        edition=written.edition,
        key_id=written.key_id,
        sha256=(written.files.get("certificate.json") or written.files["report.json"]).sha256,
    )
