"""The audit report as one document: everything in it was measured by the job or read from a row."""

from __future__ import annotations

from typing import Any

import rfc8785

from worker.plan import Result
from worker.report.wording import FINDINGS, LIMITS, NOT_TRIED, THREAT_MODEL, UNDETECTED, UNSIGNED

SCHEMA_VERSION = "0.1"
MODELS = ("before", "after", "retrained")
PAPER = "arXiv 2503.00917"

Json = dict[str, Any]


def build(facts: Json, result: Result) -> Json:
    """The document of one unlearn job.

    Args:
        facts: what rows know, as worker.reporting.gather makes it; samples appear as references only.
        result: a succeeded unlearn job's result.

    Raises:
        ValueError: the result is of another kind, or has no outcome.
    """
    outcome = result.outcome
    if result.kind != "unlearn" or outcome is None:
        raise ValueError("an audit report is made of the outcome of an unlearn job")
    measured = {name: outcome[name] for name in MODELS if outcome[name] is not None}
    return {
        "document": {
            "id": facts["report_id"],
            "schema_version": SCHEMA_VERSION,
            "kind": "audit_report",
            "issued_at": facts["issued_at"],
            "issuer": facts["issuer"],
            "signed": False,
            "note": UNSIGNED,
        },
        "requests": facts["requests"],
        "scope": _scope(facts, outcome),
        "action": _action(facts, result, outcome),
        "utility": {name: model["utility"] for name, model in measured.items()},
        "audit": {
            **_frame(facts, outcome),
            **{name: _audit(model["audit"], facts["samples"]) for name, model in measured.items()},
        },
        "gate": facts["gate"],
        "finding": _finding(outcome),
        "limits": list(LIMITS),
    }


def dumps(document: Json) -> bytes:
    """RFC 8785 canonical JSON: the same document has the same bytes everywhere."""
    return rfc8785.dumps(document)


def _scope(facts: Json, outcome: Json) -> Json:
    return {
        "training_set": facts["training_set"],
        "model": facts["model"]["name"],
        "forget_samples": outcome["forget"],
        "retained_samples": outcome["retain"],
        "base_version": facts["model"]["base"],
        "new_version": facts["model"]["new"],
        "out_of_scope": "back-ups, data lakes, caches and copies of checkpoints that were downloaded earlier",
    }


def _action(facts: Json, result: Result, outcome: Json) -> Json:
    references = facts["samples"]
    adversarial = outcome["adversarial"]
    return {
        "method": "AMUN",
        "paper": PAPER,
        "form": facts["form"],
        "weight_power": outcome["weight_power"],
        "weight_scale": outcome["weight_scale"],
        "weight_spread": outcome["weight_spread"],
        "learning_rate": outcome["learning_rate"],
        "epochs": outcome["epochs"],
        "parameters": {"finetuning": facts["policy"]["finetuning"], "attack": facts["policy"]["attack"]},
        "network": facts["model"]["network"],
        "recipe": facts["model"]["recipe"],
        # As text: 62 bits are more than a JSON number carries exactly.
        "seed": str(facts["job"]["seed"]),
        "job": {name: facts["job"][name] for name in ("id", "attempt", "started_at")},
        "requests_in_batch": len(facts["requests"]),
        "environment": vars(result.environment),
        "batches_halved": result.batches_halved,
        "seconds": result.seconds,
        "training_losses": outcome["losses"],
        "adversarial_set": {
            "method": adversarial["method"],
            "found": adversarial["found"],
            "not_found": [references[index] for index in adversarial["not_found"]],
            "distance_quantiles": adversarial["distance_quantiles"],
            "passes_per_sample": adversarial["passes_per_sample"],
        },
    }


def _frame(facts: Json, outcome: Json) -> Json:
    """What holds for the audit of every model: who attacks, with what, against which controls."""
    return {
        "threat_model": THREAT_MODEL,
        "attacks_not_tried": list(NOT_TRIED),
        "rule": facts["policy"]["audit"],
        "forget_samples": outcome["forget"],
        "audit_controls": outcome["audit_controls"],
        "calibration_controls": outcome["calibration_controls"],
        "controls_chosen": "never trained on; odd rows judge, even rows calibrate, fixed before the request arrived",
        "reference_models": outcome["references"],
        "reference_train_size": outcome["reference_train_size"],
        "train_size": outcome["forget"] + outcome["retain"],
        "detectable_before": outcome["detectable_before"],
        "rehearsed": facts["rehearsed"],
    }


def _audit(audit: Json, references: dict[int, str]) -> Json:
    samples = [
        {"reference": references[sample["index"]], **{name: sample[name] for name in sample if name != "index"}}
        for sample in audit["samples"]
    ]
    worst = max(samples, key=lambda sample: float(sample["z"]))["reference"] if samples else None
    return {**audit, "samples": samples, "worst_sample": worst}


def _finding(outcome: Json) -> Json:
    after = outcome["after"]["audit"]
    notes = [] if outcome["detectable_before"] else [UNDETECTED]
    return {
        "verdict": after["verdict"],
        "words": FINDINGS[after["verdict"]],
        "notes": notes,
        "reasons": after["reasons"],
    }
