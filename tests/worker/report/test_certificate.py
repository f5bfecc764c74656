"""Erasure certificates: the worst of its models, what is gone, and not a word of another request."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.worker.report import cases
from tests.worker.report.changes import bumped, numbers
from tests.worker.report.conftest import Pages
from worker import report
from worker.report import wording


@pytest.fixture
def of_three() -> dict[str, Any]:
    """The certificate of the first of three requests that one job served."""
    return report.certificate(cases.certificate_facts(cases.audit_document("retrained")))


def test_it_names_no_other_request_nor_anybody_elses_sample(of_three: dict[str, Any], pages: Pages) -> None:
    batch = cases.audit_document("retrained")
    own = set(of_three["scope"]["samples"])
    others = {sample["reference"] for sample in batch["audit"]["after"]["samples"]} - own
    assert (len(own), len(others)) == (100, 75)
    everything = report.dumps(of_three).decode() + report.samples_csv(of_three).decode() + " ".join(pages(of_three))
    assert cases.REQUESTS[0] in everything
    assert not [name for name in (*cases.REQUESTS[1:], *others) if name in everything]
    assert of_three["erasures"][0]["other_requests_in_batch"] == 2


def test_its_verdict_in_each_model_is_that_of_its_own_samples(of_three: dict[str, Any]) -> None:
    part = cases.audit_document("retrained")["audit"]["after"]["slices"][0]
    own = of_three["erasures"][0]["own"]
    assert (own["verdict"], own["estimates"]) == (part["verdict"], part["estimates"])
    assert {sample["reference"] for sample in own["after"]} == set(of_three["scope"]["samples"])


def test_bug_7_no_constant_stands_in_a_certificate_where_a_measurement_belongs() -> None:
    batch = cases.audit_document("pass")
    original = report.dumps(report.certificate(cases.certificate_facts(batch)))
    measured = {
        **{("audit", model, "samples"): batch["audit"][model]["samples"] for model in ("before", "after")},
        ("audit", "after", "slices"): batch["audit"]["after"]["slices"],
    }
    for place, value in measured.items():
        for path in numbers(value):
            if path[-1] == "forget":  # a count of the report's; the certificate counts its own samples
                continue
            other = copy.deepcopy(batch)
            other[place[0]][place[1]][place[2]] = bumped(value, path)
            assert report.dumps(report.certificate(cases.certificate_facts(other))) != original, (place, path)
    facts = cases.certificate_facts(batch)
    for path in numbers(facts):
        if path[0] != "head":  # the number of the edition is checked by its rows
            assert report.dumps(report.certificate(bumped(facts, path))) != original, path


@pytest.mark.parametrize("verdict", ["under_unlearned", "over_unlearned", "inconclusive", "pass", "exact"])
def test_its_headline_is_no_better_than_the_worst_of_its_models(verdict: str) -> None:
    facts = cases.certificate_facts(cases.audit_document("pass"))
    exact = facts["erasures"][0] | {"verdict": "exact", "model": "another"}
    facts["erasures"] = [exact, facts["erasures"][0] | {"verdict": verdict}]
    finding = report.certificate(facts)["finding"]
    assert finding["verdict"] == verdict
    assert wording.HEADLINES[verdict] in finding["headline"]
    assert len(finding["reasons"]) == 2


def test_a_model_that_never_knew_the_samples_or_is_retired_says_so() -> None:
    facts = cases.certificate_facts(cases.audit_document("pass"))
    line = facts["erasures"][0] | {"own": None, "gate": None, "report": None, "steps": []}
    facts["erasures"] = [
        line | {"verdict": None},
        line | {"status": "not_applicable", "reason": "replaced by another", "version": None, "verdict": None},
    ]
    never, retired = report.certificate(facts)["finding"]["reasons"]
    assert "never trained on the samples" in never
    assert "replaced by another" in retired


def test_a_release_by_a_person_is_noted_with_who_and_why(pages: Pages) -> None:
    document = cases.overridden(cases.audit_document("over"))
    certified = report.certificate(cases.certificate_facts(document))
    assert wording.RELEASED_BY_A_PERSON in certified["finding"]["notes"]
    first = pages(certified)[0]
    assert "key:0f9a6c2b" in first
    assert "data protection officer" in first


def test_a_rejected_request_is_told_its_remedies(pages: Pages) -> None:
    rejected = cases.rejected_certificate()
    first = pages(rejected)[0]
    assert wording.REJECTED in first
    assert "Nothing was destroyed" in first
    assert rejected["finding"]["verdict"] == "not_audited"


def test_its_pdf_is_the_same_each_time(of_three: dict[str, Any], tmp_path: Any) -> None:
    for name in ("one.pdf", "two.pdf"):
        report.render_pdf(of_three, tmp_path / name)
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()


def test_what_is_gone_is_printed_with_its_time_and_what_stays_with_its_reason(
    of_three: dict[str, Any], pages: Pages
) -> None:
    first = pages(of_three)[0]
    for line in of_three["destroyed"]:
        assert line["what"] in first
        assert line["method"] in first
    for line in of_three["kept"]:
        assert line["reason"] in first
