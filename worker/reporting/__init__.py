"""Rows to the facts of a signed document, and its files, signed, into the job's folder."""

from worker.reporting.audits import write_edition, write_report
from worker.reporting.certificates import write_certificate
from worker.reporting.issuing import Written

__all__ = ["Written", "write_certificate", "write_edition", "write_report"]
