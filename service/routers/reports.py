"""/v1/reports"""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import select

from models.records import AuditReport, Model, ModelVersion
from models.settings import Settings
from service.bundle import bundle
from service.deps import CurrentSettings, ReadSession
from service.errors import Damaged, NotFound, responses
from service.lists.paging import Page, Paged
from service.schemas.common import NAME, Time
from service.schemas.reports import ReportAnswer
from service.security import AsCompliance
from service.stored import CSV, ENVELOPE, JSON, PDF, ZIP, sent, stored

router = APIRouter(prefix="/v1/reports", tags=["reports"])

Verdict = Literal["exact", "pass", "over_unlearned", "under_unlearned", "inconclusive", "not_audited"]


def _loaded(report_id: uuid.UUID, session: ReadSession) -> AuditReport:
    report = session.get(AuditReport, report_id)
    if report is None:
        raise NotFound("There is no report of this id.")
    return report


LoadedReport = Annotated[AuditReport, Depends(_loaded)]


@router.get("")
def list_reports(
    _: AsCompliance,
    session: ReadSession,
    paging: Paged,
    model: Annotated[str | None, Query(pattern=NAME)] = None,
    verdict: Annotated[Verdict | None, Query()] = None,
    made_from: Annotated[Time | None, Query(alias="from", description="Made at or after.")] = None,
    made_to: Annotated[Time | None, Query(alias="to", description="Made before.")] = None,
) -> Page[ReportAnswer]:
    """Audit reports, newest first."""
    query = (
        select(AuditReport, Model.name, ModelVersion.number)
        .join(Model, Model.id == AuditReport.model_id)
        .join(ModelVersion, ModelVersion.id == AuditReport.version_id)
    )
    if model is not None:
        query = query.where(AuditReport.model_id == session.scalar(select(Model.id).where(Model.name == model)))
    if verdict is not None:
        query = query.where(AuditReport.verdict == verdict)
    if made_from is not None:
        query = query.where(AuditReport.created_at >= made_from)
    if made_to is not None:
        query = query.where(AuditReport.created_at < made_to)
    rows, cursor = paging.cut(session, query, AuditReport.created_at, AuditReport.id)
    return Page(data=[_report(row[0], row[1], row[2]) for row in rows], next_cursor=cursor)


def _content(*media_types: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {} for media_type in media_types}}, **responses(NotFound, Damaged)}


@router.get("/{report_id}", response_class=Response, responses=_content(JSON))
def get_report(_: AsCompliance, report: LoadedReport, settings: CurrentSettings) -> Response:
    """The report for machines, byte for byte as it was stored."""
    content = stored(settings, report.json_path, report.json_sha256)
    return sent(content, JSON, f"report-{report.id}.json")


@router.get("/{report_id}/pdf", response_class=Response, responses=_content(PDF))
def get_report_pdf(_: AsCompliance, report: LoadedReport, settings: CurrentSettings) -> Response:
    """The report for people."""
    return sent(stored(settings, report.pdf_path, report.pdf_sha256), PDF, f"report-{report.id}.pdf")


@router.get("/{report_id}/samples.csv", response_class=Response, responses=_content(CSV))
def get_report_samples(_: AsCompliance, report: LoadedReport, settings: CurrentSettings) -> Response:
    """The report's table of samples, one line each; samples are keyed references."""
    return sent(_signed(settings, report)["samples.csv"], CSV, f"samples-{report.id}.csv")


@router.get("/{report_id}/envelope", response_class=Response, responses=_content(ENVELOPE))
def get_report_envelope(_: AsCompliance, report: LoadedReport, settings: CurrentSettings) -> Response:
    """The signature: a DSSE envelope around an in-toto statement that names the sha256 of each file."""
    return sent(_signed(settings, report)["envelope.json"], ENVELOPE, f"envelope-{report.id}.json")


@router.get("/{report_id}/bundle", response_class=Response, responses=_content(ZIP))
def get_report_bundle(_: AsCompliance, report: LoadedReport, settings: CurrentSettings) -> Response:
    """Everything that is needed to check the report offline, except the key: that one comes from a trusted source."""
    contents = {
        "report.json": stored(settings, report.json_path, report.json_sha256),
        "report.pdf": stored(settings, report.pdf_path, report.pdf_sha256),
        **_signed(settings, report),
    }
    return sent(bundle(contents), ZIP, f"report-{report.id}.zip")


def _signed(settings: Settings, report: AuditReport) -> dict[str, bytes]:
    """What a report has since reports are signed, by its name in a bundle. Raises NotFound, Damaged."""
    files = {
        "samples.csv": (report.csv_path, report.csv_sha256),
        "envelope.json": (report.envelope_path, report.envelope_sha256),
    }
    found = {}
    for name, (path, sha256) in files.items():
        if path is None or sha256 is None:
            raise NotFound("This report was made before reports were signed: it has a JSON and a PDF file only.")
        found[name] = stored(settings, path, sha256)
    return found


def _report(report: AuditReport, model: str, version: int) -> ReportAnswer:
    own = f"/v1/reports/{report.id}"
    links = {"self": own, "pdf": f"{own}/pdf"}
    if report.envelope_path is not None:
        links |= {"samples": f"{own}/samples.csv", "envelope": f"{own}/envelope", "bundle": f"{own}/bundle"}
    return ReportAnswer(
        id=report.id,
        model=model,
        version=version,
        job=report.job_id,
        edition=report.edition,
        supersedes=report.supersedes_id,
        kind=report.kind,
        verdict=report.verdict,
        json_sha256=report.json_sha256,
        pdf_sha256=report.pdf_sha256,
        csv_sha256=report.csv_sha256,
        key_id=report.key_id,
        created_at=report.created_at,
        links=links,
    )
