"""/v1/reports"""

from __future__ import annotations

import hashlib
import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import select

from models.records import AuditReport, Model, ModelVersion
from models.settings import Settings
from service.deps import CurrentSettings, ReadSession
from service.errors import Damaged, NotFound, responses
from service.paging import Page, Paged
from service.schemas.common import NAME, Time
from service.schemas.reports import ReportAnswer
from service.security import AsCompliance

router = APIRouter(prefix="/v1/reports", tags=["reports"])

Verdict = Literal["pass", "over_unlearned", "under_unlearned", "inconclusive"]


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
        query = query.where(Model.name == model)
    if verdict is not None:
        query = query.where(AuditReport.verdict == verdict)
    if made_from is not None:
        query = query.where(AuditReport.created_at >= made_from)
    if made_to is not None:
        query = query.where(AuditReport.created_at < made_to)
    rows, cursor = paging.cut(session, query, AuditReport.id)
    return Page(data=[_report(row[0], row[1], row[2]) for row in rows], next_cursor=cursor)


@router.get("/{report_id}", responses={200: {"content": {"application/json": {}}}, **responses(NotFound, Damaged)})
def get_report(_: AsCompliance, report: LoadedReport, settings: CurrentSettings) -> Response:
    """The report for machines, byte for byte as it was stored."""
    return _file(settings, report.json_path, report.json_sha256, "application/json", f"report-{report.id}.json")


@router.get(
    "/{report_id}/pdf",
    response_class=Response,
    responses={200: {"content": {"application/pdf": {}}}, **responses(NotFound, Damaged)},
)
def get_report_pdf(_: AsCompliance, report: LoadedReport, settings: CurrentSettings) -> Response:
    """The report for people."""
    return _file(settings, report.pdf_path, report.pdf_sha256, "application/pdf", f"report-{report.id}.pdf")


def _file(settings: Settings, path: str, sha256: str, media_type: str, name: str) -> Response:
    """Reads it whole, so that what is sent is what was checked. Raises Damaged."""
    try:
        content = (settings.data_dir / path).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(
            "The stored report is not the one that was written: ask the operator to restore it from a back-up."
        )
    headers = {"ETag": f'"{sha256}"', "Content-Disposition": f'inline; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)


def _report(report: AuditReport, model: str, version: int) -> ReportAnswer:
    return ReportAnswer(
        id=report.id,
        model=model,
        version=version,
        job=report.job_id,
        edition=report.edition,
        supersedes=report.supersedes_id,
        verdict=report.verdict,
        json_sha256=report.json_sha256,
        pdf_sha256=report.pdf_sha256,
        created_at=report.created_at,
        links={"self": f"/v1/reports/{report.id}", "pdf": f"/v1/reports/{report.id}/pdf"},
    )
