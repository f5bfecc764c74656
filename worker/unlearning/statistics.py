"""Statistics of the audit: ROC curves with their errors, intervals of shares, tests of several hypotheses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr

Values = NDArray[np.float64]

POWER_QUANTILES = 2.80  # 1.96 + 0.84: two-sided 5%, power 80%


@dataclass(frozen=True)
class AUC:
    """Probability that a member scores above a non-member, ties counting half, with its 95% interval."""

    value: float
    standard_error: float
    low: float
    high: float


def auc(members: ArrayLike, non_members: ArrayLike) -> AUC:
    """Area under the ROC curve of scores that are high for members, with DeLong's standard error.

    DeLong, DeLong and Clarke-Pearson 1988, in the form by midranks of Sun and Xu 2014. At perfect separation, and where
    all scores are tied, DeLong's error is 0 however few samples there are; the error of the null hypothesis stands in
    for it there, so that an interval never has zero width.

    Raises:
        ValueError: fewer than two members or non-members, or a score that is NaN.
    """
    first, second = _scores(members, "members"), _scores(non_members, "non-members")
    if len(first) < 2 or len(second) < 2:
        raise ValueError(f"an AUC needs two scores on either side, got {len(first)} and {len(second)}")
    ranks = midranks(np.concatenate([first, second]))
    above_non_members = (ranks[: len(first)] - midranks(first)) / len(second)
    below_members = 1 - (ranks[len(first) :] - midranks(second)) / len(first)
    value = float(above_non_members.mean())
    variance = above_non_members.var(ddof=1) / len(first) + below_members.var(ddof=1) / len(second)
    standard_error = math.sqrt(variance) if variance > 0 else null_standard_error(len(first), len(second))
    reach = 1.96 * standard_error
    return AUC(value, standard_error, max(0.0, value - reach), min(1.0, value + reach))


def null_standard_error(members: int, non_members: int) -> float:
    """Standard deviation of the AUC of scores that tell nothing (Mann and Whitney 1947); 0.0058 at 5,000 and 5,000."""
    return math.sqrt((members + non_members + 1) / (12 * members * non_members))


def smallest_detectable_shift(members: int, non_members: int) -> float:
    """The distance of an AUC from 1/2 that a two-sided 5% test finds four times in five."""
    return POWER_QUANTILES * null_standard_error(members, non_members)


def midranks(values: ArrayLike) -> Values:
    """Rank of each value from 1, the mean of their ranks where values are tied; `scipy.stats.rankdata` is as good.

    That module takes most of a second to import, in every job, and nothing else here needs it.
    """
    array = np.asarray(values, dtype=np.float64)
    ordered = np.sort(array)
    ranks: Values = (np.searchsorted(ordered, array, "left") + np.searchsorted(ordered, array, "right") + 1) / 2
    return ranks


def roc_points(members: ArrayLike, non_members: ArrayLike) -> tuple[Values, Values]:
    """False and true positive rates, 0..1, rising from (0, 0) to (1, 1): one point for each threshold "score >= t"."""
    first, second = np.sort(_scores(members, "members")), np.sort(_scores(non_members, "non-members"))
    if not len(first) or not len(second):
        raise ValueError("a ROC curve needs scores on either side")
    thresholds = np.unique(np.concatenate([first, second]))[::-1]
    true = 1 - np.searchsorted(first, thresholds, side="left") / len(first)
    false = 1 - np.searchsorted(second, thresholds, side="left") / len(second)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def tpr_at_fpr(members: ArrayLike, non_members: ArrayLike, fpr: float) -> float:
    """The largest true positive rate of a threshold whose false positive rate is at most ``fpr`` (0: above them all)."""
    false, true = roc_points(members, non_members)
    return float(true[false <= fpr].max())


def share_upper_bound(successes: int, trials: int) -> float:
    """Exact one-sided 95% upper bound of a share (Clopper and Pearson 1934); 1 without trials."""
    return 1.0 if successes >= trials else float(betaincinv(successes + 1, trials - successes, 0.95))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, 1.96**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    reach = 1.96 * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(0.0, centre - reach), min(1.0, centre + reach)


@dataclass(frozen=True)
class Change:
    """A share after minus before, with its 95% interval."""

    value: float
    low: float
    high: float


def paired_change(before: ArrayLike, after: ArrayLike) -> Change:
    """How a share changed, each sample compared with itself: mean difference +- 1.96 standard errors.

    Where all differences are alike the error would be 0 however few samples there are; the exact 95% bound of a share
    that was never seen stands in for it.

    Args:
        before, after: one bool a sample, in the same order.

    Raises:
        ValueError: fewer than two samples, or not as many after as before.
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(f"a paired change needs the same two samples or more, got {first.shape} and {second.shape}")
    difference = second.astype(np.float64) - first
    value, deviation = float(difference.mean()), float(difference.std(ddof=1))
    reach = 1.96 * deviation / math.sqrt(len(first)) if deviation else share_upper_bound(0, len(first))
    return Change(value, max(-1.0, value - reach), min(1.0, value + reach))


def two_sided_p(estimate: float, standard_error: float) -> float:
    """P-value of ``estimate`` against 0 under a normal error."""
    if standard_error == 0:
        return 1.0 if estimate == 0 else 0.0
    return float(2 * ndtr(-abs(estimate / standard_error)))


def holm(p_values: ArrayLike, level: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected with a family-wise error of at most ``level`` (Holm 1979), in their order."""
    p = _scores(p_values, "p-values")
    order = np.argsort(p, kind="stable")
    passed = p[order] < level / (len(p) - np.arange(len(p)))
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


def _scores(values: ArrayLike, what: str) -> Values:
    scores = np.asarray(values, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"a score of the {what} is NaN")
    return scores
