"""The verdict of an audit: a pure function of estimates, tolerances and a level that were fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from worker.unlearning.statistics import holm, two_sided_p

INSIDE_QUANTILE = 1.645  # one-sided 95% on either side: two one-sided tests of equivalence
REFERENCES_FOR_A_PASS = 8


class Value(StrEnum):
    PASS = "pass"
    OVER_UNLEARNED = "over_unlearned"
    UNDER_UNLEARNED = "under_unlearned"
    INCONCLUSIVE = "inconclusive"


class Role(StrEnum):
    PRIMARY = "primary"
    SECONDARY = "secondary"  # may veto a pass, never gives one


@dataclass(frozen=True)
class Estimate:
    """One statistic against its null: 0 is "like never trained on", above 0 "like a member"."""

    name: str
    role: Role
    estimate: float
    standard_error: float
    tolerance: float
    auc: float | None = None  # where the estimate is the distance of an AUC from its null

    def __post_init__(self) -> None:
        if not (math.isfinite(self.estimate) and 0 <= self.standard_error < math.inf and 0 < self.tolerance < math.inf):
            raise ValueError(f"estimate {self.name} is not finite, or has no error or tolerance")

    @property
    def p_value(self) -> float:
        """Two-sided, against 0."""
        return two_sided_p(self.estimate, self.standard_error)

    @property
    def inside(self) -> bool:
        """Whether the estimate is within the tolerance beyond reasonable doubt."""
        return abs(self.estimate) + INSIDE_QUANTILE * self.standard_error < self.tolerance

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.estimate - 1.96 * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.estimate + 1.96 * self.standard_error


@dataclass(frozen=True)
class Verdict:
    value: Value
    reasons: list[str]
    bad: frozenset[str]  # names of the estimates that decided against a pass


def judge(estimates: Sequence[Estimate], *, level: float, step: int, references: int) -> Verdict:
    """Exactly one verdict for any estimates.

    An estimate is bad if it is not inside its tolerance and differs from 0: the primary one at ``level``, the secondary
    ones at a family-wise error of ``level`` (Holm), both divided by ``step``. One bad estimate above 0 makes
    `under_unlearned`; bad ones below 0 only, `over_unlearned`; otherwise it is a `pass` if the primary one is inside,
    and else `inconclusive`.

    Args:
        estimates: at most one of them primary; without one there is no pass.
        level: two-sided significance, 0..1.
        step: number of this attempt in a sequence that ends at the first pass, from 1.
        references: number of reference models behind the estimates; below eight there is no pass.

    Raises:
        ValueError: two primary estimates, two of one name, or a level or step out of range.
    """
    primary = [estimate for estimate in estimates if estimate.role is Role.PRIMARY]
    secondary = [estimate for estimate in estimates if estimate.role is Role.SECONDARY]
    if len(primary) > 1 or len({estimate.name for estimate in estimates}) < len(estimates):
        raise ValueError("estimates need different names, and at most one of them is primary")
    if not 0 < level < 1 or step < 1:
        raise ValueError(f"level {level} or step {step} is out of range")
    rejected = [estimate for estimate in primary if estimate.p_value < level / step]
    holds = holm([estimate.p_value for estimate in secondary], level / step)
    rejected += [estimate for estimate, reject in zip(secondary, holds, strict=True) if reject]
    bad = [estimate for estimate in rejected if not estimate.inside]
    names = frozenset(estimate.name for estimate in bad)
    if bad:
        under = any(estimate.estimate > 0 for estimate in bad)
        return Verdict(Value.UNDER_UNLEARNED if under else Value.OVER_UNLEARNED, [_why_bad(one) for one in bad], names)
    reasons = []
    if not primary:
        reasons.append("there is no primary estimate: too few forget samples or controls")
    elif not primary[0].inside:
        reasons.append(f"{_shown(primary[0])} may or may not lie within {primary[0].tolerance:.2f}")
    if references < REFERENCES_FOR_A_PASS:
        reasons.append(f"{references} reference models, a pass needs {REFERENCES_FOR_A_PASS}")
    if reasons:
        return Verdict(Value.INCONCLUSIVE, reasons, names)
    return Verdict(Value.PASS, [f"{_shown(primary[0])} lies within {primary[0].tolerance:.2f}"], names)


def _why_bad(estimate: Estimate) -> str:
    like = "more like members" if estimate.estimate > 0 else "less like members"
    return f"{_shown(estimate)}: {like} than never-trained images are, and not within {estimate.tolerance:.2f}"


def _shown(estimate: Estimate) -> str:
    reach = INSIDE_QUANTILE * estimate.standard_error
    return f"{estimate.name} {estimate.estimate:+.3f} (90% interval of ±{reach:.3f})"
