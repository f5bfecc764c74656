"""Supervised training and inference. A data set is a pair of tensors (inputs, labels) on one device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import accumulate as accumulated
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from worker.unlearning import distributed
from worker.unlearning._optimizer import SGD

OnEpoch = Callable[[int, float, nn.Module], None]
"""Called after each epoch with its number from 1, its mean loss, and the network as it stands."""


class Diverged(Exception):
    """The training loss became NaN or infinite."""


def train(
    network: nn.Module,
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
    """Train ``network`` in place with SGD on cross-entropy; returns it in evaluation mode.

    Ranks (see `distributed`) take their parts of the same batches, so that how many they are changes no step.

    Args:
        inputs: images in [0, 1], N x C x H x W, on the network's device.
        labels: int64, N.
        learning_rate: the highest of the schedule.
        schedule: ``one-cycle`` (Smith and Topin 2019), ``step`` (times 0.1 after each fifth of the epochs) or
            ``constant``.
        augment: random crop and horizontal flip of every batch, see `augmented`.
        seed: fixes the order of the images and the augmentation.
        mixed_precision: bfloat16 where CUDA's autocast uses it; nothing on a CPU.
        compiled: steps by ``torch.compile``, which takes a C++ compiler and a minute before the first step.
        accumulate: each batch passes in so many `parts`, whose gradients are summed before the step; batch norm sees the
            parts. For a device that cannot hold a batch.

    Raises:
        Diverged: the loss of an epoch is not finite.
        ValueError: no images, or an unknown schedule.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = SGD(network.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay)
    steps = len(shuffled_batches(len(inputs), batch_size, torch.Generator()))
    scheduler = _scheduler(optimizer, schedule, learning_rate, epochs, steps)
    with distributed.together(network) as shared:
        forward = torch.compile(shared) if compiled else shared
        for epoch in range(1, epochs + 1):
            normalize_by_batch(network, len(inputs))
            total = torch.zeros((), device=inputs.device)
            for batch in shuffled_batches(len(inputs), batch_size, generator):
                places, passes = passed(len(batch), accumulate)
                rows = batch[places].to(inputs.device)
                images = augmented(inputs[rows], generator, places, len(batch)) if augment else inputs[rows]
                optimizer.zero_grad()
                for part, share in passes:
                    distributed.normalize_over_ranks(network, share)
                    with bfloat16(inputs.device, mixed_precision):
                        loss = F.cross_entropy(forward(images[part]), labels[rows[part]]) * share.weight
                    (loss * (share.count / len(batch))).backward()
                    total += loss.detach() * share.count
                optimizer.step()
                scheduler.step()
            mean_loss = finite(distributed.averaged(total) / len(inputs), epoch)
            if on_epoch:
                on_epoch(epoch, mean_loss, network)
    return network.eval()


def bfloat16(device: torch.device, wanted: bool) -> AbstractContextManager[None]:
    """Autocast to bfloat16 where it is wanted and the device is a GPU: on a CPU it would only lose digits."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and device.type == "cuda")


def laid_out(images: Tensor) -> Tensor:
    """The same images stored channels last, as the fastest convolutions read them; rows keep that layout."""
    return images.contiguous(memory_format=torch.channels_last)


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """A random permutation of ``range(count)`` cut into batches.

    A last batch of one image joins the batch before it, because batch norm has no variance to divide by there.

    Raises:
        ValueError: ``count`` is zero.
    """
    if count == 0:
        raise ValueError("there are no images to train on")
    batches = list(torch.randperm(count, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def passed(count: int, accumulate: int) -> tuple[Tensor, list[tuple[slice, distributed.Share]]]:
    """Which of a batch's ``count`` images are this rank's, and which of those pass at a time, with their share of all.

    The batch is cut into `parts` first and each part is shared out then, so that the same images meet in batch norm
    however many ranks there are, and all ranks have as many passes.
    """
    shares = [(part, distributed.share(part.stop - part.start)) for part in parts(count, accumulate)]
    own = [torch.arange(part.start, part.stop)[share.part] for part, share in shares]
    ends = [0, *accumulated(len(places) for places in own)]
    return torch.cat(own), [(slice(*ends[n : n + 2]), share) for n, (_, share) in enumerate(shares)]


def parts(count: int, accumulate: int) -> list[slice]:
    """``range(count)`` in at most ``accumulate`` parts that differ by one at most, none of a single image if it can be.

    Raises:
        ValueError: ``accumulate`` is below 1.
    """
    if accumulate < 1:
        raise ValueError(f"a batch cannot pass in {accumulate} parts")
    number = max(1, min(accumulate, count // 2))
    bounds = [count * part // number for part in range(number + 1)]
    return [slice(start, end) for start, end in pairwise(bounds)]


def normalize_by_batch(network: nn.Module, images: int) -> None:
    """Put ``network`` in training mode, or in evaluation mode where a single image leaves batch norm no variance."""
    network.train(images > 1)


def finite(loss: Tensor, epoch: int) -> float:
    """``loss`` as a number; raises `Diverged` where it is NaN or infinite."""
    value = loss.item()
    if not torch.isfinite(loss):
        raise Diverged(f"the mean loss of epoch {epoch} is {value}")
    return value


def augmented(
    batch: Tensor, generator: torch.Generator, places: Tensor | None = None, count: int | None = None
) -> Tensor:
    """A random crop of each image after zero padding, and a horizontal flip of every second one on average.

    The padding is 4 pixels, as is usual for CIFAR-10, and 1 for images below 16 pixels. Same shape and device as
    ``batch``; ``generator`` lives on the CPU, so that a seed gives the same crops on every device. Where ``batch`` is what
    lies at ``places`` of a larger one of ``count`` images, crops are drawn for all of that, so that each image has the one
    it would have there.
    """
    height, width = batch.shape[2:]
    drawn, own = count or len(batch), slice(None) if places is None else places
    padding = 4 if min(height, width) >= 16 else 1
    top, left = torch.randint(2 * padding + 1, (2, drawn, 1), generator=generator)[:, own].to(batch.device)
    flip = (torch.rand(drawn, generator=generator)[own] < 0.5).to(batch.device)
    rows = top + torch.arange(height, device=batch.device)
    columns = left + torch.arange(width, device=batch.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    images = torch.arange(len(batch), device=batch.device)[:, None, None]
    padded = F.pad(batch, (padding,) * 4)
    return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # channels last


@torch.no_grad()
def infer(network: nn.Module, inputs: Tensor, *, batch_size: int = 512) -> Tensor:
    """Logits in evaluation mode, float32, N x classes, on the device of ``inputs``; the network's mode is restored.

    A batch that does not fit into the memory passes in halves, for the logits of an image do not depend on the others.
    """
    was_training = network.training
    network.eval()
    try:
        return torch.cat([_logits(network, batch) for batch in inputs.split(batch_size)])
    finally:
        network.train(was_training)


def infer_together(network: nn.Module, inputs: Tensor) -> Tensor:
    """The same as `infer`, each rank seeing to its share of the images; equal on all ranks."""
    return distributed.gathered(infer(network, inputs[distributed.share(len(inputs)).part]), len(inputs))


def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label, 0..1."""
    return (infer_together(network, inputs).argmax(1) == labels).float().mean().item()


def _logits(network: nn.Module, batch: Tensor) -> Tensor:
    try:
        return network(batch).float()  # type: ignore[no-any-return]
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    return torch.cat([_logits(network, half) for half in batch.chunk(2)])


def _scheduler(
    optimizer: torch.optim.Optimizer, schedule: str, learning_rate: float, epochs: int, steps: int
) -> LRScheduler:
    if schedule == "one-cycle":
        return OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    if schedule == "step":
        milestones = [steps * max(1, epochs * fifth // 5) for fifth in range(1, 5)]
        return MultiStepLR(optimizer, sorted(set(milestones)), gamma=0.1)
    if schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    raise ValueError(f"unknown schedule {schedule!r}: choose one-cycle, step or constant")
