"""A plan's recipe as keywords and seeds."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from torch import Tensor, nn

from worker import plan as agreed
from worker.jobs.failures import training_errors
from worker.jobs.loading import build
from worker.jobs.progress import Reporter
from worker.unlearning import baselines


def train_network(
    plan: agreed.TrainPlan | agreed.UnlearnPlan, pairs: tuple[Tensor, Tensor], purpose: str, report: Reporter
) -> nn.Module:
    """Train a new network by the plan's recipe. Raises Failed(diverged) and Failed(plan_invalid).

    Args:
        pairs: images and labels to train on.
        purpose: which network of the job this is; it makes its seed.
    """
    with training_errors():
        return baselines.retrain(
            lambda: build(plan.data, plan.network),
            *pairs,
            **dataclasses.asdict(plan.recipe),
            seed=seed_for(plan.seed, purpose),
            on_epoch=lambda epoch, loss, network: report.step(epoch, plan.recipe.epochs, "epoch"),
        )


def finetuning(spec: agreed.UnlearnSpec) -> dict[str, Any]:
    """The keywords of `amun.unlearn` that rehearsal does not choose."""
    return {
        "schedule": spec.schedule,
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "momentum": spec.momentum,
        "weight_decay": spec.weight_decay,
        "augment": spec.augment,
        "retain_share": spec.retain_share,
        "saliency_share": spec.saliency_share,
        "mixed_precision": spec.mixed_precision,
    }


def seed_for(seed: int, purpose: str) -> int:
    """Independent 31-bit seeds for the parts of one job."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:4]) >> 1
