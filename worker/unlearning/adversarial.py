"""The nearest adversarial example of each image: AMUN's adversarial set (arXiv 2503.00917, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.unlearning.training import infer

OVERSTEP = 0.02  # a step goes this share of its length, and the least step, beyond the linearised boundary
LEAST_STEP = 1e-4
STEPS_FROM_ORIGINAL = 4  # samples still uncrossed after these oscillate, and plain steps help them
SATURATED = 1e-6  # cross-entropy below this has lost its gradient to rounding


@dataclass(frozen=True)
class Adversarial:
    """One row for each input, in the order of the inputs."""

    inputs: Tensor  # in [0, 1], shape of the inputs; the image itself where nothing was found
    labels: Tensor  # int64, N: the network's own wrong prediction; the true label where nothing was found
    distances: Tensor  # float32, N: l2 distance to the image, pixels in [0, 1]; 0 where nothing was found
    found: Tensor  # bool, N
    passes: int  # forward and backward passes of single images, in all


def nearest(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    method: str,
    batch_size: int,
    rival_classes: int,
    steps: int,
    bisections: int,
    eps_start: float,
    doublings: int,
) -> Adversarial:
    """For each image the nearest one (l2) that ``network`` puts into another class.

    An image that is misclassified already is its own example, at distance 0. The network is searched in evaluation
    mode; its mode and parameters are left as they were.

    Args:
        inputs: images in [0, 1], N x C x H x W.
        labels: their true classes, int64, N.
        method: ``boundary``, steps to the linearised decision boundary followed by bisection (after DeepFool,
            arXiv 1511.04599, each boundary measured from the original image), or ``pgd``, the paper's PGD in an l2 ball
            whose radius doubles until it succeeds.
        batch_size: images in one pass.
        rival_classes: boundary: how many of the closest classes are looked at in each step.
        steps: boundary: steps at most; pgd: steps in each ball.
        bisections: boundary: halvings of the way back to the image, forward passes only.
        eps_start: pgd: radius of the first ball.
        doublings: pgd: how often the radius is doubled at most.

    Raises:
        ValueError: unknown method, or inputs and labels of different length.
    """
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} images but {len(labels)} labels")
    if method not in ("boundary", "pgd"):
        raise ValueError(f"unknown method {method!r}: choose boundary or pgd")
    with _fixed(network):
        misclassified = _predictions(network, inputs, batch_size) != labels
        passes = len(inputs)
        candidates, crossed = inputs.clone(), misclassified.clone()
        todo = (~misclassified).nonzero()[:, 0]
        if method == "boundary":
            points, todo_crossed, spent = _boundary_steps(
                network, inputs[todo], labels[todo], batch_size, rival_classes, steps
            )
        else:
            points, todo_crossed, spent = _growing_balls(
                network, inputs[todo], labels[todo], batch_size, steps, eps_start, doublings
            )
        candidates[todo], crossed[todo] = points, todo_crossed
        passes += spent
        if method == "boundary":
            rows = todo[todo_crossed]
            closer = _bisect(network, inputs[rows], candidates[rows], labels[rows], batch_size, bisections)
            passes += (bisections + 1) * len(rows)
            # Rounding may undo a crossing in another batch: then the farther point stands.
            confirmed = _predictions(network, closer, batch_size) != labels[rows]
            candidates[rows[confirmed]] = closer[confirmed]
        predictions = _predictions(network, candidates, batch_size)
        passes += len(inputs)
    found = crossed & (predictions != labels)
    candidates[~found] = inputs[~found]
    return Adversarial(
        inputs=candidates,
        labels=torch.where(found, predictions, labels),
        distances=(candidates - inputs).flatten(1).norm(dim=1),
        found=found,
        passes=passes,
    )


def _boundary_steps(
    network: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int, rival_classes: int, steps: int
) -> tuple[Tensor, Tensor, int]:
    """Points behind the decision boundary, whether each was reached, and the passes spent."""
    points, crossed, passes = inputs.clone(), torch.zeros_like(labels, dtype=torch.bool), 0
    active = torch.arange(len(inputs), device=inputs.device)
    for step in range(steps + 1):
        still = []
        for rows in active.split(batch_size):
            now, label = points[rows].requires_grad_(), labels[rows]
            logits = network(now)
            passes += len(rows)
            wrong = logits.argmax(1) != label
            crossed[rows[wrong]] = True
            if step == steps or wrong.all():
                continue
            origin = inputs[rows] if step < STEPS_FROM_ORIGINAL else now.detach()
            target, moved = _nearest_linearised(logits, now, label, origin, rival_classes)
            passes += len(rows) * min(rival_classes, logits.shape[1] - 1)
            go = ~wrong & moved
            points[rows[go]] = target[go].clamp(0, 1)
            still.append(rows[go])
        if not still or not len(active := torch.cat(still)):
            break
    return points, crossed, passes


def _nearest_linearised(
    logits: Tensor, points: Tensor, labels: Tensor, origins: Tensor, rival_classes: int
) -> tuple[Tensor, Tensor]:
    """The point of the nearest linearised class boundary closest to each origin; False where no gradient is left."""
    own = logits.gather(1, labels[:, None])
    rivals = (
        logits.detach().scatter(1, labels[:, None], -torch.inf).topk(min(rival_classes, logits.shape[1] - 1)).indices
    )
    margins = own - logits.gather(1, rivals)
    best = torch.full_like(margins[:, 0], torch.inf)
    target = origins.clone()
    for rival in range(rivals.shape[1]):
        (slope,) = torch.autograd.grad(margins[:, rival].sum(), points, retain_graph=rival + 1 < rivals.shape[1])
        slope = slope.flatten(1)
        length = slope.norm(dim=1)
        # The margin that the linear model predicts at the origin, over its slope, is the distance to go.
        margin = margins[:, rival].detach() + (slope * (origins - points.detach()).flatten(1)).sum(1)
        distance = margin / length
        direction = -slope / length[:, None]
        usable = torch.isfinite(distance) & torch.isfinite(direction).all(1) & (distance.abs() < best)
        reach = (distance + OVERSTEP * distance.abs() + LEAST_STEP)[:, None] * direction
        target[usable] = (origins + reach.view_as(origins))[usable]
        best[usable] = distance.abs()[usable]
    return target, torch.isfinite(best)


def _bisect(
    network: nn.Module, inside: Tensor, outside: Tensor, labels: Tensor, batch_size: int, bisections: int
) -> Tensor:
    """The first point behind the boundary on the way from each image to its crossed point, to 2^-bisections."""
    low, high = torch.zeros(len(inside), device=inside.device), torch.ones(len(inside), device=inside.device)
    way = outside - inside

    def point(share: Tensor) -> Tensor:
        return (inside + share.view(-1, 1, 1, 1) * way).clamp(0, 1)

    for _ in range(bisections):
        middle = (low + high) / 2
        wrong = _predictions(network, point(middle), batch_size) != labels
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    return torch.where((high < 1).view(-1, 1, 1, 1), point(high), outside)


def _growing_balls(
    network: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int, steps: int, eps_start: float, doublings: int
) -> tuple[Tensor, Tensor, int]:
    """Projected gradient ascent in l2 balls of radius eps_start, 2 eps_start, ...; returns as `_boundary_steps`."""
    points, crossed, passes = inputs.clone(), torch.zeros_like(labels, dtype=torch.bool), 0
    active = torch.arange(len(inputs), device=inputs.device)
    for doubling in range(doublings + 1):
        eps = eps_start * 2**doubling
        for step in range(steps + 1):
            still = []
            for rows in active.split(batch_size):
                now, label = points[rows].requires_grad_(), labels[rows]
                logits = network(now)
                passes += len(rows)
                wrong = logits.argmax(1) != label
                crossed[rows[wrong]] = True
                if step == steps:  # the start of the next ball
                    still.append(rows[~wrong])
                    continue
                (slope,) = torch.autograd.grad(_ascended(logits, label).sum(), now)
                passes += len(rows)
                length = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                change = points[rows] + 0.1 * eps * slope / length - inputs[rows]
                radius = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                target = (inputs[rows] + change * (eps / radius).clamp(max=1)).clamp(0, 1)
                go = ~wrong & torch.isfinite(target).flatten(1).all(1)
                points[rows[go]] = target[go]
                still.append(rows[go])
            active = torch.cat(still) if still else active[:0]
            if not len(active):
                return points, crossed, passes
    return points, crossed, passes


def _ascended(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, or its negative margin where rounding has left cross-entropy no gradient."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    own = logits.gather(1, labels[:, None])[:, 0]
    rival = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return torch.where(loss > SATURATED, loss, rival - own)


def _predictions(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    return infer(network, images, batch_size=batch_size).argmax(1) if len(images) else images.new_zeros(0).long()


@contextmanager
def _fixed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients, and back."""
    was_training = network.training
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        network.train(was_training)
        for parameter, want in zip(network.parameters(), wanted, strict=True):
            parameter.requires_grad_(want)
