"""Forget by AMUN, and audit the model before and after."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from worker import plan as agreed
from worker.jobs.device import choose_device
from worker.jobs.failures import Failed, refused_as, training_errors
from worker.jobs.judging import Judge
from worker.jobs.loading import (
    check_controls_untouched,
    check_data,
    check_rows,
    load_data,
    load_network,
    load_signals,
)
from worker.jobs.outputs import CHECKPOINT, Outputs
from worker.jobs.progress import Reporter
from worker.jobs.recipes import finetuning, seed_for, train_network
from worker.unlearning import adversarial, amun, checkpoint, membership, verdict

NOT_SEEN_BEFORE = (
    "the audit did not detect these samples in the model before unlearning either, so this verdict is no evidence that "
    "the method worked"
)


def unlearn(plan: agreed.UnlearnPlan, outputs: Outputs, report: Reporter) -> agreed.UnlearnResult:
    """Forget by AMUN, and audit the model before, after and, where the plan says so, retrained without the forget set."""
    device = choose_device()
    report.expect(_unlearning_costs(plan))
    groups = {
        "forget": plan.forget,
        "retain": plan.retain,
        "calibration": plan.calibration,
        "audit": plan.audit_controls,
    }
    with report.phase("load"):
        check_data(plan.data)
        check_rows(plan.data.rows, **groups)
        network = load_network(plan).to(device)
        rows = np.concatenate([np.array(group, dtype=np.int64) for group in groups.values()])
        data = load_data(plan.data, rows, device)
        ends = np.cumsum([len(group) for group in groups.values()])
        forget, retain, calibration, controls = np.split(np.arange(len(rows)), ends[:-1])
        check_controls_untouched(data, np.concatenate([forget, retain]), np.concatenate([calibration, controls]))
        signals = load_signals(plan, rows)
        if len(calibration) < membership.CALIBRATION_AT_LEAST or len(controls) < 2:
            raise Failed(
                "plan_invalid", f"{len(calibration)} calibration and {len(controls)} audit controls are too few"
            )
    with report.phase("attack"), training_errors():
        examples = adversarial.nearest(network, *data.subset(forget), **dataclasses.asdict(plan.attack))
    with report.phase("finetune"), training_errors():
        losses: list[float] = []

        def on_epoch(epoch: int, loss: float, _: nn.Module) -> None:
            losses.append(loss)
            report.step(epoch, plan.unlearn.epochs, "epoch")

        weights = membership.memorisation_weights(
            signals,
            forget,
            scale=plan.unlearn.weight_scale,
            power=plan.unlearn.weight_power,
            spread=plan.unlearn.weight_spread,
            seed=seed_for(plan.seed, "weights"),
        )
        unlearned = amun.unlearn(
            network,
            data.subset(forget),
            data.subset(retain) if "retain" in plan.unlearn.form else None,
            adversarial=examples,
            form=plan.unlearn.form,
            weights=torch.from_numpy(weights),
            learning_rate=plan.unlearn.learning_rate,
            **finetuning(plan.unlearn),
            seed=seed_for(plan.seed, "unlearn"),
            on_epoch=on_epoch,
        )
    with report.phase("audit"):
        judge = Judge(plan, data, signals, forget, retain, calibration, controls)
        with refused_as("checkpoint_invalid", ValueError):
            before = judge.measure(network)
        with refused_as("diverged", ValueError):
            after = judge.measure(unlearned)
    detectable = before.audit.verdict == verdict.Value.UNDER_UNLEARNED.value
    if not detectable:
        after.audit.reasons.append(NOT_SEEN_BEFORE)
    retrained = None
    if plan.compare_retrained:
        with report.phase("retrain"):
            exact = train_network(plan, data.subset(retain), "retrain", report)
            with refused_as("diverged", ValueError):
                retrained = judge.measure(exact)
    with report.phase("save"):
        outputs.write(CHECKPOINT, checkpoint.dump(unlearned))
    return agreed.UnlearnResult(
        before=before,
        after=after,
        retrained=retrained,
        adversarial=_summary(plan, examples),
        forget=len(forget),
        retain=len(retain),
        calibration_controls=len(calibration),
        audit_controls=len(controls),
        references=len(signals),
        reference_train_size=int(signals.member.sum(1).max()),
        epochs=plan.unlearn.epochs,
        learning_rate=plan.unlearn.learning_rate,
        weight_scale=plan.unlearn.weight_scale,
        weight_power=plan.unlearn.weight_power,
        weight_spread=plan.unlearn.weight_spread,
        losses=losses,
        detectable_before=detectable,
    )


def _unlearning_costs(plan: agreed.UnlearnPlan) -> dict[str, float]:
    live = len(plan.forget) + len(plan.retain) + len(plan.calibration) + len(plan.audit_controls)
    retained = plan.unlearn.retain_share * len(plan.retain) if "retain" in plan.unlearn.form else 0
    tuned = len(plan.forget) * (1 + ("forget" in plan.unlearn.form)) + retained
    costs = {
        "load": 0.2 * live,
        "attack": len(plan.forget) * (30.0 if plan.attack.method == "boundary" else 110.0),
        "finetune": float(plan.unlearn.epochs * tuned),
        "audit": 0.7 * live,
        "retrain": float(plan.recipe.epochs * len(plan.retain)),
        "save": 0.1 * live,
    }
    if not plan.compare_retrained:
        del costs["retrain"]
    return costs


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
