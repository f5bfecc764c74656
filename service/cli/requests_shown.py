"""Deletion requests as people see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from service.cli.output import Columns, Row, at, details, due, note, table

ERASURES: Columns = {
    "model": "model",
    "status": "status",
    "version": "version",
    "job": "job",
    "report": "report",
    "finished": at("finished_at"),
    "reason": "reason",
}
COMMON: Columns = {
    "id": "id",
    "status": "status",
    "application": "application",
    "training set": "training_set",
    "due": due,
    "extended": at("extended_at"),
    "extension reason": "extension_reason",
    "regulation": "regulation",
    "ground": "ground",
    "external id": "external_id",
    "submitted": at("submitted_at"),
    "received": at("received_at"),
}


def request_rows(rows: Sequence[Row]) -> None:
    table(
        rows,
        {
            "id": "id",
            "status": "status",
            "due": due,
            "application": "application",
            "training set": "training_set",
            "models": lambda row: [erasure["model"] for erasure in row["erasures"]],
            "external id": "external_id",
            "received": at("received_at"),
        },
    )


def show_receipt(receipt: Row) -> None:
    shown: Columns = {
        **COMMON,
        "models": "models",
        "samples": lambda row: _outcomes(row["samples"]),
        "needs approval": lambda row: row["approval_required"] or None,
    }
    details(receipt, shown)
    note(f"follow it: amun requests watch {receipt['id']}")


def show_request(request: Row) -> None:
    shown: Columns = {
        **COMMON,
        "needs approval": lambda row: row["approval_required"] or None,
        "decision": "decision_reason",
        "samples": lambda row: _outcomes(row["samples"]) or (row["resolution"] or {}).get("outcomes"),
        "erased": at("samples_erased_at"),
        "kept": "samples_kept",
        "certificate": "certificate",
    }
    details(request, shown)
    if request["erasures"]:
        print()
        table(request["erasures"], ERASURES)


def _outcomes(samples: Sequence[Row]) -> dict[str, Any]:
    """Selectors by outcome. Their values stay out of sight: they may name people."""
    counts = Counter(sample["outcome"] for sample in samples)
    return {outcome.replace("_", " "): count for outcome, count in counts.items()}
