"""Rehearsal: the strength of unlearning fixed on reference models, before any request exists.

A reference model is an original model whose members and non-members are known, and for which the other references say
what never having seen an image looks like. So a pseudo-request on it shows what a strength does without a retrained
model and without a look at a real forget set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.unlearning import adversarial, amun, membership, statistics
from worker.unlearning.references import drawn
from worker.unlearning.training import infer

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Strength:
    """The strength chosen for one size of request and what it did there: aggregates over models, no samples."""

    size: int
    learning_rate: float
    epochs: int
    models: int
    auc_z_mean: float
    auc_z_sd: float
    membership_mean: float  # R, the remaining membership share
    membership_sd: float
    membership_before_mean: float
    accuracy_change_mean: float  # on images the model never saw, after minus before


@dataclass(frozen=True)
class _Request:
    forget: Rows
    retain: Rows
    calibration: Rows
    audit: Rows


@dataclass(frozen=True)
class _Outcome:
    auc_z: float
    membership: float
    accuracy: float


def rehearse(
    networks: Mapping[int, nn.Module],
    inputs: Tensor,
    labels: Tensor,
    phi: NDArray[np.float64],
    members: NDArray[np.bool_],
    *,
    sizes: Sequence[int],
    learning_rates: Sequence[float],
    epochs: int,
    form: str,
    weighted: bool,
    attack: Mapping[str, Any],
    finetuning: Mapping[str, Any],
    tolerance: float,
    tolerance_membership: float,
    seed: int,
    on_run: Callable[[int, int], None] | None = None,
) -> list[Strength]:
    """For each size the learning rate and number of epochs after which the forgotten look least like members.

    On each network a pseudo-request of that size is drawn from its own training images; the images it never saw are its
    controls, half of them to calibrate and half to judge. The rehearsed model and its pair, trained on exactly the
    images it was not, are left out of the signals that judge it: so forgotten images and controls have equally many
    references on either side, none of them the model itself. One run of each learning rate gives the outcome of every
    epoch. Chosen is the least mean over the networks of (AUC(z) - 1/2)^2 / tolerance^2 + R^2 / tolerance_membership^2 +
    (change of accuracy)^2 / tolerance^2, which counts the spread between models as well as their mean, averaged with
    the epoch before and after.

    Args:
        networks: reference models that still exist, by their row in ``phi`` and ``members``.
        inputs, labels: all images of the pool, N.
        phi: signals of the references, K x N.
        members: which reference was trained on which image, K x N, from `references.assign`.
        sizes: of requests; one larger than half of what a reference was trained on is cut to that.
        epochs: every number of epochs up to this one is judged.
        form, weighted: of `amun.unlearn`.
        attack: keywords of `adversarial.nearest`.
        finetuning: the other keywords of `amun.unlearn`.
        on_run: called after each run with the number of runs done and of all runs.

    Raises:
        ValueError: no networks, sizes, learning rates or epochs, a size below two, or a single pair of references.
        Diverged: a fine-tuning's loss is not finite.
    """
    if not networks or not sizes or not learning_rates or epochs < 1:
        raise ValueError("a rehearsal needs networks, sizes, learning rates and at least one epoch")
    if min(sizes) < 2:
        raise ValueError("requests of fewer than two images have no AUC to rehearse for")
    if len(members) < 4:
        raise ValueError("a rehearsal needs a pair of references besides the rehearsed one's")
    sizes = sorted({min(size, int(members.sum(1).min()) // 2) for size in sizes})
    runs, done, chosen = len(sizes) * len(networks) * len(learning_rates), 0, []
    for size in sizes:
        before: list[_Outcome] = []
        after: dict[tuple[float, int], list[_Outcome]] = {}
        for index, network in networks.items():
            request = _draw(members[index], size, drawn(seed, size, index))
            others = np.arange(len(members)) // 2 != index // 2
            references = membership.ReferenceSignals(phi[others], members[others])
            forget = inputs[request.forget], labels[request.forget]
            retain = inputs[request.retain], labels[request.retain]
            examples = adversarial.nearest(network, *forget, **attack)
            weights = membership.memorisation_weights(references)[request.forget] if weighted else None
            judge = partial(_judge, inputs=inputs, labels=labels, references=references, request=request)
            before.append(judge(network))
            for learning_rate in learning_rates:
                outcomes: list[_Outcome] = []
                amun.unlearn(
                    network,
                    forget,
                    retain if "retain" in form else None,
                    adversarial=examples,
                    form=form,
                    weights=None if weights is None else torch.from_numpy(weights),
                    learning_rate=learning_rate,
                    epochs=epochs,
                    seed=seed,
                    on_epoch=partial(_note, outcomes, judge),
                    **finetuning,
                )
                for epoch, outcome in enumerate(outcomes, start=1):
                    after.setdefault((learning_rate, epoch), []).append(outcome)
                done += 1
                if on_run:
                    on_run(done, runs)
        chosen.append(_choose(size, before, after, tolerance, tolerance_membership))
    return chosen


def rehearsed(references: int, models: int) -> list[int]:
    """Which of the reference models to keep for a rehearsal: ``models`` of them, spread over the pairs.

    Raises:
        ValueError: more models than references.
    """
    if models > references:
        raise ValueError(f"{models} models cannot be rehearsed on with {references} references")
    return [index * references // models for index in range(models)]


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
) -> _Outcome:
    logits = infer(network, inputs)
    calibration = membership.calibrate(membership.signal(logits, labels), references, request.calibration)
    controls = np.concatenate([request.calibration, request.audit])
    try:
        remaining = membership.remaining_membership(calibration, references, request.forget, request.audit).value
    except membership.NoEffect:
        remaining = 0.0  # training on these images left nothing that could remain
    return _Outcome(
        auc_z=statistics.auc(calibration.z[request.forget], calibration.z[request.audit]).value,
        membership=remaining,
        accuracy=(logits.argmax(1) == labels)[controls].double().mean().item(),
    )


def _note(
    outcomes: list[_Outcome], judge: Callable[[nn.Module], _Outcome], epoch: int, loss: float, network: nn.Module
) -> None:
    outcomes.append(judge(network))


def _choose(
    size: int,
    before: list[_Outcome],
    after: dict[tuple[float, int], list[_Outcome]],
    tolerance: float,
    tolerance_membership: float,
) -> Strength:
    """The strength with the least deviation; one epoch's jitter is evened out with the epoch before and after it."""
    accuracy = np.array([outcome.accuracy for outcome in before])
    deviation = {
        strength: np.mean(
            [
                ((outcome.auc_z - 0.5) / tolerance) ** 2
                + (outcome.membership / tolerance_membership) ** 2
                + ((outcome.accuracy - accurate) / tolerance) ** 2
                for outcome, accurate in zip(outcomes, accuracy, strict=True)
            ]
        )
        for strength, outcomes in after.items()
    }
    learning_rate, epochs = min(
        deviation,
        key=lambda strength: np.mean(
            [deviation[near] for step in (-1, 0, 1) if (near := (strength[0], strength[1] + step)) in deviation]
        ),
    )
    outcomes = after[learning_rate, epochs]
    auc_z = np.array([outcome.auc_z for outcome in outcomes])
    remaining = np.array([outcome.membership for outcome in outcomes])
    spread = 1 if len(outcomes) > 1 else 0
    return Strength(
        size=size,
        learning_rate=learning_rate,
        epochs=epochs,
        models=len(outcomes),
        auc_z_mean=float(auc_z.mean()),
        auc_z_sd=float(auc_z.std(ddof=spread)),
        membership_mean=float(remaining.mean()),
        membership_sd=float(remaining.std(ddof=spread)),
        membership_before_mean=float(np.mean([outcome.membership for outcome in before])),
        accuracy_change_mean=float(np.mean([outcome.accuracy for outcome in outcomes]) - accuracy.mean()),
    )
