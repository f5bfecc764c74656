"""The published JSON Schemas: those of the code, and every document keeps to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.worker.report import cases
from worker import report
from worker.report import published

DOCS = Path(__file__).parents[3] / "docs"
AUDIT, CERTIFICATE = "audit-report.schema.json", "erasure-certificate.schema.json"


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for case in cases.CASES:
        yield AUDIT, cases.audit_document(case)
    yield AUDIT, cases.overridden(cases.audit_document("over"))
    yield AUDIT, cases.re_audit_document()
    yield CERTIFICATE, report.certificate(cases.certificate_facts(cases.audit_document("retrained")))
    yield CERTIFICATE, cases.rejected_certificate()


@pytest.mark.parametrize("name", [AUDIT, CERTIFICATE])
def test_the_published_schema_is_that_of_the_code(name: str) -> None:
    stored = (DOCS / name).read_text(encoding="utf-8")
    assert stored == published.text(published.schemas()[name]), "run: python -m worker.report.published docs"
    Draft202012Validator.check_schema(json.loads(stored))


def test_every_document_keeps_to_the_published_schema() -> None:
    for name, document in documents():
        validator = Draft202012Validator(json.loads((DOCS / name).read_text(encoding="utf-8")))
        parsed = json.loads(report.dumps(document))
        assert validator.is_valid(parsed), next(iter(validator.iter_errors(parsed))).message
        assert not validator.is_valid({**parsed, "score": 1})
        del parsed["trail"]
        assert not validator.is_valid(parsed)


def test_documents_of_the_schema_before_keep_to_the_published_one() -> None:
    for name, document in documents():
        document["document"]["schema_version"] = "1.0"
        scope = document["scope"]
        del scope["training_set"]["near_duplicates"]
        scope.pop("uploaded_checkpoint", None)
        scope.pop("near_duplicates", None)
        validator = Draft202012Validator(json.loads((DOCS / name).read_text(encoding="utf-8")))
        assert validator.is_valid(json.loads(report.dumps(document)))
