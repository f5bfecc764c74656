"""The JSON Schemas of the documents, as published: ``python -m worker.report.published FOLDER`` writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from models.verify import AUDIT_REPORT, ERASURE_CERTIFICATE
from worker.report.schema import AuditDocument, CertificateDocument

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """Schema by the name of its file; each ``$id`` is also the predicate type of the document's signature."""
    kinds: dict[str, tuple[str, str, type[BaseModel]]] = {
        "audit-report.schema.json": (AUDIT_REPORT, "AMUN audit report", AuditDocument),
        "erasure-certificate.schema.json": (ERASURE_CERTIFICATE, "AMUN erasure certificate", CertificateDocument),
    }
    return {
        name: {"$schema": DIALECT, "$id": uri} | kind.model_json_schema() | {"title": title}
        for name, (uri, title, kind) in kinds.items()
    }


def text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file, schema in schemas().items():
        (Path(sys.argv[1]) / file).write_text(text(schema), encoding="utf-8")
