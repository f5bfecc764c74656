"""Rehearsal: the strength of unlearning fixed on reference models, before any request exists.

A reference model is an original model whose members and non-members are known, and for which the other references say
what never having seen an image looks like. So a pseudo-request on it shows what a strength does without a retrained
model and without a look at a real forget set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.unlearning import adversarial, amun, distributed, fingerprint, membership, statistics
from worker.unlearning.audit import FORGET_FOR_AN_AUC
from worker.unlearning.references import drawn
from worker.unlearning.training import infer

Rows = NDArray[np.int64]

FINGERPRINTED = 500  # images whose distance to the boundary is searched
SCALES_BETWEEN = 41  # looked at between the lowest and the highest that were tried


@dataclass(frozen=True)
class Outcome:
    """What one pseudo-request showed; of aggregates only."""

    auc_z: float | None  # None below 20 forget samples
    membership: float  # R, the remaining membership share; 0 where training left nothing that could remain
    information: float  # weight of this R in a pooled one
    accuracy: float  # on images the model never saw, 0..1
    boundary_auc: float | None = (
        None  # `fingerprint.boundary`, of requests that show a strength, with 20 samples or more
    )


@dataclass(frozen=True)
class Strength:
    """The strength chosen for one size of request, and what it did to requests it was not chosen on."""

    size: int
    learning_rate: float
    weight_scale: float
    requests: int  # that show it
    models: int
    auc_z_mean: float | None  # None below 20 forget samples
    auc_z_sd: float | None
    membership: float  # R over all these requests
    membership_standard_error: float | None  # None for a single request
    membership_before: float
    accuracy_change_mean: float  # on images the model never saw, after minus before
    boundary_auc_mean: float | None  # None below 20 forget samples


@dataclass(frozen=True)
class _Request:
    forget: Rows
    retain: Rows
    calibration: Rows
    audit: Rows


def rehearse(
    networks: Mapping[int, nn.Module],
    inputs: Tensor,
    labels: Tensor,
    phi: NDArray[np.float64],
    members: NDArray[np.bool_],
    *,
    sizes: Sequence[int],
    requests: int,
    shown_on: int,
    learning_rates: Sequence[float],
    weight_scales: Sequence[float],
    weight_power: float,
    weight_spread: bool,
    form: str,
    attack: Mapping[str, Any],
    finetuning: Mapping[str, Any],
    tolerance: float,
    tolerance_membership: float,
    tolerance_accuracy: float,
    seed: int,
    on_run: Callable[[int, int], None] | None = None,
) -> list[Strength]:
    """For each size the learning rate and weight of the examples after which the forgotten look least like members.

    On each network pseudo-requests of that size are drawn from its own training images; the images it never saw are its
    controls, half of them to calibrate and half to judge. The rehearsed model and its pair, trained on exactly the
    images it was not, are left out of the signals that judge it: so forgotten images and controls have equally many
    references on either side, none of them the model itself. Every strength is tried on the same requests and `choose`
    takes the best; what it does is then measured on new requests, so that the evidence is not what the choice
    was made by. Ranks (see `distributed`) rehearse on their own networks, each alone, and all judge all outcomes.

    Args:
        networks: reference models that still exist, by their row in ``phi`` and ``members``; of several ranks those of
            `distributed.part` that this one has trained.
        inputs, labels: all images of the pool, N.
        phi: signals of the references, K x N.
        members: which reference was trained on which image, K x N, from `references.assign`.
        sizes: of requests; one larger than half of what a reference was trained on is cut to that.
        requests: of each size, on each network, to choose by.
        shown_on: further ones, to show what was chosen.
        weight_scales: factors of the adversarial set's weights.
        weight_power, weight_spread: of `membership.memorisation_weights`.
        form: of `amun.unlearn`.
        attack: keywords of `adversarial.nearest`.
        finetuning: the other keywords of `amun.unlearn`.
        tolerance, tolerance_membership, tolerance_accuracy: see `choose`.
        on_run: called after each run of this rank with the number of its runs done and of all of them.

    Raises:
        ValueError: no networks, sizes, requests, learning rates or scales, a size below one, or a single pair of
            references.
        Diverged: a fine-tuning's loss is not finite.
    """
    models = len(distributed.gathered_values(list(networks)))
    if not (models and sizes and learning_rates and weight_scales) or min(requests, shown_on, *sizes) < 1:
        raise ValueError("a rehearsal needs networks, sizes, requests, learning rates and scales, each at least one")
    if len(members) < 4:
        raise ValueError("a rehearsal needs a pair of references besides the rehearsed one's")
    sizes = sorted({min(size, int(members.sum(1).min()) // 2) for size in sizes})
    grid = list(product(learning_rates, weight_scales))
    runs, done, strengths = len(sizes) * len(networks) * (requests * len(grid) + shown_on), 0, []

    def attempts(
        size: int, numbers: range, tried: Sequence[tuple[float, float]], *, shown: bool = False
    ) -> tuple[list[Outcome], list[list[Outcome]]]:
        """Outcomes before and, for each strength tried, after, of the same requests."""
        nonlocal done
        before: list[Outcome] = []
        after: list[list[Outcome]] = [[] for _ in tried]
        with distributed.alone():
            for (index, network), number in product(networks.items(), numbers):
                request = _draw(members[index], size, drawn(seed, size, index, number))
                others = np.arange(len(members)) // 2 != index // 2
                references = membership.ReferenceSignals(phi[others], members[others])
                forget, retain = ((inputs[rows], labels[rows]) for rows in (request.forget, request.retain))
                examples = adversarial.nearest(network, *forget, **attack)
                before.append(_judge(network, inputs, labels, references, request))
                own_seed = int(drawn(seed, size, index, number, 1).integers(2**31))
                for outcomes, (learning_rate, scale) in zip(after, tried, strict=True):
                    weights = membership.memorisation_weights(
                        references, request.forget, scale=scale, power=weight_power, spread=weight_spread, seed=own_seed
                    )
                    unlearned = amun.unlearn(
                        network,
                        forget,
                        retain if "retain" in form else None,
                        adversarial=examples,
                        form=form,
                        weights=torch.from_numpy(weights),
                        learning_rate=learning_rate,
                        seed=own_seed,
                        **finetuning,
                    )
                    outcome = _judge(unlearned, inputs, labels, references, request)
                    if shown:
                        distance = _boundary_auc(unlearned, inputs, labels, request, attack)
                        outcome = replace(outcome, boundary_auc=distance)
                    outcomes.append(outcome)
                    done += 1
                    if on_run:
                        on_run(done, runs)
        return _of_all_ranks(before), [_of_all_ranks(outcomes) for outcomes in after]

    for size in sizes:
        before, tried = attempts(size, range(requests), grid)
        learning_rate, scale = choose(
            dict(zip(grid, tried, strict=True)), before, tolerance, tolerance_membership, tolerance_accuracy
        )
        before, (after,) = attempts(size, range(requests, requests + shown_on), [(learning_rate, scale)], shown=True)
        strengths.append(_strength(size, learning_rate, scale, models, before, after))
    return strengths


def choose(
    tried: Mapping[tuple[float, float], Sequence[Outcome]],
    before: Sequence[Outcome],
    tolerance: float,
    tolerance_membership: float,
    tolerance_accuracy: float,
) -> tuple[float, float]:
    """The learning rate and weight scale with the least (AUC(z) - 1/2)^2 / tolerance^2 + R^2 / tolerance_membership^2
    + (loss of accuracy)^2 / tolerance_accuracy^2.

    One request is noisy and all of them move smoothly with the scale, so for each learning rate each of the three is
    first drawn as a curve over its logarithm (quadratic, or a line through two), R as the pooled one. The least is looked
    for along the curves, between the scales that were tried. Strengths that lose more accuracy than its tolerance are
    taken only where all do.

    Args:
        tried: outcomes by learning rate and weight scale.
        before: outcomes of the same requests before unlearning.
    """
    accurate = np.array([outcome.accuracy for outcome in before])
    candidates: list[tuple[bool, float, tuple[float, float]]] = []
    for rate in sorted({rate for rate, _ in tried}):
        scales = sorted(scale for at, scale in tried if at == rate)
        outcomes = [tried[rate, scale] for scale in scales]
        between = np.geomspace(scales[0], scales[-1], SCALES_BETWEEN) if len(scales) > 1 else np.array(scales)
        losses = [float((accurate - [one.accuracy for one in found]).mean()) for found in outcomes]
        auc_z = _curve(scales, [_mean_auc(found) - 0.5 for found in outcomes], between)
        remaining = _curve(scales, [pooled(found)[0] for found in outcomes], between)
        lost = np.maximum(_curve(scales, losses, between), 0)
        deviation = (
            (auc_z / tolerance) ** 2 + (remaining / tolerance_membership) ** 2 + (lost / tolerance_accuracy) ** 2
        )
        candidates += [
            (bool(loss > tolerance_accuracy), float(value), (rate, float(f"{scale:.3g}")))
            for scale, value, loss in zip(between, deviation, lost, strict=True)
        ]
    return min(candidates)[2]


def pooled(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """R over several requests, each by its information, and its standard error from how far they lie apart.

    The error is that of a ratio of sums (Cochran 1977, section 6.4); infinite for a single request.
    """
    value = np.array([outcome.membership for outcome in outcomes])
    information = np.array([outcome.information for outcome in outcomes])
    total = information.sum()
    if total <= 0:
        return 0.0, float("inf")
    ratio = float((information * value).sum() / total)
    if len(outcomes) < 2:
        return ratio, float("inf")
    apart = (information * (value - ratio)) ** 2
    return ratio, float(np.sqrt(apart.sum() * len(outcomes) / (len(outcomes) - 1)) / total)


def rehearsed(references: int, models: int) -> list[int]:
    """Which of the reference models to keep for a rehearsal: ``models`` of them, spread over the pairs.

    Raises:
        ValueError: more models than references.
    """
    if models > references:
        raise ValueError(f"{models} models cannot be rehearsed on with {references} references")
    return [index * references // models for index in range(models)]


def _of_all_ranks(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """In the order of the networks, for each rank has consecutive ones."""
    return [Outcome(*values) for values in distributed.gathered_values([astuple(outcome) for outcome in outcomes])]


def _draw(member: NDArray[np.bool_], size: int, generator: np.random.Generator) -> _Request:
    """A request on a model trained on ``member``; what it never saw is split alternately, as controls are."""
    trained_on, controls = generator.permutation(np.flatnonzero(member)), np.flatnonzero(~member)
    return _Request(trained_on[:size], trained_on[size:], controls[0::2], controls[1::2])


def _judge(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    references: membership.ReferenceSignals,
    request: _Request,
) -> Outcome:
    controls = np.concatenate([request.calibration, request.audit])
    asked = np.concatenate([request.forget, controls])
    logits, classes = infer(network, inputs[asked]), labels[asked]
    phi = references.mean_out.copy()  # a finite value for those that are not asked for, which nothing reads
    phi[asked] = membership.signal(logits, classes)
    calibration = membership.calibrate(phi, references, request.calibration)
    try:
        remaining = membership.remaining_membership(calibration, references, request.forget, request.audit)
    except membership.NoEffect:
        remaining = membership.Remaining(0.0, 0.0, 0.0)
    z = calibration.z
    enough = min(len(request.forget), len(request.audit)) >= FORGET_FOR_AN_AUC
    return Outcome(
        auc_z=statistics.auc(z[request.forget], z[request.audit]).value if enough else None,
        membership=remaining.value,
        information=remaining.information,
        accuracy=(logits.argmax(1) == classes)[len(request.forget) :].double().mean().item(),
    )


def _boundary_auc(
    network: nn.Module, inputs: Tensor, labels: Tensor, request: _Request, attack: Mapping[str, Any]
) -> float | None:
    """Of at most 500 forgotten images against as many controls: searching takes longer than judging."""
    forget, controls = request.forget[:FINGERPRINTED], request.audit[:FINGERPRINTED]
    if min(len(forget), len(controls)) < FORGET_FOR_AN_AUC:
        return None
    found = [adversarial.nearest(network, inputs[rows], labels[rows], **attack) for rows in (forget, controls)]
    auc = fingerprint.boundary(*found).auc
    return None if auc is None else auc.value


def _mean_auc(outcomes: Sequence[Outcome]) -> float:
    """Mean AUC(z), or 1/2 where requests of this size have none: then R alone decides."""
    values = [outcome.auc_z for outcome in outcomes if outcome.auc_z is not None]
    return float(np.mean(values)) if values else 0.5


def _curve(scales: Sequence[float], values: Sequence[float], at: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(scales) == 1:
        return np.array(values)
    degree = min(2, len(scales) - 1)
    return np.polyval(np.polyfit(np.log(scales), values, degree), np.log(at)).astype(np.float64)


def _strength(
    size: int, learning_rate: float, scale: float, models: int, before: Sequence[Outcome], after: Sequence[Outcome]
) -> Strength:
    auc_z = [outcome.auc_z for outcome in after if outcome.auc_z is not None]
    distances = [outcome.boundary_auc for outcome in after if outcome.boundary_auc is not None]
    remaining, error = pooled(after)
    return Strength(
        size=size,
        learning_rate=learning_rate,
        weight_scale=scale,
        requests=len(after),
        models=models,
        auc_z_mean=float(np.mean(auc_z)) if auc_z else None,
        auc_z_sd=float(np.std(auc_z, ddof=1)) if len(auc_z) > 1 else None,
        membership=remaining,
        membership_standard_error=error if np.isfinite(error) else None,
        membership_before=pooled(before)[0],
        accuracy_change_mean=float(np.mean([b.accuracy - a.accuracy for a, b in zip(before, after, strict=True)])),
        boundary_auc_mean=float(np.mean(distances)) if distances else None,
    )
