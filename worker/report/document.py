"""Facts and measurements to documents, checked against their schema; their canonical bytes and digests."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785

from worker.plan import Result
from worker.report import wording
from worker.report.schema import AuditDocument, CertificateDocument

Json = dict[str, Any]

MEASURED = ("before", "after", "retrained")


def dumps(document: Json) -> bytes:
    """RFC 8785 canonical JSON: the same document has the same bytes everywhere."""
    return rfc8785.dumps(document)


def digest(values: Json) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(dumps(values)).hexdigest()


def checked(document: Json) -> Json:
    """The document as its schema has it. Raises pydantic.ValidationError where it holds anything else."""
    kind: type[AuditDocument | CertificateDocument] = AuditDocument
    if document["document"]["kind"] == "erasure_certificate":
        kind = CertificateDocument
    return kind.model_validate(document).model_dump(mode="json")


def audit_report(facts: Json, result: Result) -> Json:
    """The document of one unlearn job.

    Args:
        facts: what rows know, as worker.reporting gathers it; samples appear as references only.
        result: a succeeded unlearn job's result.

    Raises:
        ValueError: the result is of another kind, has no outcome, or facts and outcome do not fit together.
    """
    outcome = _outcome(result, "unlearn")
    measured = {name: outcome[name] for name in MEASURED if outcome[name] is not None}
    return checked(
        {
            **_common(facts, outcome),
            "finding": _finding(outcome, facts),
            "action": _action(facts, result, outcome),
            "utility": {
                **{name: model["utility"] for name, model in measured.items()},
                "verdict": outcome["utility"],
            },
            "audit": {
                **_frame(facts, outcome, outcome["detectable_before"]),
                **{name: _model(facts, model["audit"], model) for name, model in measured.items()},
            },
            "gate": facts["gate"],
        }
    )


def re_audit(facts: Json, result: Result) -> Json:
    """The document of one audit job, about the released version as it is. Raises ValueError as `audit_report` does."""
    outcome = _outcome(result, "audit")
    audit = outcome["audit"] or _nothing_to_audit()
    return checked(
        {
            **_common(facts, outcome),
            "finding": _said(audit["verdict"], _origin(facts), audit["reasons"]),
            "action": None,
            "utility": {"now": outcome["utility"], "verdict": None},
            "audit": {**_frame(facts, outcome, None), "now": _model(facts, audit, outcome)},
            "gate": None,
        }
    )


def edition(document: Json, head: Json, overrides: list[Json], downloads: list[Json], trail: Json) -> Json:
    """A later edition of an audit report: what was measured stays, what was decided since is added."""
    earlier = document["document"]
    return checked(
        {
            **document,
            "document": {
                **head,
                "edition": earlier["edition"] + 1,
                "supersedes": earlier["id"],
                "kind": earlier["kind"],
            },
            "overrides": overrides,
            "downloads": downloads,
            "trail": trail,
        }
    )


def _outcome(result: Result, kind: str) -> Json:
    if result.kind != kind or result.outcome is None:
        raise ValueError(f"this document is made of the outcome of an {kind} job")
    return result.outcome


def _common(facts: Json, outcome: Json) -> Json:
    return {
        "document": facts["head"],
        "requests": facts["requests"],
        "scope": {
            **facts["scope"],
            "forget_samples": outcome["forget"],
            "retained_samples": outcome["retain"],
            "out_of_scope": list(wording.OUT_OF_SCOPE),
        },
        "policy": facts["policy"],
        "overrides": facts["overrides"],
        "downloads": facts["downloads"],
        "limits": wording.limits(wording.AUDIT_LIMITS, facts["scope"]["training_set"]["near_duplicates"]),
        "trail": facts["trail"],
    }


def _finding(outcome: Json, facts: Json) -> Json:
    verdict = outcome["verdict"]
    notes = [
        note
        for holds, note in (
            (not outcome["detectable_before"], wording.UNDETECTED),
            (outcome["incident"], wording.INCIDENT),
            (outcome["withdraw"], wording.WITHDRAWN),
            (verdict == "inconclusive" and facts["gate"]["decision"] == "released", wording.REHEARSED),
        )
        if holds
    ]
    return _said(verdict, notes + _origin(facts), outcome["reasons"])


def _origin(facts: Json) -> list[str]:
    return [wording.UPLOADED] if facts["scope"]["uploaded_checkpoint"] is not None else []


def _said(verdict: str, notes: list[str], reasons: list[str]) -> Json:
    return {
        "verdict": verdict,
        "headline": wording.HEADLINES[verdict],
        "words": wording.FINDINGS[verdict],
        "notes": notes,
        "reasons": reasons,
    }


def _action(facts: Json, result: Result, outcome: Json) -> Json:
    adversarial, references = outcome["adversarial"], facts["samples"]
    if adversarial is not None:
        adversarial = {**adversarial, "not_found": [references[index] for index in adversarial["not_found"]]}
    return {
        "method": wording.METHODS[outcome["steps"][-1]["method"]],
        "paper": wording.PAPER,
        "form": facts["form"],
        "steps": outcome["steps"],
        "adversarial_set": adversarial,
        "provenance": outcome["provenance"],
        "withdrawn": outcome["withdraw"],
        "incident": outcome["incident"],
        "seed": facts["seed"],
        "requests_in_batch": len(facts["requests"]),
        "batches_halved": result.batches_halved,
        "environment": vars(result.environment),
        "job": {**facts["job"], "seconds": result.seconds},
    }


def _frame(facts: Json, outcome: Json, detectable_before: bool | None) -> Json:
    """What holds for the audit of every model: who attacks, with what, against which controls."""
    return {
        "threat_model": wording.THREAT_MODEL,
        "attacks_not_tried": list(wording.NOT_TRIED),
        "rule": facts["policy"]["audit"],
        "rule_words": wording.RULE,
        "policy_sha256": digest(facts["policy"]),
        "forget_samples": outcome["forget"],
        "audit_controls": outcome["audit_controls"],
        "calibration_controls": outcome["calibration_controls"],
        "controls_chosen": wording.CONTROLS,
        "reference_models": outcome["references"],
        "reference_train_size": outcome["reference_train_size"],
        "train_size": outcome["forget"] + outcome["retain"],
        "detectable_before": detectable_before,
        "rehearsed": facts["rehearsed"],
    }


def _model(facts: Json, audit: Json, model: Json) -> Json:
    """An audit with what was measured beside it; rows become references."""
    references = facts["samples"]
    samples = [
        {"reference": references[sample["index"]], **{name: sample[name] for name in sample if name != "index"}}
        for sample in audit["samples"]
    ]
    worst = max(samples, key=lambda sample: float(sample["z"]))["reference"] if samples else None
    return {
        **audit,
        "samples": samples,
        "worst_sample": worst,
        "slices": [
            {
                **{name: part[name] for name in part if name != "worst"},
                "request": request,
                "worst_sample": references[part["worst"]],
            }
            for request, part in zip(facts["slices"], model["slices"], strict=True)
        ],
        "boundary": model["boundary"],
        "retained": model["retained"],
        "changed": model.get("changed"),
    }


def _nothing_to_audit() -> Json:
    absent = ("loss_null", "blind_auc", "smallest_detectable_shift", "tpr", "tpr_at_fpr", "tpr_at_zero")
    return {
        "verdict": "not_audited",
        "reasons": ["no sample of an unfinished request is in this version"],
        "estimates": [],
        "samples": [],
        "scores": {},
        **dict.fromkeys([*absent, "tpr_at_zero_high"]),
    }
