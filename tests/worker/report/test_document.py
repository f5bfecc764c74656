"""Audit reports: what was measured and nothing else, the same bytes each time, nothing that names a person."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from tests.worker.report import cases
from tests.worker.report.changes import bumped, numbers
from worker import report
from worker.plan import Result
from worker.report import wording
from worker.report.document import checked

CLAIMS = re.compile(r"\b(erased from the model|provably|proves that|proved|guarantee)", re.I)


def changed(result: Result, **values: Any) -> Result:
    return dataclasses.replace(result, outcome={**(result.outcome or {}), **values})


@pytest.mark.parametrize("case", cases.CASES)
def test_the_document_holds_what_was_measured(case: str) -> None:
    result, document = cases.recorded(case), cases.audit_document(case)
    assert result.outcome is not None
    for model in ("before", "after", "retrained"):
        measured = result.outcome[model]
        if measured is None:
            assert document["audit"][model] is document["utility"][model] is None
            continue
        assert document["audit"][model]["estimates"] == measured["audit"]["estimates"]
        assert document["utility"][model] == measured["utility"]
        for name in ("boundary", "retained", "changed"):
            assert document["audit"][model][name] == measured[name]
    assert document["utility"]["verdict"] == result.outcome["utility"]
    assert document["action"]["steps"] == result.outcome["steps"]
    assert document["action"]["provenance"] == result.outcome["provenance"]
    assert document["action"]["job"]["seconds"] == result.seconds
    assert document["action"]["seed"] == str(2**61 + 1)
    assert document["finding"]["verdict"] == result.outcome["verdict"]


@pytest.mark.parametrize("case", ["pass", "retrained", "few"])
def test_no_number_of_the_outcome_is_left_out_or_replaced_by_a_constant(case: str) -> None:
    result = cases.recorded(case)
    original = cases.audit_document(case)
    facts = cases.facts(result)
    paths = list(numbers(result.outcome))
    assert len(paths) > 100
    for path in paths:
        other = dataclasses.replace(result, outcome=bumped(result.outcome, path))
        assert report.audit_report(facts, other) != original, path


@pytest.mark.parametrize("case", cases.CASES)
def test_samples_appear_as_references_and_never_by_row(case: str) -> None:
    document = cases.audit_document(case)
    references = set(cases.facts(cases.recorded(case))["samples"].values())
    samples = document["audit"]["after"]["samples"]
    assert {sample["reference"] for sample in samples} == references
    assert '"index"' not in json.dumps(document["audit"])
    worst = max(samples, key=lambda sample: float(sample["z"]))
    assert document["audit"]["after"]["worst_sample"] == worst["reference"]


def test_each_request_has_its_own_verdict_and_its_worst_sample() -> None:
    document = cases.audit_document("retrained")
    slices = document["audit"]["after"]["slices"]
    assert [part["request"] for part in slices] == cases.REQUESTS
    assert [part["forget"] for part in slices] == [100, 72, 3]
    assert all(part["worst_sample"] for part in slices)
    assert [len(part["estimates"]) for part in slices][2] == 1  # of three samples, R alone


def test_no_sentence_claims_a_proof() -> None:
    for document in [*map(cases.audit_document, cases.CASES), cases.re_audit_document()]:
        for words in (*document["limits"], document["finding"]["words"], *document["finding"]["notes"]):
            assert not CLAIMS.search(words), words


def test_what_the_audit_could_not_see_before_is_said() -> None:
    assert wording.UNDETECTED in cases.audit_document("few")["finding"]["notes"]
    assert wording.UNDETECTED not in cases.audit_document("pass")["finding"]["notes"]


def test_an_inconclusive_version_that_is_served_rests_on_rehearsal_and_says_so() -> None:
    result = cases.recorded("few")
    facts = cases.facts(result)
    assert wording.REHEARSED not in report.audit_report(facts, result)["finding"]["notes"]
    facts["gate"]["decision"] = "released"
    assert wording.REHEARSED in report.audit_report(facts, result)["finding"]["notes"]


def test_an_uploaded_model_is_said_to_be_one_in_every_report_about_it() -> None:
    for case, make in (("few", report.audit_report), ("audit", report.re_audit)):
        result = cases.recorded(case)
        facts = cases.facts(result)
        if case == "audit":
            facts["head"]["kind"] = "re_audit"
        assert wording.UPLOADED not in make(facts, result)["finding"]["notes"]
        facts["scope"]["uploaded_checkpoint"] = "f" * 64
        document = make(facts, result)
        assert wording.UPLOADED in document["finding"]["notes"]
        assert document["scope"]["uploaded_checkpoint"] == "f" * 64


def near_duplicates_limit(**changes: Any) -> str:
    facts = cases.facts(cases.recorded("few"))
    training_set = facts["scope"]["training_set"]
    training_set["near_duplicates"] = training_set["near_duplicates"] | changes if changes else None
    document = report.audit_report(facts, cases.recorded("few"))
    (limit,) = (limit for limit in document["limits"] if limit.startswith(wording.COPIES))
    return str(limit)


def test_what_is_said_of_near_duplicates_is_what_was_searched() -> None:
    said = near_duplicates_limit(threshold=0.0123, searched=1234, pairs=56, capped=0)
    for word in ("0.0123", "1234 distinct", "found 56.", "thumbnails", "mirrored"):
        assert word in said
    assert "may have more" not in said
    assert "7 images may have more than the 10" in near_duplicates_limit(capped=7)
    told = near_duplicates_limit(searched=0, why_not="19 distinct images are too few", threshold=None)
    assert told.endswith("could not be told in this set: 19 distinct images are too few.")
    assert near_duplicates_limit().endswith("were not searched for in this set.")


def test_a_report_of_the_schema_before_can_still_have_a_later_edition() -> None:
    earlier = cases.audit_document("over")
    earlier["document"]["schema_version"] = "1.0"
    del earlier["scope"]["training_set"]["near_duplicates"], earlier["scope"]["uploaded_checkpoint"]
    later = cases.overridden(earlier)
    assert later["document"]["schema_version"] == "1.1"
    assert later["scope"]["uploaded_checkpoint"] is later["scope"]["training_set"]["near_duplicates"] is None
    assert later["limits"] == earlier["limits"]


def test_a_withdrawn_model_and_a_disagreement_with_retraining_are_said() -> None:
    assert wording.WITHDRAWN in cases.audit_document("over")["finding"]["notes"]
    result = changed(cases.recorded("retrained"), incident=True)
    assert wording.INCIDENT in report.audit_report(cases.facts(result), result)["finding"]["notes"]


def test_a_later_edition_keeps_what_was_measured_and_adds_who_decided_what() -> None:
    first = cases.audit_document("over")
    second = cases.overridden(first)
    assert (second["document"]["edition"], second["document"]["supersedes"]) == (2, first["document"]["id"])
    assert second["document"]["id"] != first["document"]["id"]
    assert [override["actor"] for override in second["overrides"]] == ["key:0f9a6c2b"]
    for name in ("audit", "utility", "action", "gate", "finding", "requests"):
        assert second[name] == first[name]


def test_a_re_audit_measures_what_is_left_and_has_no_verdict_without_a_forget_set() -> None:
    document, outcome = cases.re_audit_document(), cases.recorded("audit").outcome
    assert outcome is not None
    assert document["finding"]["verdict"] == "not_audited"
    assert document["audit"]["now"]["retained"] == outcome["retained"]
    assert document["utility"]["now"] == outcome["utility"]
    assert document["action"] is document["gate"] is None


def test_json_is_canonical_and_the_same_each_time() -> None:
    document = cases.audit_document("pass")
    content = report.dumps(document)
    assert content == report.dumps(json.loads(content)) == report.dumps(cases.audit_document("pass"))
    assert list(json.loads(content)) == sorted(document)


def test_only_the_right_kind_of_job_gets_a_report() -> None:
    result = cases.recorded("pass")
    for make, kind in ((report.audit_report, "train"), (report.re_audit, "unlearn")):
        with pytest.raises(ValueError, match="outcome of an"):
            make(cases.facts(result), dataclasses.replace(result, kind=kind))


def test_unknown_names_and_numbers_that_are_not_finite_are_refused() -> None:
    document = cases.audit_document("pass")
    with pytest.raises(ValidationError):
        checked({**document, "score": 1})
    document["audit"]["after"]["blind_auc"] = math.nan
    with pytest.raises(ValidationError):
        checked(document)
