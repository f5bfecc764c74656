"""Erasure certificates: the worst of its models, what is gone, and not a word of another request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.report import cases
from tests.worker.report.changes import others, replaced
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


# What an audit report says of a request alone, and the document's own kind and version of schema.
UNTOLD = ("forget", "worst_sample", "request")
FIXED = (("head", "kind"), ("head", "schema_version"), ("outcome",))


@pytest.mark.parametrize("case", ["pass", "few"])
def test_bug_7_no_constant_stands_in_a_certificate_where_a_measurement_belongs(case: str) -> None:
    batch = cases.audit_document(case)
    original = report.certificate(cases.certificate_facts(batch))
    told = [
        *((("audit", model, "samples", 0), part) for model in ("before", "after") for part in first(batch, model)),
        *((("audit", "after", "slices", 0), part) for part in others(batch["audit"]["after"]["slices"][0])),
        *((("gate",), part) for part in others(batch["gate"])),
        *((("action", "steps", 0), part) for part in others({"method": batch["action"]["steps"][0]["method"]})),
    ]
    assert len(told) > 30
    for place, (path, other) in told:
        if path[-1] not in UNTOLD:
            changed = replaced(batch, (*place, *path), other)
            assert report.certificate(cases.certificate_facts(changed)) != original, (place, path)


def first(document: dict[str, Any], model: str) -> Iterator[tuple[Any, Any]]:
    return others(document["audit"][model]["samples"][0])


@pytest.mark.parametrize("overridden", [False, True])
def test_bug_7_no_constant_stands_in_a_certificate_where_a_row_belongs(overridden: bool) -> None:
    batch = cases.audit_document("few")
    facts = cases.certificate_facts(cases.overridden(batch) if overridden else batch)
    facts["scope"]["controls"] = ["f" * 16]
    original = report.certificate(facts)
    paths = [path for path, _ in others(facts)]
    for needed in ("sha256", "json_sha256", "at", "released_at", "verified", "method", "z", "low", "high", "verdict"):
        assert any(path[-1] == needed for path in paths), needed
    for path, other in others(facts):
        if path not in FIXED:
            assert report.certificate(replaced(facts, path, other)) != original, path


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


def test_near_duplicates_that_are_still_trained_on_are_noted_and_all_are_printed(
    of_three: dict[str, Any], pages: Pages
) -> None:
    listed = of_three["scope"]["near_duplicates"]
    assert [one["now"] for one in listed] == ["trained_on", "erased"]
    assert wording.near_duplicates_left(1) in of_three["finding"]["notes"]
    everything = " ".join(pages(of_three))
    assert all(one["near"] in everything for one in listed)
    assert "0.0415" in everything
    assert "may still be trained on" in everything


@pytest.mark.parametrize("searched", [0, None])
def test_where_near_duplicates_were_not_told_the_pdf_says_so(searched: int | None, pages: Pages) -> None:
    facts = cases.certificate_facts(cases.audit_document("few"))
    facts["scope"]["near_duplicates"] = []
    training_set = facts["scope"]["training_set"]
    if searched is None:
        training_set["near_duplicates"] = None
    else:
        training_set["near_duplicates"] |= {"searched": 0, "why_not": "too few", "threshold": None}
    document = report.certificate(facts)
    assert document["finding"]["notes"] == []
    words = " ".join(pages(document))
    assert ("not searched for in this set" if searched is None else "could not be told: too few") in words


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
