"""Measurements and rows to signed documents' contents: JSON for machines, PDF for people, CSV of samples. No torch."""

from worker.report.certificate import certificate, from_report
from worker.report.document import audit_report, digest, dumps, edition, re_audit
from worker.report.pages import render_pdf
from worker.report.samples import samples_csv

__all__ = [
    "audit_report",
    "certificate",
    "digest",
    "dumps",
    "edition",
    "from_report",
    "re_audit",
    "render_pdf",
    "samples_csv",
]
