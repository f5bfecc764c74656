"""Reference models: what networks that did and did not train on an image say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.unlearning.baselines import retrain
from worker.unlearning.membership import signal
from worker.unlearning.training import infer


@dataclass(frozen=True)
class Reference:
    """One reference model as it ends."""

    index: int
    network: nn.Module
    phi: NDArray[np.float64]  # its signal of every image, N


def assign(rows: int, references: int, *, seed: int) -> NDArray[np.bool_]:
    """Which reference is trained on which image: K x N, True where it is.

    References 2k and 2k + 1 are trained on the two halves of one random split (LiRA, arXiv 2112.03570, section V-C), so
    every image is in exactly half of them.

    Raises:
        ValueError: fewer than two images, or a number of references that is not a positive even one.
    """
    if rows < 2:
        raise ValueError(f"{rows} images cannot be split into two halves")
    if references < 2 or references % 2:
        raise ValueError(f"references are trained in disjoint pairs, so {references} of them is not possible")
    members = np.zeros((references, rows), dtype=bool)
    for pair in range(references // 2):
        order = drawn(seed, pair).permutation(rows)
        members[2 * pair, order[: rows // 2]] = True
        members[2 * pair + 1] = ~members[2 * pair]
    return members


def drawn(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each key, and unlike the one that the seed alone gives.

    ``default_rng([seed, 0])`` is ``default_rng(seed)``: a caller who splits the images with the same seed would have
    the first pair of references trained on exactly its training images and its controls.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def train(
    build: Callable[[], nn.Module],
    inputs: Tensor,
    labels: Tensor,
    members: NDArray[np.bool_],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    augment: bool,
    seed: int,
) -> Iterator[Reference]:
    """Train the references one after the other and yield each as it ends, so that signals are saved at once.

    Args:
        inputs, labels: all images of the pool, N; training images and controls alike.
        members: K x N, see `assign`.

    See `training.train` for the recipe and the errors.
    """
    for index, trained_on in enumerate(members):
        rows = torch.from_numpy(np.flatnonzero(trained_on)).to(inputs.device)
        network = retrain(
            build,
            inputs[rows],
            labels[rows],
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            augment=augment,
            seed=int(drawn(seed, index).integers(2**31)),
        )
        yield Reference(index, network, signal(infer(network, inputs), labels))
