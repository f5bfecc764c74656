"""The nearest adversarial example of each image: AMUN's adversarial set (arXiv 2503.00917, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.unlearning import distributed
from worker.unlearning.training import bfloat16, infer

OVERSTEP = 0.02  # a step goes this share of its length, and the least step, beyond the linearised boundary
LEAST_STEP = 1e-4
PULLED_STEPS = 4  # samples still uncrossed after these oscillate, and plain steps help them
PULL = 0.4  # boundaries are measured from so far on the way back to the image: from the image itself more oscillate
UNBOUNDED_STEPS = 2  # later steps make up for what the range of pixels cuts off; sooner they would cross farther out
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
    mixed_precision: bool = False,
) -> Adversarial:
    """For each image the nearest one (l2) that ``network`` puts into another class.

    An image that is misclassified already is its own example, at distance 0. The network is searched in evaluation
    mode; its mode and parameters are left as they were. Each pass is of as many images as fit a batch and still search;
    no other copy than the result is made of all images. What is found is what a float32 pass has seen to be wrong. Ranks
    (see `distributed`) search consecutive parts of the images, and all of them get all that is found, in order.

    Args:
        inputs: images in [0, 1], N x C x H x W.
        labels: their true classes, int64, N.
        method: ``boundary``, steps to the linearised decision boundary and back along the straight line (after
            DeepFool, arXiv 1511.04599, each boundary measured from the original image), or ``pgd``, the paper's PGD in
            an l2 ball whose radius doubles until it succeeds.
        batch_size: images in one pass.
        rival_classes: boundary: how many of the closest classes the first step looks at; later ones look at the closest.
        steps: boundary: steps at most; pgd: steps in each ball.
        bisections: boundary: the way back is known to 2^-bisections of its length after as many forward passes at most.
        eps_start: pgd: radius of the first ball.
        doublings: pgd: how often the radius is doubled at most.
        mixed_precision: take the steps in bfloat16 on a GPU; samples that this does not bring across are searched
            again in float32.

    Raises:
        ValueError: unknown method, or inputs and labels of different length.
    """
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} images but {len(labels)} labels")
    if method not in ("boundary", "pgd"):
        raise ValueError(f"unknown method {method!r}: choose boundary or pgd")
    own = distributed.share(len(inputs)).part
    with _fixed(network):
        candidates, predictions, passes = _search(
            network,
            inputs[own],
            labels[own],
            method,
            batch_size,
            rival_classes,
            steps,
            bisections,
            eps_start,
            doublings,
            mixed_precision,
        )
    candidates = distributed.gathered(candidates, len(inputs))
    predictions = distributed.gathered(predictions, len(inputs))
    return Adversarial(
        inputs=candidates,
        labels=predictions,
        distances=torch.cat([(one - other).flatten(1).norm(dim=1) for one, other in _pairs(candidates, inputs)]),
        found=predictions != labels,
        passes=sum(distributed.gathered_values([passes])),
    )


def _search(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    method: str,
    batch_size: int,
    rival_classes: int,
    steps: int,
    bisections: int,
    eps_start: float,
    doublings: int,
    mixed_precision: bool,
) -> tuple[Tensor, Tensor, int]:
    """Points, what the network takes them for, and the passes spent; the image and its label where nothing was found."""
    candidates, predictions, passes = inputs.clone(), labels.clone(), 0
    todo = torch.arange(len(inputs), device=inputs.device)
    for narrow in _precisions(mixed_precision, inputs.device):
        with bfloat16(inputs.device, narrow):
            if method == "boundary":
                spent, seen = _boundary_steps(
                    network, inputs, labels, candidates, todo, batch_size, rival_classes, steps
                )
            else:
                spent, seen = _growing_balls(
                    network, inputs, labels, candidates, todo, batch_size, steps, eps_start, doublings
                )
        passes += spent
        for rows in todo.split(batch_size):
            if narrow:  # not what bfloat16 saw counts
                logits = infer(network, candidates[rows])
                seen.ends[rows], seen.predictions[rows] = _margin(logits, labels[rows]), logits.argmax(1)
                passes += len(rows)
            predictions[rows] = seen.predictions[rows]
            if method == "boundary":
                passes += _walk_back(network, inputs, labels, candidates, predictions, rows, seen, bisections)
        todo = todo[predictions[todo] == labels[todo]]
        candidates[todo] = inputs[todo]
    return candidates, predictions, passes


@dataclass(frozen=True)
class _Seen:
    """What the steps saw of each image, N; of use for those that were searched."""

    starts: Tensor  # margin of the image
    ends: Tensor  # margin of the point
    predictions: Tensor  # of the point

    @classmethod
    def nothing(cls, labels: Tensor) -> _Seen:
        zeros = torch.zeros(len(labels), device=labels.device)
        return cls(zeros, zeros.clone(), labels.clone())

    def note(self, rows: Tensor, logits: Tensor, labels: Tensor, *, first: bool) -> Tensor:
        """Take down a pass; returns which of its rows are wrong."""
        margin, prediction = _margin(logits.detach(), labels), logits.argmax(1)
        if first:
            self.starts[rows] = margin
        self.ends[rows], self.predictions[rows] = margin, prediction
        return prediction != labels


def _precisions(mixed: bool, device: torch.device) -> tuple[bool, ...]:
    """Whether to step in bfloat16, for each search: a GPU's narrow one is followed by one in float32 for the rest."""
    return (True, False) if mixed and device.type == "cuda" else (False,)


def _boundary_steps(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    points: Tensor,
    active: Tensor,
    batch_size: int,
    rival_classes: int,
    steps: int,
) -> tuple[int, _Seen]:
    """Move the active rows of ``points`` behind the decision boundary, in place; the passes spent and what they saw."""
    passes, seen = 0, _Seen.nothing(labels)
    for step in range(steps + 1):
        still = []
        for rows in active.split(batch_size):
            now, label = points[rows].requires_grad_(), labels[rows]
            logits = network(now).float()
            passes += len(rows)
            wrong = seen.note(rows, logits, label, first=step == 0)
            if wrong.all() or step == steps:
                continue
            origin = torch.lerp(now.detach(), inputs[rows], PULL if step < PULLED_STEPS else 0.0)
            rivals = min(rival_classes if step == 0 else 1, logits.shape[1] - 1)
            target, moved = _nearest_linearised(logits, now, label, origin, rivals, bounded=step >= UNBOUNDED_STEPS)
            passes += len(rows) * rivals
            go = ~wrong & moved
            points[rows[go]] = target[go]
            still.append(rows[go])
        if not still or not len(active := torch.cat(still)):
            break
    return passes, seen


def _nearest_linearised(
    logits: Tensor, points: Tensor, labels: Tensor, origins: Tensor, rival_classes: int, *, bounded: bool
) -> tuple[Tensor, Tensor]:
    """The point in [0, 1] of the nearest linearised class boundary closest to each origin; False without a gradient.

    What the range of pixels cuts off is made up for by the other pixels if ``bounded``; else the point falls short.
    """
    own = logits.gather(1, labels[:, None])
    rivals = (
        logits.detach().scatter(1, labels[:, None], -torch.inf).topk(min(rival_classes, logits.shape[1] - 1)).indices
    )
    margins = own - logits.gather(1, rivals)
    best = torch.full_like(margins[:, 0], torch.inf)
    target, start = origins.clone(), origins.flatten(1)
    for rival in range(rivals.shape[1]):
        (slope,) = torch.autograd.grad(margins[:, rival].sum(), points, retain_graph=rival + 1 < rivals.shape[1])
        slope = slope.flatten(1)
        length = slope.norm(dim=1)
        # The margin that the linear model predicts at the origin, over its slope, is the distance to go.
        margin = margins[:, rival].detach() + (slope * (start - points.detach().flatten(1))).sum(1)
        distance = margin / length
        reach = distance + OVERSTEP * distance.abs() + LEAST_STEP
        direction = -slope / length[:, None]
        if bounded:
            reach = _reach_in_range(start, direction, reach)
        usable = torch.isfinite(distance) & torch.isfinite(direction).all(1) & (distance.abs() < best)
        target[usable] = (start + reach[:, None] * direction).clamp(0, 1).view_as(origins)[usable]
        best[usable] = distance.abs()[usable]
    return target, torch.isfinite(best)


def _reach_in_range(start: Tensor, direction: Tensor, wanted: Tensor) -> Tensor:
    """How far to go along unit vectors so that, once clamped to [0, 1], the way along them is as long as ``wanted``.

    Two steps of Newton's method; the way gained is concave in the reach, so they stay short of it. Nothing is changed where
    no pixel can move or the way leads backwards.
    """
    reach = wanted
    for _ in range(2):
        place = start + reach[:, None] * direction
        inside = place.clamp(0, 1)
        short = wanted - ((inside - start) * direction).sum(1)
        gain = (direction.square() * (place == inside)).sum(1)
        reach = torch.where((short > 0) & (wanted > 0) & (gain > 1e-6), reach + short / gain, reach)
    return reach


def _walk_back(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    points: Tensor,
    predictions: Tensor,
    batch: Tensor,
    seen: _Seen,
    bisections: int,
) -> int:
    """Bring crossed points back to the first place behind the boundary, in place; returns the passes spent.

    False position on the margin, never closer than half a tolerance to either end: once an end is that close to the
    boundary, the next probe falls just across and ends the search. Every fourth probe halves the rest, for margins that
    are far from linear. A point is only replaced by one that a float32 pass has seen on the wrong side, and its
    prediction with it.

    Args:
        batch: rows to look at.
        seen: their margins at the image and at the point.
    """
    tolerance, passes = 2.0**-bisections, 0
    crossed = (predictions[batch] != labels[batch]) & (points[batch] != inputs[batch]).flatten(1).any(1)
    rows = batch[crossed]
    margin_low, margin_high = seen.starts[rows], seen.ends[rows]
    if not bisections or not len(rows):
        return 0
    inside, way, label = inputs[rows], points[rows] - inputs[rows], labels[rows]
    low, high = torch.zeros(len(rows), device=rows.device), torch.ones(len(rows), device=rows.device)
    searching = torch.arange(len(rows), device=rows.device)
    for probe in range(1, bisections + 1):
        searching = searching[(high - low)[searching] > tolerance]
        if not len(searching):
            break
        left, right = low[searching], high[searching]
        margin_left, margin_right = margin_low[searching], margin_high[searching]
        share = left + (right - left) * (margin_left / (margin_left - margin_right)).nan_to_num(0.5)
        share = torch.minimum(torch.maximum(share, left + tolerance / 2), right - tolerance / 2)
        share = share if probe % 4 else (left + right) / 2
        place = inside[searching] + share.view(-1, 1, 1, 1) * way[searching]
        logits = infer(network, place)
        passes += len(searching)
        margin, wrong = _margin(logits, label[searching]), logits.argmax(1) != label[searching]
        low[searching], high[searching] = torch.where(wrong, left, share), torch.where(wrong, share, right)
        margin_low[searching] = torch.where(wrong, margin_left, margin)
        margin_high[searching] = torch.where(wrong, margin, margin_right)
        points[rows[searching[wrong]]] = place[wrong]
        predictions[rows[searching[wrong]]] = logits.argmax(1)[wrong]
    return passes


def _growing_balls(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    points: Tensor,
    active: Tensor,
    batch_size: int,
    steps: int,
    eps_start: float,
    doublings: int,
) -> tuple[int, _Seen]:
    """Projected gradient ascent in l2 balls of radius eps_start, 2 eps_start, ...; works as `_boundary_steps`."""
    passes, seen = 0, _Seen.nothing(labels)
    for doubling in range(doublings + 1):
        eps = eps_start * 2**doubling
        for step in range(steps + 1):
            still = []
            for rows in active.split(batch_size):
                now, label = points[rows].requires_grad_(), labels[rows]
                logits = network(now).float()
                passes += len(rows)
                wrong = seen.note(rows, logits, label, first=step + doubling == 0)
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
                return passes, seen
    return passes, seen


def _ascended(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, or its negative margin where rounding has left cross-entropy no gradient."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    own = logits.gather(1, labels[:, None])[:, 0]
    rival = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return torch.where(loss > SATURATED, loss, rival - own)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The true class's logit minus the largest other one: not above 0 where the prediction is wrong."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def _pairs(first: Tensor, second: Tensor, count: int = 1024) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(first.split(count), second.split(count), strict=True)


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
