"""The erasure certificate of one request: rows, and the signed reports of the versions that forgot its samples."""

from __future__ import annotations

from typing import Any

from worker.report import wording
from worker.report.document import checked

Json = dict[str, Any]


def certificate(facts: Json) -> Json:
    """The document of a certify job.

    Args:
        facts: what rows say, as worker.reporting gathers it; ``erasures`` hold `own` parts, see `own_part`.

    Raises:
        pydantic.ValidationError: they do not fit the schema.
    """
    rejected = facts["outcome"] == "rejected"
    return checked(
        {
            "document": facts["head"],
            "outcome": facts["outcome"],
            "finding": _finding(facts, rejected),
            "request": facts["request"],
            "scope": {**facts["scope"], "out_of_scope": list(wording.OUT_OF_SCOPE)},
            "erasures": facts["erasures"],
            "destroyed": facts["destroyed"],
            "kept": facts["kept"],
            "limits": wording.limits(wording.CERTIFICATE_LIMITS, facts["scope"]["training_set"]["near_duplicates"]),
            "trail": facts["trail"],
        }
    )


def from_report(document: Json, request: str, references: set[str]) -> Json:
    """What an audit report says of one request: its own samples and slice, and how many others there were.

    No other request is named, and no sample of another.
    """
    after = document["audit"]["after"]
    found = [part for part in after["slices"] if part["request"] == request]
    part = found[0] if found else None
    action = document["action"]
    return {
        "steps": [step["method"] for step in action["steps"]],
        "gate": document["gate"],
        "overrides": document["overrides"],
        "other_requests_in_batch": sum(other["id"] != request for other in document["requests"]),
        "own": {
            "verdict": part["verdict"] if part else None,
            "reasons": part["reasons"] if part else [],
            "estimates": part["estimates"] if part else [],
            "smallest_detectable_shift": part["smallest_detectable_shift"] if part else None,
            "before": _of(document["audit"]["before"], references),
            "after": _of(after, references),
        },
    }


def _of(model: Json, references: set[str]) -> list[Json]:
    return [sample for sample in model["samples"] if sample["reference"] in references]


def _finding(facts: Json, rejected: bool) -> Json:
    """The weakest verdict stands above: a certificate is no better than the worst of its models."""
    if rejected:
        return _said("not_audited", wording.REJECTED_HEADLINE, wording.REJECTED, [], [])
    erasures = facts["erasures"]
    order = ("under_unlearned", "over_unlearned", "inconclusive", "pass", "exact")
    verdicts = [erasure["verdict"] for erasure in erasures if erasure["verdict"] is not None]
    worst = next((verdict for verdict in order if verdict in verdicts), "not_audited")
    reasons = [f"{erasure['model']}: {_result(erasure)}" for erasure in erasures]
    headline = wording.COMPLETED_HEADLINE
    if verdicts:
        headline += f"; {wording.HEADLINES[worst]}"
    by_a_person = any(erasure["overrides"] and erasure["overrides"][-1]["action"] == "released" for erasure in erasures)
    notes = [wording.RELEASED_BY_A_PERSON] if by_a_person else []
    near = {one["near"] for one in facts["scope"]["near_duplicates"] if one["now"] == "trained_on"}
    notes += [wording.near_duplicates_left(len(near))] if near else []
    return _said(worst, headline, wording.COMPLETED, reasons, notes)


def _result(erasure: Json) -> str:
    if erasure["status"] == "not_applicable":
        return f"not applicable: {erasure['reason'] or 'the model was retired'}"
    if erasure["version"] is None:
        return str(erasure["status"]).replace("_", " ")
    if erasure["verdict"] is None:
        return f"version {erasure['version']['number']} was never trained on the samples"
    verdict = erasure["verdict"].replace("_", "-")
    steps = len(erasure["steps"])
    return f"version {erasure['version']['number']}, {verdict} at step {steps} of the ladder"


def _said(verdict: str, headline: str, words: str, reasons: list[str], notes: list[str]) -> Json:
    return {"verdict": verdict, "headline": headline, "words": words, "notes": notes, "reasons": reasons}
