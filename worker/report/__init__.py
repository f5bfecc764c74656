"""Measurements and rows to an audit report: JSON for machines, PDF for people. No torch."""

from worker.report.document import build, dumps
from worker.report.pages import render_pdf

__all__ = ["build", "dumps", "render_pdf"]
