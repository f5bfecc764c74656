"""Forget by AMUN, audit, and climb the ladder where the audit says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from worker import plan as agreed
from worker.jobs.attempts import Attempt, attempt, attempt_costs, retrain
from worker.jobs.cases import Case, load_case
from worker.jobs.device import choose_device
from worker.jobs.failures import Failed, refused_as
from worker.jobs.judging import Measured, attack_cost, measure, measuring_cost
from worker.jobs.ladder import AMUN, DIVERGED, OVER, RETRAIN, UNDER, Step, Tried, next_step, withdraws
from worker.jobs.outputs import CHECKPOINT, Outputs
from worker.jobs.progress import Reporter
from worker.unlearning import adversarial, checkpoint, distributed, statistics

EXACT = "exact"
NOT_SEEN_BEFORE = (
    "the audit did not detect these samples in the model before unlearning either, so this verdict is no evidence that "
    "the method worked"
)


@dataclasses.dataclass(frozen=True)
class Climbed:
    """A ladder that has ended."""

    tried: list[Tried]
    records: list[agreed.LadderStep]  # of the attempts that left a network
    last: Attempt  # of these
    failures: list[str]  # of the others


def unlearn(plan: agreed.UnlearnPlan, outputs: Outputs, report: Reporter) -> agreed.UnlearnResult:
    """Audit the base model, then try as the ladder says until an attempt is good enough or nothing is left to try."""
    device = choose_device()
    _expect(plan, report)
    with report.phase("load"):
        case = load_case(plan, device)
    examples = None
    if not plan.ladder.straight_to_retraining:
        with report.phase("attack"):
            examples = case.nearest(case.network, case.forget)
    with report.phase("audit"), refused_as("checkpoint_invalid", ValueError):
        before = measure(case, case.network, step=1, examples=examples)
    climbed = _climb(case, plan, before, report)
    retrained = None
    if plan.compare_retrained and all(one.step.method != RETRAIN for one in climbed.tried):
        with report.phase("retrain"):
            exact, _ = retrain(case, plan, "retrain", [], report)
        with report.phase("audit"), refused_as("diverged", ValueError):
            retrained = measure(case, exact, step=1, before=before).told()
    with report.phase("save"):
        outputs.write(CHECKPOINT, _checked(climbed.last.network))
    return _result(case, plan, before, climbed, retrained, examples)


def _climb(case: Case, plan: agreed.UnlearnPlan, before: Measured, report: Reporter) -> Climbed:
    """Raises Failed(diverged) where the first attempt leaves nothing, for then there is no model to keep."""
    tried: list[Tried] = []
    records: list[agreed.LadderStep] = []
    failures: list[str] = []
    last: Attempt | None = None
    while step := _next(plan, tried):
        if tried and not (step.method == RETRAIN and plan.compare_retrained):  # the comparison's work was expected
            report.add(attempt_costs(plan, step.method))
        try:
            last = attempt(case, plan, step, before, last, report)
        except Failed as failure:
            if failure.code != "diverged" or last is None:
                raise
            failures.append(f"attempt {step.number}, {step.method}, diverged: {failure}")
            tried.append(Tried(step, DIVERGED))
        else:
            records.append(last.record)
            # All ranks have judged the same numbers; that they go on alike rests on the first one's word alone.
            verdict = distributed.gathered_values([last.record.verdict])[0]
            tried.append(Tried(step, verdict))
    assert last is not None, "a ladder has a first step"  # noqa: S101 - for mypy
    return Climbed(tried, records, last, failures)


def _next(plan: agreed.UnlearnPlan, tried: list[Tried]) -> Step | None:
    with refused_as("plan_invalid", ValueError):
        return next_step(tried, plan.ladder, plan.unlearn.weight_scale)


def _expect(plan: agreed.UnlearnPlan, report: Reporter) -> None:
    live = len(plan.forget) + len(plan.retain) + len(plan.calibration) + len(plan.audit_controls)
    report.expect({"load": 0.2 * live, "audit": measuring_cost(plan), "save": 0.1 * live})
    if plan.ladder.straight_to_retraining:
        report.add(attempt_costs(plan, RETRAIN))
        return
    report.add({"attack": attack_cost(plan.attack, len(plan.forget))})
    report.add(attempt_costs(plan, AMUN))
    if plan.compare_retrained:
        report.add(attempt_costs(plan, RETRAIN))


def _checked(network: nn.Module) -> bytes:
    """The bytes to save. Raises Failed(diverged) for a parameter that is not finite."""
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise Failed("diverged", "the new model holds values that are not finite")
    return checkpoint.dump(network)


def _result(
    case: Case,
    plan: agreed.UnlearnPlan,
    before: Measured,
    climbed: Climbed,
    retrained: agreed.ModelMeasurement | None,
    examples: adversarial.Adversarial | None,
) -> agreed.UnlearnResult:
    first, after, last = before.told(), climbed.last.measured.told(), climbed.last.record
    exact = climbed.last.provenance
    reasons = climbed.failures + last.reasons
    if exact is not None:
        reasons = [f"trained from random initialisation on {exact.samples} images, none of them forgotten"]
        reasons += [f"its audit: {reason}" for reason in last.reasons]
    detectable = first.audit.verdict == UNDER
    if not detectable:
        after.audit.reasons.append(NOT_SEEN_BEFORE)
        reasons += [NOT_SEEN_BEFORE] if exact is None else []
    return agreed.UnlearnResult(
        verdict=last.verdict if exact is None else EXACT,
        reasons=reasons,
        utility=_utility(plan, before, climbed.last.measured),
        withdraw=withdraws(climbed.tried),
        incident=exact is not None and last.verdict in (UNDER, OVER),
        steps=climbed.records,
        provenance=exact,
        before=first,
        after=after,
        retrained=retrained,
        adversarial=None if examples is None else _summary(plan, examples),
        forget=len(case.forget),
        retain=len(case.retain),
        calibration_controls=len(case.calibration),
        audit_controls=len(case.controls),
        references=len(case.signals),
        reference_train_size=case.reference_train_size,
        detectable_before=detectable,
    )


def _utility(plan: agreed.UnlearnPlan, before: Measured, after: Measured) -> agreed.UtilityVerdict:
    change = statistics.paired_change(before.right, after.right)
    tolerance = plan.utility.tolerance_accuracy
    return agreed.UtilityVerdict(
        passed=-change.value <= tolerance, change=change.value, low=change.low, high=change.high, tolerance=tolerance
    )


def _summary(plan: agreed.UnlearnPlan, examples: adversarial.Adversarial) -> agreed.AdversarialSummary:
    found = examples.found.cpu().numpy()
    distances = examples.distances.cpu().numpy()[found]
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    return agreed.AdversarialSummary(
        method=plan.attack.method,
        found=int(found.sum()),
        not_found=[index for index, one in zip(plan.forget, found, strict=True) if not one],
        distance_quantiles={str(share): float(np.quantile(distances, share)) for share in shares}
        if found.any()
        else {},
        passes_per_sample=examples.passes / len(found),
    )
