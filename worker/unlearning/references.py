"""Reference models: what networks that did and did not train on an image say about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.unlearning import distributed
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
    together: int = 1,
    mixed_precision: bool = False,
    compiled: bool = False,
    accumulate: int = 1,
) -> Iterator[Reference]:
    """Train the references and yield each as it ends, in their order.

    Ranks (see `distributed`) train whole references each, its `distributed.part` of them: they need nothing of each other,
    so all of them are busy all the time, and the weights do not depend on how many ranks there are.

    Args:
        inputs, labels: all images of the pool, N; training images and controls alike.
        members: K x N, see `assign`.
        together: how many are trained at once, each in a thread and, on a GPU, a stream of its own. Their weights do not
            depend on it.

    See `training.train` for the recipe and the errors.
    """

    def one(index: int) -> Reference:
        rows = torch.from_numpy(np.flatnonzero(members[index])).to(inputs.device)
        with distributed.alone(), _own_stream(inputs.device, together):
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
                mixed_precision=mixed_precision,
                compiled=compiled,
                accumulate=accumulate,
            )
            return Reference(index, network, signal(infer(network, inputs), labels))

    if together < 1:
        raise ValueError(f"{together} references cannot be trained together")
    mine = distributed.part(len(members))
    if together == 1:
        yield from map(one, mine)
        return
    pool = ThreadPoolExecutor(together, thread_name_prefix="reference")
    waiting: deque[Future[Reference]] = deque()
    try:
        for index in mine:
            # No more than these are begun, so that a slow consumer does not pile up networks.
            if len(waiting) == together:
                yield waiting.popleft().result()
            waiting.append(pool.submit(one, index))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _own_stream(device: torch.device, together: int) -> Iterator[None]:
    if device.type != "cuda" or together == 1:
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))  # the images were put there by it
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()
