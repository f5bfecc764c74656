"""AMUN: unlearning by fine-tuning on the nearest adversarial examples (arXiv 2503.00917)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from worker.unlearning.adversarial import Adversarial
from worker.unlearning.training import OnEpoch, augmented, finite, normalize_by_batch, shuffled_batches

FORMS = ("retain+forget+adversarial", "forget+adversarial", "retain+adversarial", "adversarial")

DataSet = tuple[Tensor, Tensor]
"""Images in [0, 1], N x C x H x W, and their labels, int64."""


def unlearn(
    network: nn.Module,
    forget: DataSet,
    retain: DataSet | None = None,
    *,
    adversarial: Adversarial,
    form: str,
    weights: Tensor | None = None,
    learning_rate: float,
    learning_rate_decay_every: int | None,
    epochs: int,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    augment: bool,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """A copy of ``network``, in evaluation mode, fine-tuned so that it no longer shows the forget set; section 4.

    Cross-entropy on the sets that ``form`` names, shuffled together. Examples that were not found are left out: their
    rows hold the forgotten image under its true label.

    Args:
        forget: the forget set.
        retain: the retained set, None where it is not available.
        adversarial: `adversarial.nearest` of the forget set, row for row.
        form: which sets are trained on, one of `FORMS`.
        weights: factor of each adversarial sample's loss, N of the forget set, at least 0; None: all 1.
        learning_rate_decay_every: the learning rate is divided by ten after this many epochs; None: never.
        augment: random crop and flip on the retained and forget set; the adversarial set is never augmented, because
            a moved example is no longer the nearest one.
        seed: fixes order and augmentation.

    Raises:
        ValueError: an empty forget set, an unknown form, a form that needs a retained set where there is none, rows of
            ``adversarial`` or ``weights`` that do not match the forget set, or nothing left to train on.
        Diverged: the loss of an epoch is not finite.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: choose one of {', '.join(FORMS)}")
    if not len(forget[0]):
        raise ValueError("the forget set is empty")
    if len(adversarial.labels) != len(forget[0]):
        raise ValueError(f"{len(adversarial.labels)} adversarial examples for {len(forget[0])} images to forget")
    if weights is None:
        weights = torch.ones(len(forget[0]))
    if weights.shape != (len(forget[0]),) or not (torch.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite, at least 0, and one for each image to forget")
    natural: list[DataSet] = []
    if "retain" in form:
        if retain is None:
            raise ValueError(f"form {form} needs the retained set")
        natural.append(retain)
    if "forget" in form:
        natural.append(forget)
    found, device = adversarial.found, forget[0].device
    inputs = torch.cat([adversarial.inputs[found], *(images for images, _ in natural)])
    labels = torch.cat([adversarial.labels[found], *(classes for _, classes in natural)])
    factors = torch.ones(len(inputs), device=device)
    factors[: int(found.sum())] = weights.to(device, torch.float32)[found]
    is_natural = torch.arange(len(inputs), device=device) >= found.sum()

    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    optimizer = SGD(network.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay)
    for epoch in range(1, epochs + 1):
        normalize_by_batch(network, len(inputs))
        if learning_rate_decay_every:
            optimizer.param_groups[0]["lr"] = learning_rate * 0.1 ** ((epoch - 1) // learning_rate_decay_every)
        total = torch.zeros((), device=device)
        for batch in shuffled_batches(len(inputs), batch_size, generator):
            rows = batch.to(device)
            images = inputs[rows]
            if augment:
                images = torch.where(is_natural[rows].view(-1, 1, 1, 1), augmented(images, generator), images)
            loss = (F.cross_entropy(network(images), labels[rows], reduction="none") * factors[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        mean_loss = finite(total / len(inputs), epoch)
        if on_epoch:
            on_epoch(epoch, mean_loss, network)
    return network.eval()
