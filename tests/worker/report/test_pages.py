"""The PDF of audits: what a reader sees, on which page, the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.worker.report import cases
from tests.worker.report.conftest import Pages
from worker import report

HEADINGS = ("What was asked", "What was done", "What was found", "What was decided", "What this does not prove")


def same(text: str) -> str:
    """As printed: a minus sign for a hyphen before a number, no line ends."""
    return text.replace("−", "-").replace("+", "")


@pytest.mark.parametrize("case", cases.CASES)
def test_the_first_page_says_what_was_asked_done_found_and_decided_and_what_it_does_not_prove(
    case: str, pages: Pages
) -> None:
    document = cases.audit_document(case)
    first = pages(document)[0]
    assert [heading for heading in HEADINGS if heading not in first] == []
    for words in (document["finding"]["headline"], document["finding"]["words"], *document["finding"]["notes"]):
        assert words in first
    assert document["gate"]["decision"] in first
    assert document["document"]["key_id"] in first
    assert "GDPR 17(1)(b); due 2026-12-20, in time" in first


def test_the_ladder_is_told_step_by_step(pages: Pages) -> None:
    document = cases.audit_document("retrained")
    first = pages(document)[0]
    assert "In 3 steps of the ladder" in first
    assert first.count("under-unlearned") >= 2
    assert "training again from the recipe" in first


def test_going_straight_to_retraining_is_said(pages: Pages) -> None:
    document = cases.audit_document("retrained")
    document["action"] |= {"steps": document["action"]["steps"][-1:], "adversarial_set": None}
    assert "AMUN was not tried" in pages(document)[0]


def test_a_person_s_decision_stands_on_the_first_page_with_its_reason(pages: Pages) -> None:
    document = cases.overridden(cases.audit_document("over"))
    first = pages(document)[0]
    assert "released by a person on 2026-11-21 10:00 UTC, key:0f9a6c2b" in first
    assert document["overrides"][0]["reason"] in first
    assert f"edition 2, supersedes {cases.REPORT}" in first


def test_every_statistic_is_printed_with_its_interval(pages: Pages) -> None:
    document = cases.audit_document("pass")
    text = same(" ".join(pages(document)))
    for model in ("before", "after", "retrained"):
        for entry in document["audit"][model]["estimates"]:
            for value in (entry["estimate"], entry["low"], entry["high"]):
                assert f"{abs(value):.3f}" in text, (model, entry["name"])
        for name in ("retained", "changed"):
            measured = document["audit"][model][name]
            assert measured is None or f"{measured['value']:.3f}" in text


def test_every_sample_is_printed_the_one_most_like_a_member_first(pages: Pages) -> None:
    document = cases.audit_document("pass")
    text = " ".join(pages(document)).rsplit("Samples", 1)[1]
    samples = sorted(document["audit"]["after"]["samples"], key=lambda sample: -float(sample["z"]))
    positions = [text.index(sample["reference"]) for sample in samples]
    assert positions[0] == min(positions)


def test_below_20_samples_no_auc_is_printed_but_an_answer_for_each(pages: Pages) -> None:
    document = cases.audit_document("few")
    printed = pages(document)
    assert "AUC of z against controls" not in printed[0]
    assert "none is printed" in " ".join(printed)
    for sample in document["audit"]["after"]["samples"]:
        assert f"{sample['reference']}: z" in printed[0]
        assert f"{abs(sample['z']):.2f}" in printed[0]
    assert "Rehearsed on 8 other pseudo-requests of 3 images" in printed[0]


def test_who_fetched_the_old_checkpoint_is_listed_beside_what_they_can_see(pages: Pages) -> None:
    document = cases.audit_document("pass")
    text = " ".join(pages(document))
    assert "key:77aa01cd" in text
    document["downloads"] = []
    assert "Nobody has fetched them here" in " ".join(pages(document))


def test_a_long_batch_leaves_the_finding_on_the_first_page(pages: Pages) -> None:
    document = cases.audit_document("pass")
    asked = document["requests"][0]
    document["requests"] = [{**asked, "id": asked["id"][:-2] + f"{number:02d}"} for number in range(40)]
    printed = pages(document)
    assert "and 36 more" in printed[0]
    assert "What was found" in printed[0]
    assert all(request["id"] in " ".join(printed) for request in document["requests"])


def test_names_given_by_callers_are_printed_as_text_and_never_run(pages: Pages) -> None:
    hostile = '*bold* #panic("run") $x$ [a] <b>'
    document = cases.overridden(cases.audit_document("over"))
    document["scope"]["model"] = document["requests"][0]["external_id"] = hostile
    document["document"]["issuer"] = document["overrides"][0]["reason"] = hostile
    assert pages(document)[0].count(hostile) == 4
    certificate = report.certificate(cases.certificate_facts(cases.audit_document("pass")))
    certificate["request"]["external_id"] = certificate["erasures"][0]["model"] = hostile
    assert pages(certificate)[0].count(hostile) == 2


def test_a_re_audit_says_that_nothing_was_changed(pages: Pages) -> None:
    first = pages(cases.re_audit_document())[0]
    assert "Re-audit of a released model" in first
    assert "Nothing was changed" in first


@pytest.mark.parametrize("case", ["pass", "few"])
def test_the_same_document_gives_the_same_pdf(case: str, tmp_path: Path) -> None:
    document: dict[str, Any] = cases.audit_document(case)
    for name in ("one.pdf", "two.pdf"):
        report.render_pdf(document, tmp_path / name)
    content = (tmp_path / "one.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert content == (tmp_path / "two.pdf").read_bytes()
