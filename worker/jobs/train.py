"""Train a model and its reference models, and rehearse on these."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker import plan as agreed
from worker.jobs.device import choose_device, references_together
from worker.jobs.failures import refused_as, training_errors
from worker.jobs.loading import (
    Data,
    Rows,
    build,
    check_controls_untouched,
    check_data,
    check_network,
    check_rows,
    load_data,
    load_network,
)
from worker.jobs.outputs import CHECKPOINT, MEMBERS, PHI, Outputs
from worker.jobs.progress import Reporter
from worker.jobs.recipes import finetuning, noted, seed_for, train_network
from worker.unlearning import checkpoint, distributed, references, rehearsal, training


def train(plan: agreed.TrainPlan, outputs: Outputs, report: Reporter) -> agreed.TrainResult:
    """Train a model and its reference models, save what these say of every image, rehearse, and drop their weights.

    An uploaded model is checked instead of trained; its references follow the recipe that it came with.
    """
    device = choose_device()
    pool = np.array([*plan.train, *plan.controls], dtype=np.int64)
    half, rehearsed = len(pool) / 2, plan.rehearsal
    tried = rehearsed.requests * len(rehearsed.learning_rates) * len(rehearsed.weight_scales) + rehearsed.shown_on
    runs = rehearsed.models * len(rehearsed.sizes) * tried
    work = plan.recipe.epochs * (len(plan.train) + plan.references * half)
    report.expect(
        {
            "load": 0.01 * work,
            "train": float(plan.recipe.epochs * len(plan.train)) if plan.checkpoint is None else 0.01 * work,
            "references": plan.recipe.epochs * half * plan.references,
            "rehearse": runs * (plan.unlearn.epochs * plan.unlearn.retain_share + 1) * half,
            "save": 0.01 * work,
        }
    )
    with report.phase("load"):
        check_data(plan.data)
        check_rows(plan.data.rows, needed=("train", "controls"), train=plan.train, controls=plan.controls)
        check_network(plan.data, plan.network)
        data = load_data(plan.data, pool, device)
        trained, controls = np.arange(len(plan.train)), np.arange(len(plan.train), len(pool))
        check_controls_untouched(data, trained, controls)
        with refused_as("plan_invalid", ValueError):
            members = references.assign(len(pool), plan.references, seed=seed_for(plan.seed, "assign"))
    with report.phase("train"):
        if plan.checkpoint is None:
            network = train_network(plan, data.subset(trained), "model", noted(report, plan.recipe.epochs, []))
        else:
            network = load_network(plan.data, plan.network, plan.checkpoint).to(device)
    with report.phase("references"):
        phi, kept = _train_references(plan, data, pool, members, outputs, report)
    with report.phase("rehearse"), training_errors():
        strengths = rehearsal.rehearse(
            kept,
            data.inputs,
            data.labels,
            phi,
            members,
            sizes=rehearsed.sizes,
            requests=rehearsed.requests,
            shown_on=rehearsed.shown_on,
            learning_rates=rehearsed.learning_rates,
            weight_scales=rehearsed.weight_scales,
            weight_power=plan.unlearn.weight_power,
            weight_spread=plan.unlearn.weight_spread,
            form=plan.unlearn.form,
            attack=dataclasses.asdict(plan.attack),
            finetuning=finetuning(plan.unlearn),
            tolerance=plan.audit.tolerance,
            tolerance_membership=plan.audit.tolerance_membership,
            tolerance_accuracy=rehearsed.tolerance_accuracy,
            seed=seed_for(plan.seed, "rehearse"),
            on_run=lambda done, count: report.step(done, count, "rehearsal"),
        )
    with report.phase("save"):
        outputs.write(CHECKPOINT, checkpoint.dump(network))
        # They are never written to a file; this looks whether the memory has let them go too.
        traces = [weakref.ref(reference) for reference in kept.values()]
        kept.clear()
        gc.collect()
    return agreed.TrainResult(
        accuracy_train=training.accuracy(network, *data.subset(trained)),
        accuracy_controls=training.accuracy(network, *data.subset(controls)),
        references=plan.references,
        reference_train_size=int(members.sum(1).max()),
        rehearsal=[agreed.RehearsedStrength(**dataclasses.asdict(strength)) for strength in strengths],
        reference_weights_deleted=all(distributed.gathered_values([trace() is None for trace in traces])),
        uploaded=plan.checkpoint is not None,
    )


def _train_references(
    plan: agreed.TrainPlan,
    data: Data,
    pool: Rows,
    members: NDArray[np.bool_],
    outputs: Outputs,
    report: Reporter,
) -> tuple[NDArray[np.float64], dict[int, nn.Module]]:
    """Signals of all references over the pool, K x N, and the references of this rank that will rehearse."""
    with refused_as("plan_invalid", ValueError):
        rehearsing = rehearsal.rehearsed(plan.references, plan.rehearsal.models)
    phi = np.zeros((plan.references, len(pool)))
    kept: dict[int, nn.Module] = {}
    shape = (plan.data.rows, plan.references)
    with outputs.open(MEMBERS) as file:
        everyone = np.zeros(shape, dtype=np.uint8)
        everyone[pool] = members.T
        file.write(everyone.tobytes())
    with training_errors():
        for reference in references.train(
            lambda: build(plan.data, plan.network),
            data.inputs,
            data.labels,
            members,
            **dataclasses.asdict(plan.recipe),
            seed=seed_for(plan.seed, "references"),
            together=references_together(data.inputs.device),
        ):
            phi[reference.index] = reference.phi
            if reference.index in rehearsing:
                kept[reference.index] = reference.network
            done = min((reference.index + 1) * distributed.world_size(), plan.references)  # the others are as far
            report.step(done, plan.references, "reference model")
    phi = distributed.summed(torch.from_numpy(phi)).numpy()  # each rank has left the others' rows zero
    with outputs.open(PHI) as file:
        signals = np.zeros(shape, dtype=np.float32)
        signals[pool] = phi.T
        file.write(signals.tobytes())
    return phi, kept
