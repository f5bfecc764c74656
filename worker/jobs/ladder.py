"""The ladder: what follows an attempt, as a pure function of what was tried and found before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker import plan as agreed

AMUN, AMUN_A_SALUN, RETRAIN = "amun", "amun-a+salun", "retrain"
BASE, PREVIOUS, RANDOM = "base", "previous step", "random initialisation"
UNDER, OVER, PASSED, INCONCLUSIVE = "under_unlearned", "over_unlearned", "pass", "inconclusive"
DIVERGED = "diverged"  # in place of a verdict: the attempt left no network that could be judged


@dataclass(frozen=True)
class Step:
    """One attempt to make."""

    number: int  # from 1
    method: str  # amun | amun-a+salun | retrain
    weight_scale: float | None  # None for a retraining
    started_from: str  # base | previous step | random initialisation


@dataclass(frozen=True)
class Tried:
    step: Step
    verdict: str  # of the audit, slices included; or diverged


def next_step(tried: Sequence[Tried], spec: agreed.LadderSpec, weight_scale: float) -> Step | None:
    """The attempt after these, or None where the ladder ends.

    AMUN at the rehearsed strength; after `under_unlearned` a stronger one and after `over_unlearned` a weaker one, both
    from the base model; then AMUN-A with SalUn: after `under` from the network the step before left, at the rehearsed
    strength, after `over` from the base, weaker than the step before; then retraining. Nothing follows `pass`, and
    nothing but retraining `inconclusive`: too few samples to tell are no reason for another strength.

    Args:
        tried: in order, none left out.
        weight_scale: the rehearsed strength.

    Raises:
        ValueError: a ladder without one to three attempts by AMUN, or whose factors do not make the weights stronger
            and weaker.
    """
    if not (1 <= spec.amun_steps <= 3 and 0 < spec.weaker < 1 < spec.stronger):
        raise ValueError("a ladder takes 1 to 3 attempts by AMUN, a factor above 1 and one between 0 and 1")
    retraining = Step(len(tried) + 1, RETRAIN, None, RANDOM)
    if not tried:
        return retraining if spec.straight_to_retraining else Step(1, AMUN, weight_scale, BASE)
    last = tried[-1]
    if last.step.method == RETRAIN or last.verdict == PASSED:
        return None
    if last.verdict == INCONCLUSIVE:
        return retraining if spec.retrain_inconclusive else None
    if last.verdict != DIVERGED and len(tried) < spec.amun_steps:
        return _other_strength(last, spec, weight_scale)
    return retraining if spec.retrain else None


def withdraws(tried: Sequence[Tried]) -> bool:
    """Whether a ladder that ended here leaves nothing that may be released, nor a retrained model."""
    last = tried[-1]
    return last.verdict == DIVERGED or (last.step.method != RETRAIN and last.verdict in (UNDER, OVER))


def _other_strength(last: Tried, spec: agreed.LadderSpec, weight_scale: float) -> Step:
    number, before = last.step.number + 1, last.step.weight_scale or weight_scale
    if number == 2:
        return Step(number, AMUN, before * (spec.stronger if last.verdict == UNDER else spec.weaker), BASE)
    if last.verdict == UNDER:
        return Step(number, AMUN_A_SALUN, weight_scale, PREVIOUS)
    return Step(number, AMUN_A_SALUN, before * spec.weaker, BASE)
