"""The audit report of a recorded job: what it was given and nothing else, the same bytes each time."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pypdf
import pytest

from worker import report
from worker.plan import Result, load_result
from worker.report import plots
from worker.report.wording import FINDINGS, UNDETECTED

RECORDED = Path(__file__).parent / "data" / "result.json"


@pytest.fixture
def result() -> Result:
    return load_result(RECORDED)


@pytest.fixture
def facts(result: Result) -> dict[str, Any]:
    assert result.outcome is not None
    indices = [sample["index"] for sample in result.outcome["after"]["audit"]["samples"]]
    return {
        "report_id": "01a20000-0000-7000-8000-000000000000",
        "issued_at": "2026-11-20T09:00:00+00:00",
        "issuer": "Example Ltd, privacy@example.org",
        "job": {
            "id": "01a2",
            "seed": 2**61 + 1,
            "attempt": 1,
            "started_at": "2026-11-20T08:59:00+00:00",
            "worker": "w",
        },
        "model": {
            "name": "digits-cnn",
            "network": {"name": "small-cnn", "width": 16},
            "recipe": {"epochs": 20},
            "base": {"number": 1, "sha256": "a" * 64},
            "new": {"number": 2, "sha256": "b" * 64, "size": 63760},
        },
        "training_set": {
            "name": "digits",
            "manifest_sha256": "c" * 64,
            "rows": 1797,
            "shape": [1, 8, 8],
            "classes": [str(digit) for digit in range(10)],
        },
        "requests": [
            {
                "id": "01a3",
                "external_id": "crm-9911",
                "regulation": "GDPR",
                "ground": "17(1)(b)",
                "application": "shop",
                "received_at": "2026-11-20T08:00:00+00:00",
                "due_at": "2026-12-20T23:59:59+00:00",
                "resolution": {"matched": 175},
                "samples": 175,
            }
        ],
        "samples": {index: f"{index:016x}" for index in indices},
        "policy": {
            "finetuning": {"batch_size": 64},
            "attack": {"method": "boundary"},
            "audit": {"tolerance": 0.1, "level": 0.05},
        },
        "rehearsed": None,
        "form": "retain+adversarial",
        "gate": {"decision": "released", "rule": "released where the verdict is pass"},
    }


def changed(result: Result, change: Any) -> Result:
    outcome = copy.deepcopy(result.outcome)
    change(outcome)
    return dataclasses.replace(result, outcome=outcome)


def few(outcome: dict[str, Any]) -> None:
    """What a request of three samples gives: R and a score for each, but no AUC."""
    outcome["forget"] = 3
    for model in ("before", "after", "retrained"):
        audit = outcome[model]["audit"]
        audit |= {
            "verdict": "inconclusive",
            "estimates": [entry for entry in audit["estimates"] if entry["name"] == "membership"],
            "samples": audit["samples"][:3],
            "scores": {
                name: {"forget": values["forget"][:3], "controls": values["controls"]}
                for name, values in audit["scores"].items()
            },
            "loss_null": None,
            "blind_auc": None,
            "tpr_at_zero": None,
            "tpr_at_zero_high": None,
        }


def alone(outcome: dict[str, Any]) -> None:
    outcome["retrained"] = None


def unseen(outcome: dict[str, Any]) -> None:
    outcome["detectable_before"] = False


def test_the_document_holds_what_was_measured(facts: dict[str, Any], result: Result) -> None:
    document = report.build(facts, result)
    assert result.outcome is not None
    for model in ("before", "after", "retrained"):
        measured = result.outcome[model]
        assert document["audit"][model]["estimates"] == measured["audit"]["estimates"]
        assert document["utility"][model] == measured["utility"]
    assert document["action"]["seconds"] == result.seconds
    assert document["action"]["seed"] == str(2**61 + 1)
    assert document["document"]["signed"] is False


def test_samples_appear_as_references_and_never_by_row(facts: dict[str, Any], result: Result) -> None:
    document = report.build(facts, result)
    samples = document["audit"]["after"]["samples"]
    assert {sample["reference"] for sample in samples} == set(facts["samples"].values())
    assert all("index" not in sample for sample in samples)
    worst = max(samples, key=lambda sample: sample["z"])
    assert document["audit"]["after"]["worst_sample"] == worst["reference"]


@pytest.mark.parametrize("verdict", list(FINDINGS))
def test_each_verdict_is_said_in_words_that_claim_no_proof(facts: dict[str, Any], result: Result, verdict: str) -> None:
    document = report.build(facts, changed(result, lambda outcome: outcome["after"]["audit"].update(verdict=verdict)))
    assert document["finding"]["verdict"] == verdict
    assert not {"erased", "proved", "proven"} & set(document["finding"]["words"].lower().replace(".", "").split())


def test_where_nothing_was_seen_before_the_first_page_says_so(facts: dict[str, Any], result: Result) -> None:
    assert report.build(facts, changed(result, unseen))["finding"]["notes"] == [UNDETECTED]


def test_other_measurements_give_another_document(facts: dict[str, Any], result: Result) -> None:
    def shift(outcome: dict[str, Any]) -> None:
        outcome["after"]["audit"]["estimates"][0]["estimate"] += 0.01

    assert report.dumps(report.build(facts, result)) != report.dumps(report.build(facts, changed(result, shift)))


def test_json_is_canonical(facts: dict[str, Any], result: Result) -> None:
    content = report.dumps(report.build(facts, result))
    assert list(json.loads(content)) == sorted(json.loads(content))
    assert b": " not in content.split(b'"limits"')[0][:100]


def test_only_an_unlearn_job_gets_an_audit_report(facts: dict[str, Any], result: Result) -> None:
    with pytest.raises(ValueError, match="unlearn"):
        report.build(facts, dataclasses.replace(result, kind="train"))


def test_the_same_document_gives_the_same_pdf(facts: dict[str, Any], result: Result, tmp_path: Path) -> None:
    document = report.build(facts, result)
    for name in ("one.pdf", "two.pdf"):
        report.render_pdf(document, tmp_path / name)
    content = (tmp_path / "one.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert content == (tmp_path / "two.pdf").read_bytes()


@pytest.fixture
def pages(tmp_path: Path) -> Callable[[dict[str, Any]], list[str]]:
    """Text of each page of a document's PDF, spaces and line ends as single spaces."""

    def read(document: dict[str, Any]) -> list[str]:
        report.render_pdf(document, tmp_path / "report.pdf")
        return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(tmp_path / "report.pdf").pages]

    return read


Pages = Callable[[dict[str, Any]], list[str]]


@pytest.mark.parametrize("verdict", list(FINDINGS))
def test_the_first_page_says_unsigned_the_verdict_and_what_it_means(
    facts: dict[str, Any], result: Result, pages: Pages, verdict: str
) -> None:
    document = report.build(facts, changed(result, lambda outcome: outcome["after"]["audit"].update(verdict=verdict)))
    first = pages(document)[0]
    assert "UNSIGNED" in first
    assert verdict.replace("_", "-") in first
    assert FINDINGS[verdict] in first
    assert "What this does not prove" in first


def test_the_report_of_175_samples_fills_five_pages(facts: dict[str, Any], result: Result, pages: Pages) -> None:
    assert len(pages(report.build(facts, result))) == 5


def test_every_statistic_is_printed_with_its_interval(facts: dict[str, Any], result: Result, pages: Pages) -> None:
    document = report.build(facts, result)
    text = " ".join(pages(document)).replace("−", "-").replace("+", "")
    for model in ("before", "after", "retrained"):
        for entry in document["audit"][model]["estimates"]:
            for value in (entry["estimate"], entry["low"], entry["high"]):
                assert f"{abs(value):.3f}" in text, (model, entry["name"])


def test_every_sample_is_printed_the_one_most_like_a_member_first(
    facts: dict[str, Any], result: Result, pages: Pages
) -> None:
    document = report.build(facts, result)
    text = " ".join(pages(document))
    samples = sorted(document["audit"]["after"]["samples"], key=lambda sample: -sample["z"])
    positions = [text.index(sample["reference"]) for sample in samples]
    assert positions[0] == min(positions)


def test_no_number_of_the_outcome_is_left_out_or_replaced_by_a_constant(facts: dict[str, Any], result: Result) -> None:
    assert result.outcome is not None
    original = report.dumps(report.build(facts, result))
    for path in numbers(result.outcome):
        assert report.dumps(report.build(facts, changed(result, lambda outcome, path=path: bump(outcome, path)))) != (
            original
        ), path


@pytest.mark.parametrize("name", ["adversarial", "forget", "retain"])
def test_what_was_done_follows_the_form(facts: dict[str, Any], result: Result, pages: Pages, name: str) -> None:
    phrases = {
        "retain": "retained images and",
        "forget": "on the 175 forget images",
        "adversarial": "takes for another",
    }
    form = "forget+adversarial" if name == "forget" else "retain+adversarial" if name == "retain" else "adversarial"
    done = pages(report.build({**facts, "form": form}, result))[0].split("What was done")[1].split("What was found")[0]
    assert {part for part, phrase in phrases.items() if phrase in done} == set(form.split("+"))


def test_names_given_by_callers_are_printed_as_text_and_never_run(
    facts: dict[str, Any], result: Result, pages: Pages
) -> None:
    hostile = '*bold* #panic("run") $x$ [a] <b>'
    facts["model"]["name"] = facts["requests"][0]["external_id"] = facts["issuer"] = hostile
    assert pages(report.build(facts, result))[0].count('#panic("run")') == 3


def test_a_long_batch_leaves_the_finding_on_the_first_page(facts: dict[str, Any], result: Result, pages: Pages) -> None:
    facts["requests"] = [{**facts["requests"][0], "id": f"request-{number}"} for number in range(40)]
    printed = pages(report.build(facts, result))
    assert "and 36 more" in printed[0]
    assert "What was found" in printed[0]
    assert all(f"request-{number}:" in " ".join(printed) for number in range(40))


def test_below_20_samples_no_auc_and_no_curve_is_printed(facts: dict[str, Any], result: Result, pages: Pages) -> None:
    document = report.build(facts, changed(result, few))
    printed = pages(document)
    assert "AUC of z against controls" not in printed[0]
    assert "none is printed" in printed[1]
    assert not {"summary", "roc", "histograms"} & set(plots.draw(document["audit"]))


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of the numbers of an outcome; of a list's, the first alone."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from numbers(value[0], (*path, 0))
    elif isinstance(value, int | float) and not isinstance(value, bool) and path[-1] != "index":
        yield path


def bump(outcome: Any, path: tuple[Any, ...]) -> None:
    for key in path[:-1]:
        outcome = outcome[key]
    outcome[path[-1]] += 1


@pytest.mark.parametrize("change", [few, alone, unseen])
def test_a_pdf_is_made_of_small_requests_and_without_a_retrained_model(
    facts: dict[str, Any], result: Result, tmp_path: Path, change: Any
) -> None:
    report.render_pdf(report.build(facts, changed(result, change)), tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
