"""Recorded outcomes, fitted to a plan: its samples, its requests, its numbers of images and references."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from worker import plan as agreed

Json = dict[str, Any]

REPORTS = Path(__file__).resolve().parents[1] / "worker" / "report" / "data"
OWN = Path(__file__).parent / "data"
UNLEARNED = {"pass": "result", "retrained": "result-retrained", "few": "result-few", "over": "result-over"}
CASES = tuple(UNLEARNED)
FEWEST_FOR_AN_AUC = 20  # below, an audit is inconclusive whatever it measures
VOUCHING = -1  # the recorded rehearsal whose strength passed, in `rehearsed.json`


def of(plan: agreed.Plan, *, case: str | None, rows: int | None, scores: bool) -> Json:
    """The outcome of a plan as result.json has it.

    Args:
        plan: any of the four kinds.
        case: of `CASES`, for an unlearn plan; None: ``few`` below 20 samples, else ``pass``.
        rows: images of the set that a register plan makes; None: as many as were recorded.
        scores: whether the single scores stay, of which reports draw plots.
    """
    if isinstance(plan, agreed.RegisterPlan):
        return _registered(plan, rows)
    if isinstance(plan, agreed.TrainPlan):
        return _trained(plan)
    if isinstance(plan, agreed.UnlearnPlan):
        return _unlearned(plan, case or ("few" if len(plan.forget) < FEWEST_FOR_AN_AUC else "pass"), scores)
    return _audited(plan, scores)


def recorded(folder: Path, name: str) -> Json:
    outcome: Json = json.loads((folder / f"{name}.json").read_text())["outcome"]
    return outcome


def _registered(plan: agreed.RegisterPlan, rows: int | None) -> Json:
    outcome = recorded(OWN, "register")
    outcome["rows"] = rows = rows or outcome["rows"]
    outcome["controls"] = round(rows * (plan.controls.share or 0.5))
    outcome["train"] = rows - outcome["controls"]
    outcome["manifest_sha256"] = hashlib.sha256(f"{plan.seed}/{rows}".encode()).hexdigest()
    outcome["near_duplicates"] |= {"searched": rows}
    return outcome


def _trained(plan: agreed.TrainPlan) -> Json:
    outcome = recorded(OWN, "train")
    outcome["references"] = plan.references
    outcome["reference_train_size"] = len(plan.train) // 2
    shown = json.loads((REPORTS / "rehearsed.json").read_text())[VOUCHING]
    outcome["rehearsal"] = [shown | {"size": size} for size in plan.rehearsal.sizes]
    outcome["uploaded"] = plan.checkpoint is not None
    return outcome


def _unlearned(plan: agreed.UnlearnPlan, case: str, scores: bool) -> Json:
    outcome = recorded(REPORTS, UNLEARNED[case])
    for name in ("before", "after", "retrained"):
        if outcome[name] is not None:
            outcome[name] |= _measured(outcome[name], plan, scores)
    if outcome["adversarial"] is not None:
        outcome["adversarial"] |= {"found": len(plan.forget), "not_found": []}
    if outcome["provenance"] is not None:
        outcome["provenance"] |= {"samples": len(plan.retain), "copies_left_out": 0, "seed": str(plan.seed)}
    return outcome | _sizes(plan) | {"reference_train_size": (len(plan.forget) + len(plan.retain)) // 2}


def _audited(plan: agreed.AuditPlan, scores: bool) -> Json:
    outcome = recorded(REPORTS, "result-audit")
    if plan.forget:
        before = recorded(REPORTS, "result-few")["before"]
        outcome |= {name: before[name] for name in ("boundary", "utility", "retained")}
        outcome |= _measured(before, plan, scores)
    return outcome | _sizes(plan)


def _sizes(plan: agreed.UnlearnPlan | agreed.AuditPlan) -> Json:
    return {
        "forget": len(plan.forget),
        "retain": len(plan.retain),
        "calibration_controls": len(plan.calibration),
        "audit_controls": len(plan.audit_controls),
        "references": plan.signals.references,
    }


def _measured(model: Json, plan: agreed.UnlearnPlan | agreed.AuditPlan, scores: bool) -> Json:
    """The audit of one model with the plan's samples in it, and a slice for each of its requests."""
    audit, part = model["audit"], model["slices"][0]
    values = {"forget": len(plan.forget), "controls": len(plan.audit_controls)}
    return {
        "audit": audit
        | {
            "samples": [
                sample | {"index": index}
                for sample, index in zip(_many(audit["samples"], len(plan.forget)), plan.forget, strict=True)
            ],
            "scores": {
                score: {group: _many(groups[group], number) for group, number in values.items()}
                for score, groups in audit["scores"].items()
                if scores
            },
        },
        "slices": [part | {"forget": len(rows), "worst": rows[0]} for rows in plan.requests],
    }


def _many(items: Sequence[Any], number: int) -> list[Any]:
    return list(islice(cycle(items), number))
