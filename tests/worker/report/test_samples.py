"""samples.csv against the document it was made of."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from tests.worker.report import cases
from worker import report
from worker.report import samples


def table(document: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report.samples_csv(document).decode(), newline="")))


def test_an_audit_has_a_line_for_each_sample_with_z_before_and_after() -> None:
    document = cases.audit_document("pass")
    rows = table(document)
    assert tuple(rows[0]) == samples.AUDIT
    before = {sample["reference"]: sample["z"] for sample in document["audit"]["before"]["samples"]}
    for row, sample in zip(rows, document["audit"]["after"]["samples"], strict=True):
        assert row["sample"] == sample["reference"]
        assert float(row["z_before"]) == pytest.approx(before[sample["reference"]], rel=1e-5)
        assert float(row["z_after"]) == pytest.approx(sample["z"], rel=1e-5)
        assert row["testable"] == ("yes" if sample["testable"] else "no")
        assert row["adversarial_example"] == "found"


def test_what_was_not_found_is_said_and_what_was_not_tried_is_empty() -> None:
    document = cases.audit_document("few")
    missing = document["audit"]["after"]["samples"][0]["reference"]
    document["action"]["adversarial_set"]["not_found"] = [missing]
    assert [row["adversarial_example"] for row in table(document)] == ["not found", "found", "found"]
    document["action"]["adversarial_set"] = None
    assert {row["adversarial_example"] for row in table(document)} == {""}


def test_a_certificate_has_its_own_samples_in_each_model_and_its_controls() -> None:
    facts = cases.certificate_facts(cases.audit_document("retrained"))
    facts["scope"]["controls"] = ["f" * 16]
    document = report.certificate(facts)
    rows = table(document)
    assert tuple(rows[0]) == samples.CERTIFICATE
    assert [row["sample"] for row in rows] == [*document["scope"]["samples"], "f" * 16]
    assert {row["model"] for row in rows[:-1]} == {"digits-cnn"}
    own = {sample["reference"]: sample for sample in document["erasures"][0]["own"]["after"]}
    assert float(rows[0]["z_after"]) == pytest.approx(own[rows[0]["sample"]]["z"], rel=1e-5)
    assert (rows[-1]["split"], rows[-1]["z_after"], rows[-1]["model"]) == ("control", "", "")


def test_a_certificate_has_a_line_for_each_sample_and_model_and_nothing_where_nothing_was_measured() -> None:
    facts = cases.certificate_facts(cases.audit_document("few"))
    unaudited = {"model": "wide", "own": None, "report": None, "verdict": None, "version": None, "version_id": None}
    facts["erasures"].append(facts["erasures"][0] | unaudited)
    rows = table(report.certificate(facts))
    assert [row["model"] for row in rows] == ["digits-cnn", "wide"] * 3
    for row in rows:
        measured = [row[name] for name in ("version", "z_before", "z_after", "low", "high", "testable")]
        assert all(measured) if row["model"] == "digits-cnn" else not any(measured)


def test_a_re_audit_has_a_line_for_each_sample_that_is_not_forgotten_yet() -> None:
    document = cases.re_audit_document()
    document["audit"]["now"]["samples"] = cases.audit_document("few")["audit"]["after"]["samples"]
    rows = table(document)
    assert tuple(rows[0]) == samples.RE_AUDIT
    for row, sample in zip(rows, document["audit"]["now"]["samples"], strict=True):
        assert row["sample"] == sample["reference"]
        for name in ("z", "low", "high", "difficulty"):
            assert float(row[name]) == pytest.approx(sample[name], rel=1e-5)


def test_a_rejected_request_lists_what_it_asked_for_and_a_re_audit_without_samples_only_its_header() -> None:
    assert [row["model"] for row in table(cases.rejected_certificate())] == [""] * 3
    assert report.samples_csv(cases.re_audit_document()).decode().strip() == ",".join(samples.RE_AUDIT)
