"""What AMUN is compared with. `retrain` is exact; the others take the keywords of `finetuning.finetune`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from worker.unlearning.finetuning import DataSet, Part, finetune, saliency
from worker.unlearning.training import OnEpoch, infer, train

_GLOBAL_GENERATOR = threading.Lock()  # torch has one for all threads, and initial weights come from it


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
    mixed_precision: bool = False,
    compiled: bool = False,
    accumulate: int = 1,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Exact unlearning: a network trained from random weights on the retained images alone.

    The same call trains the first model and the reference models. Initial weights, order and augmentation follow from
    ``seed``; torch's global generator is left as it was. See `training.train` for the other arguments and the errors.
    """
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
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
        mixed_precision=mixed_precision,
        compiled=compiled,
        accumulate=accumulate,
        on_epoch=on_epoch,
    )


def finetune_on_retained(network: nn.Module, retain: DataSet, **options: Any) -> nn.Module:
    """FT (Warnecke et al. 2021): the retained set alone, in the hope that the rest is forgotten."""
    return finetune(network, [Part(*retain, movable=True)], **options)


def l1_sparse(network: nn.Module, retain: DataSet, *, strength: float, epochs: int, **options: Any) -> nn.Module:
    """l1-sparse (Jia et al., arXiv 2304.04934, section 5): FT with a penalty ``strength`` x sum |w| that falls to 0.

    The strength falls linearly over the epochs, which they found best.
    """

    def penalty(network: nn.Module, epoch: int) -> Tensor:
        size = torch.stack([parameter.abs().sum() for parameter in network.parameters()]).sum()
        return strength * (1 - (epoch - 1) / epochs) * size

    return finetune(network, [Part(*retain, movable=True)], epochs=epochs, penalty=penalty, **options)


def gradient_ascent(network: nn.Module, forget: DataSet, **options: Any) -> nn.Module:
    """GA (Thudi et al., arXiv 2109.13398): climbs the loss of the forget set."""
    return finetune(network, [Part(*forget, movable=True)], ascend=True, **options)


def random_labels(network: nn.Module, forget: DataSet, retain: DataSet | None, **options: Any) -> nn.Module:
    """RL (Golatkar et al., arXiv 1911.04933): the forget set under a wrong label drawn at random, with the retained set.

    Args:
        retain: None where it is not available.
        options: of `finetuning.finetune`; its ``seed`` also draws the labels.
    """
    images, labels = forget
    classes = infer(network, images[:1]).shape[1]
    generator = torch.Generator().manual_seed(options["seed"])
    shift = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    parts = [Part(images, (labels + shift) % classes, movable=True)]
    if retain is not None:
        parts.append(Part(*retain, movable=True))
    return finetune(network, parts, **options)


def salun(
    network: nn.Module, forget: DataSet, retain: DataSet | None, *, share: float = 0.5, **options: Any
) -> nn.Module:
    """SalUn (Fan et al., arXiv 2310.12508): `random_labels` that moves only the weights salient for the forget set."""
    mask = saliency(network, forget, share=share, batch_size=options["batch_size"])
    return random_labels(network, forget, retain, mask=mask, **options)
