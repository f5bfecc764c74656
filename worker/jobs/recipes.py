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
from worker.unlearning.training import OnEpoch


def train_network(
    plan: agreed.TrainPlan | agreed.UnlearnPlan, pairs: tuple[Tensor, Tensor], purpose: str, on_epoch: OnEpoch
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
            on_epoch=on_epoch,
        )


def noted(report: Reporter, epochs: int, losses: list[float]) -> OnEpoch:
    """Takes down each epoch's mean loss, and reports it as a step of its phase."""

    def on_epoch(epoch: int, loss: float, _: nn.Module) -> None:
        losses.append(loss)
        report.step(epoch, epochs, "epoch")

    return on_epoch


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
        "accumulate": spec.accumulate,
    }


def seed_for(seed: int, purpose: str) -> int:
    """Independent 31-bit seeds for the parts of one job."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:4]) >> 1
