"""What is reported of a model beside its verdict: traces of training or of unlearning that no level judges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.unlearning import statistics
from worker.unlearning.adversarial import Adversarial
from worker.unlearning.audit import FORGET_FOR_AN_AUC

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Boundary:
    """Distance to the nearest adversarial example, l2, pixels in [0, 1]: what AMUN shortens for the forget set."""

    forget_median: float | None  # None where none was found
    controls_median: float | None
    auc: statistics.AUC | None  # that a forget sample is the farther one; None below 20 found of either
    not_found: int  # of both: left out


def boundary(forget: Adversarial, controls: Adversarial) -> Boundary:
    """Compare how far the decision boundary is from forget samples and from never-trained controls.

    Args:
        forget, controls: `adversarial.nearest` of either on the network in question.
    """
    forgotten, unseen = _found(forget), _found(controls)
    return Boundary(
        forget_median=float(np.median(forgotten)) if len(forgotten) else None,
        controls_median=float(np.median(unseen)) if len(unseen) else None,
        auc=separation(forgotten, unseen),
        not_found=len(forget.found) + len(controls.found) - len(forgotten) - len(unseen),
    )


def separation(members: Values, non_members: Values) -> statistics.AUC | None:
    """`statistics.auc`, or None below 20 scores on either side."""
    if min(len(members), len(non_members)) < FORGET_FOR_AN_AUC:
        return None
    return statistics.auc(members, non_members)


def _found(examples: Adversarial) -> Values:
    return examples.distances[examples.found].cpu().double().numpy()
