"""What unlearning is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worker.unlearning.training import OnEpoch, train


def retrain(
    build: Callable[[], nn.Module],
    inputs: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    augment: bool,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Exact unlearning: a network trained from random weights on the retained images alone.

    The same call trains the first model and the reference models. Initial weights, order and augmentation follow from
    ``seed``; torch's global generator is left as it was. See `training.train` for the other arguments and the errors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build().to(inputs.device)
    return train(
        network,
        inputs,
        labels,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        augment=augment,
        seed=seed,
        on_epoch=on_epoch,
    )
