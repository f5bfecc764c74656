"""One attempt of the ladder: forget by AMUN, or retrain, then judge."""

from __future__ import annotations

import dataclasses
import hashlib
import time

import torch
from torch import nn

from worker import plan as agreed
from worker.jobs.cases import Case
from worker.jobs.failures import Failed, refused_as, training_errors
from worker.jobs.judging import Measured, measure, measuring_cost
from worker.jobs.ladder import AMUN_A_SALUN, PREVIOUS, RETRAIN, Step
from worker.jobs.loading import Rows
from worker.jobs.progress import Reporter
from worker.jobs.recipes import finetuning, noted, seed_for, train_network
from worker.jobs.telling import verdict_of
from worker.unlearning import amun, membership


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A network that was made and judged."""

    network: nn.Module
    measured: Measured
    record: agreed.LadderStep
    provenance: agreed.Provenance | None  # of a retrained one


def attempt(
    case: Case, plan: agreed.UnlearnPlan, step: Step, before: Measured, previous: Attempt | None, report: Reporter
) -> Attempt:
    """Make this step. Raises Failed(diverged) where it leaves nothing that can be judged, and Failed(plan_invalid).

    Args:
        before: the base model's measurement.
        previous: the attempt before this one.
    """
    started, losses, spec = time.monotonic(), list[float](), _strength(plan, step)
    provenance = None
    try:
        if step.method == RETRAIN:
            with report.phase("retrain"):
                network, provenance = retrain(case, plan, f"retrain/{step.number}", losses, report)
        else:
            with report.phase("finetune"):
                network = _finetune(case, plan, spec, step, before, previous, losses, report)
    except Failed:
        report.skip("audit")
        raise
    with report.phase("audit"), refused_as("diverged", ValueError):
        measured = measure(case, network, step=step.number, before=before)
    told = measured.told()
    verdict, reasons = verdict_of(told.audit, told.slices)
    by_amun = step.method != RETRAIN
    record = agreed.LadderStep(
        number=step.number,
        method=step.method,
        learning_rate=spec.learning_rate if by_amun else None,
        weight_scale=spec.weight_scale if by_amun else None,
        weight_power=spec.weight_power if by_amun else None,
        weight_spread=spec.weight_spread if by_amun else None,
        saliency_share=spec.saliency_share if by_amun else None,
        epochs=spec.epochs if by_amun else plan.recipe.epochs,
        losses=losses,
        started_from=step.started_from,
        verdict=verdict,
        reasons=reasons,
        estimates=told.audit.estimates,
        accuracy_controls=told.utility.controls,
        seconds=time.monotonic() - started,
    )
    return Attempt(network, measured, record, provenance)


def attempt_costs(plan: agreed.UnlearnPlan, method: str) -> dict[str, float]:
    """Phases of an attempt, in passes of one image."""
    if method == RETRAIN:
        return {"retrain": float(plan.recipe.epochs * len(plan.retain)), "audit": measuring_cost(plan)}
    retained = plan.unlearn.retain_share * len(plan.retain) if "retain" in plan.unlearn.form else 0
    tuned = len(plan.forget) * (1 + ("forget" in plan.unlearn.form)) + retained
    return {"finetune": float(plan.unlearn.epochs * tuned), "audit": measuring_cost(plan)}


def retrain(
    case: Case, plan: agreed.UnlearnPlan, purpose: str, losses: list[float], report: Reporter
) -> tuple[nn.Module, agreed.Provenance]:
    """A network that never saw the forget set, nor an exact copy of an image in it, and what proves that."""
    digests = case.data.digests
    forgotten = {digest.tobytes() for digest in digests[case.forget]}
    kept: Rows = case.retain[[digest.tobytes() not in forgotten for digest in digests[case.retain]]]
    network = train_network(plan, case.data.subset(kept), purpose, noted(report, plan.recipe.epochs, losses))
    trained_on = sorted(digest.tobytes() for digest in digests[kept])
    return network, agreed.Provenance(
        samples=len(kept),
        samples_sha256=hashlib.sha256(b"".join(trained_on)).hexdigest(),
        copies_left_out=len(case.retain) - len(kept),
        seed=str(seed_for(plan.seed, purpose)),
    )


def _strength(plan: agreed.UnlearnPlan, step: Step) -> agreed.UnlearnSpec:
    spec = plan.unlearn
    if step.weight_scale is not None:
        spec = dataclasses.replace(spec, weight_scale=step.weight_scale)
    if step.method == AMUN_A_SALUN:
        spec = dataclasses.replace(spec, saliency_share=plan.ladder.saliency_share)
    return spec


def _finetune(
    case: Case,
    plan: agreed.UnlearnPlan,
    spec: agreed.UnlearnSpec,
    step: Step,
    before: Measured,
    previous: Attempt | None,
    losses: list[float],
    report: Reporter,
) -> nn.Module:
    """AMUN from the base, or from the step before by the examples that were nearest to that one (AMUN-A)."""
    start, examples = case.network, before.examples
    if step.started_from == PREVIOUS and previous is not None:
        start, examples = previous.network, previous.measured.examples
    assert examples is not None, "an unlearn job has a forget set"  # noqa: S101 - for mypy
    with training_errors():
        weights = membership.memorisation_weights(
            case.signals,
            case.forget,
            scale=spec.weight_scale,
            power=spec.weight_power,
            spread=spec.weight_spread,
            seed=seed_for(plan.seed, f"weights/{step.number}"),
        )
        return amun.unlearn(
            start,
            case.data.subset(case.forget),
            case.data.subset(case.retain) if "retain" in spec.form else None,
            adversarial=examples,
            form=spec.form,
            weights=torch.from_numpy(weights),
            learning_rate=spec.learning_rate,
            **finetuning(spec),
            seed=seed_for(plan.seed, f"unlearn/{step.number}"),
            on_epoch=noted(report, spec.epochs, losses),
        )
