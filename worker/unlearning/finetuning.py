"""The loop that AMUN and the methods it is compared with have in common: a trained network, moved a little."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.unlearning import distributed
from worker.unlearning._optimizer import SGD
from worker.unlearning.training import (
    OnEpoch,
    augmented,
    bfloat16,
    finite,
    normalize_by_batch,
    passed,
    shuffled_batches,
)

SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "linear": lambda passed, epochs: 1 - passed / epochs,
    "constant": lambda passed, epochs: 1.0,
    "tenth-each-epoch": lambda passed, epochs: 0.1 ** int(passed),
    "tenth-each-fifth-epoch": lambda passed, epochs: 0.1 ** (int(passed) // 5),
}
"""Factor of the learning rate by name, after ``passed`` of ``epochs`` epochs; the last three are the paper's."""

DataSet = tuple[Tensor, Tensor]
"""Images in [0, 1], N x C x H x W, and their labels, int64."""

Mask = Mapping[str, Tensor]
"""For each parameter's name which of its weights may move, bool of the parameter's shape."""


@dataclass(frozen=True)
class Part:
    """One of the sets that are shuffled together."""

    images: Tensor
    labels: Tensor
    movable: bool  # crops and flips may touch it, where the fine-tuning augments at all
    weights: Tensor | None = None  # factor of each sample's loss; None: 1
    share: float = 1.0  # of its samples in each epoch, another draw each time


def finetune(
    network: nn.Module,
    parts: list[Part],
    *,
    learning_rate: float,
    schedule: str,
    epochs: int,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    augment: bool,
    seed: int,
    mixed_precision: bool = False,
    accumulate: int = 1,
    mask: Mask | None = None,
    penalty: Callable[[nn.Module, int], Tensor] | None = None,
    ascend: bool = False,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """A copy of ``network``, in evaluation mode, after SGD on the weighted cross-entropy of the parts.

    Ranks share each batch as in `training.train`.

    Args:
        schedule: one of `SCHEDULES`: the learning rate falls to 0 in a straight line, stays, or is divided by ten after
            every epoch or every fifth.
        augment: random crop and flip of the parts that may be moved.
        seed: fixes order, draws and augmentation.
        mixed_precision, accumulate: see `training.train`.
        mask: the weights outside it keep their value exactly. The update is masked, not the gradient: momentum and
            weight decay would move them all the same.
        penalty: added to each batch's loss; called with the network and the epoch from 1.
        ascend: climb the loss instead.

    Raises:
        ValueError: an unknown schedule, or nothing to train on.
        Diverged: the loss of an epoch is not finite.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.labels for part in parts])
    device = images.device
    factors = torch.cat([_factors(part) for part in parts]).to(device)
    movable = torch.cat([torch.full((len(part.images),), part.movable) for part in parts]).to(device)
    network = copy.deepcopy(network)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()} if mask else {}
    generator = torch.Generator().manual_seed(seed)
    optimizer = SGD(network.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay)
    with distributed.together(network) as forward:
        for epoch in range(1, epochs + 1):
            drawn = _drawn([(len(part.images), part.share) for part in parts], generator)
            normalize_by_batch(network, len(drawn))
            total = torch.zeros((), device=device)
            batches = shuffled_batches(len(drawn), batch_size, generator)
            for number, chosen in enumerate(batches):
                elapsed = epoch - 1 + number / len(batches)
                optimizer.param_groups[0]["lr"] = learning_rate * SCHEDULES[schedule](elapsed, epochs)
                places, passes = passed(len(chosen), accumulate)
                rows = drawn[chosen[places]].to(device)
                batch = images[rows]
                if augment:
                    moved = augmented(batch, generator, places, len(chosen))
                    batch = torch.where(movable[rows].view(-1, 1, 1, 1), moved, batch)
                optimizer.zero_grad()
                for part, share in passes:
                    distributed.normalize_over_ranks(network, share)
                    with bfloat16(device, mixed_precision):
                        losses = F.cross_entropy(forward(batch[part]), labels[rows[part]], reduction="none")
                    loss = (losses * factors[rows[part]]).mean() * share.weight
                    if penalty:
                        loss = loss + penalty(network, epoch)
                    weight = share.count / len(chosen)
                    (-loss * weight if ascend else loss * weight).backward()
                    total += loss.detach() * share.count
                optimizer.step()
                if mask:
                    _put_back(network, mask, before)
            mean_loss = finite(distributed.averaged(total) / len(drawn), epoch)
            if on_epoch:
                on_epoch(epoch, mean_loss, network)
    return network.eval()


def saliency(network: nn.Module, forget: DataSet, *, share: float, batch_size: int) -> dict[str, Tensor]:
    """The weights with the largest absolute gradient of the forget set's loss (SalUn, arXiv 2310.12508, section 4).

    Args:
        share: of all weights, 0 < share <= 1; ties at the threshold are all among them.
        batch_size: images in one pass.

    Raises:
        ValueError: an empty forget set, or a share out of range.
    """
    images, labels = forget
    if not len(images) or not 0 < share <= 1:
        raise ValueError(f"a saliency mask needs forget samples and a share in (0, 1], got {len(images)} and {share}")
    was_training = network.training
    network.eval()
    parameters = dict(network.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    own = distributed.share(len(images)).part
    for batch, classes in zip(images[own].split(batch_size), labels[own].split(batch_size), strict=True):
        loss = F.cross_entropy(network(batch), classes, reduction="sum")
        for name, slope in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            total[name] += slope
    network.train(was_training)
    total = {
        name: distributed.averaged(slope) for name, slope in total.items()
    }  # the order of sizes is all that counts
    size = torch.cat([slope.abs().flatten() for slope in total.values()])
    kept = max(1, round(share * len(size)))
    threshold = size.kthvalue(len(size) - kept + 1).values
    return {name: slope.abs() >= threshold for name, slope in total.items()}


def _factors(part: Part) -> Tensor:
    weights = torch.ones(len(part.images)) if part.weights is None else part.weights.float().cpu()
    if weights.shape != (len(part.images),) or not (torch.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite, at least 0, and one for each image")
    return weights


def _drawn(parts: list[tuple[int, float]], generator: torch.Generator) -> Tensor:
    """Rows of one epoch: all of a part, or a new draw of its share, at least one."""
    chosen, start = [], 0
    for count, share in parts:
        rows = torch.arange(count)
        if share < 1 and count:
            rows = torch.randperm(count, generator=generator)[: max(1, round(share * count))]
        chosen.append(start + rows)
        start += count
    return torch.cat(chosen)


@torch.no_grad()
def _put_back(network: nn.Module, mask: Mask, before: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        parameter.copy_(torch.where(mask[name], parameter, before[name]))
