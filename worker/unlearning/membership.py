"""Membership scores: was a model trained on this image? All scores are high for members.

They compare a model's signal of an image with the signals of reference models, of which some were trained on the image
(IN) and some were not (OUT). Only the signals are needed, one number a model and image, not the models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_ndtr, log_softmax, logsumexp
from torch import Tensor

from worker.unlearning import statistics

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

CALIBRATION_AT_LEAST = 10  # controls, for a curve of three coefficients and a line
SCALE_FLOOR = 0.2  # share of the mean scale below which the fitted line may not fall
NORMAL_MEAN_DEVIATION = 0.7979  # E|x| of a standard normal, sqrt(2 / pi)


def signal(logits: Tensor, labels: Tensor) -> Values:
    """phi = log p_y - log sum over the other classes of p_j, float64, N; LiRA's scaled confidence.

    Computed from the logits, so it does not saturate where a probability rounds to 1.

    Args:
        logits: N x classes, at least two classes.
        labels: true classes, int64, N.

    Raises:
        ValueError: shapes that do not match, or a logit that is not finite.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match")
    values = logits.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError("a logit is not finite")
    true = labels.detach().cpu().numpy()[:, None]
    others = values.copy()
    np.put_along_axis(others, true, -np.inf, axis=1)
    phi: Values = np.take_along_axis(values, true, axis=1)[:, 0] - logsumexp(others, axis=1)
    return phi


def modified_entropy(logits: Tensor, labels: Tensor) -> Values:
    """The negative of Song and Mittal's modified entropy (arXiv 2003.10595, section 4.1), N, at most 0."""
    log_p = log_softmax(logits.detach().cpu().double().numpy(), axis=1)
    p = np.exp(log_p)
    true = labels.detach().cpu().numpy()
    rows = np.arange(len(true))
    log_rest = np.log1p(-np.minimum(p, np.nextafter(1, 0)))
    terms = p * log_rest
    terms[rows, true] = (1 - p[rows, true]) * log_p[rows, true]
    scores: Values = terms.sum(axis=1)
    return scores


class NoEffect(ValueError):
    """The reference models say the same of samples they were and were not trained on."""


class ReferenceSignals:
    """What K reference models say of N samples.

    Attributes, one value a sample unless said otherwise:
        mean_out, mean_in: mean signal of the references that were not, and that were, trained on it. ``mean_out`` is
            the sample's difficulty: low is hard.
        raw_effect: ``mean_in - mean_out``.
        typical_effect: quadratic curve of ``raw_effect`` on ``mean_out``.
        effect: ``raw_effect`` shrunken towards ``typical_effect`` as far as noise explains the distance.
        probability_out, probability_in: mean probability of the true class.
        sd_out, sd_in: one number for all samples, pooled; NaN where no sample has two such references.
    """

    def __init__(self, phi: ArrayLike, member: ArrayLike) -> None:
        """Take signals, K x N, and which reference was trained on which sample, bool K x N.

        Raises:
            ValueError: shapes that do not match, a signal that is not finite, or a sample without an IN or OUT reference.
        """
        self.phi: Values = np.asarray(phi, dtype=np.float64)
        self.member: Mask = np.asarray(member, dtype=bool)
        if self.phi.ndim != 2 or self.phi.shape != self.member.shape:
            raise ValueError(f"signals {self.phi.shape} and members {self.member.shape} must both be K x N")
        if not np.isfinite(self.phi).all():
            raise ValueError("a reference signal is not finite")
        count_in, count_out = self.member.sum(0), (~self.member).sum(0)
        if not (count_in.all() and count_out.all()):
            raise ValueError("every sample needs a reference that was trained on it and one that was not")
        self.mean_out, self.sd_out = _mean_and_pooled_sd(self.phi, ~self.member)
        self.mean_in, self.sd_in = _mean_and_pooled_sd(self.phi, self.member)
        probability = expit(self.phi)
        self.probability_out, _ = _mean_and_pooled_sd(probability, ~self.member)
        self.probability_in, _ = _mean_and_pooled_sd(probability, self.member)
        self.raw_effect: Values = self.mean_in - self.mean_out
        self.typical_effect: Values = _curve(self.mean_out, self.raw_effect, degree=2)(self.mean_out)
        self.effect = self._shrunken_effect(self.sd_out**2 / count_out + self.sd_in**2 / count_in)

    def __len__(self) -> int:
        """Number of reference models, K."""
        return len(self.phi)

    def _shrunken_effect(self, noise: Values) -> Values:
        """Empirical Bayes: the spread about the curve beyond the noise of the means is the samples' own."""
        if not np.isfinite(noise).all():
            return self.typical_effect
        own = self.raw_effect - self.typical_effect
        spread = max(0.0, float(np.mean(own**2 - noise)))
        share = np.divide(spread, spread + noise, out=np.ones_like(noise), where=spread + noise > 0)
        return self.typical_effect + share * own


@dataclass(frozen=True)
class Calibration:
    """A model's signals against what images of the same difficulty, never trained on, show on this model; N each."""

    location: Values
    scale: Values
    residual: Values  # signal - location
    z: Values  # residual / scale


def calibrate(phi: Values, references: ReferenceSignals, controls: Rows) -> Calibration:
    """z scores: about standard normal for samples the model was never trained on.

    Location is quadratic and scale linear in the difficulty of a sample, both fitted on the calibration controls alone;
    what the target and the references have not in common, recipe included, is the same for the controls and drops out.

    Args:
        phi: the model's signals, N, samples as in ``references``.
        controls: rows of never-trained samples; none of them may be judged afterwards.

    Raises:
        ValueError: fewer than ten controls, a signal that is not finite, or controls without any spread.
    """
    if len(controls) < CALIBRATION_AT_LEAST:
        raise ValueError(f"{len(controls)} calibration controls, at least {CALIBRATION_AT_LEAST} are needed")
    if phi.shape != references.mean_out.shape:
        raise ValueError(f"{phi.shape} signals for {references.mean_out.shape} samples")
    if not np.isfinite(phi).all():
        raise ValueError("a signal is not finite")
    difficulty = references.mean_out
    location = _curve(difficulty[controls], phi[controls], degree=2)(difficulty)
    residual = phi - location
    deviation = np.abs(residual[controls])
    if deviation.mean() <= 1e-9 * max(1.0, float(np.abs(phi[controls]).mean())):
        raise ValueError("the calibration controls show no spread: the model says the same of all of them")
    line = _curve(difficulty[controls], deviation, degree=1)(difficulty)
    scale = np.maximum(line, SCALE_FLOOR * deviation.mean()) / NORMAL_MEAN_DEVIATION
    return Calibration(location, scale, residual, residual / scale)


@dataclass(frozen=True)
class Remaining:
    """Remaining membership share R: 1 is like a member, 0 like never trained on, below 0 over-unlearned."""

    value: float
    standard_error: float
    information: float  # sum over the forget set of w d: how much of a pooled R this one is


def remaining_membership(
    calibration: Calibration, references: ReferenceSignals, forget: Rows, controls: Rows
) -> Remaining:
    """The forget set's excess signal as a share of what training on these very samples would have added.

    R = sum_F w (phi - location) / sum_F w d - the same over the audit controls, with the effect d and w = d / scale^2:
    the most powerful linear statistic where a share R of every sample's effect is left.

    Raises:
        ValueError: no forget samples, or fewer than two controls.
        NoEffect: the references show no membership effect here.
    """
    if not len(forget) or len(controls) < 2:
        raise ValueError("R needs a forget sample and two controls")
    weight = references.effect / calibration.scale**2
    excess, possible = weight * calibration.residual, weight * references.effect
    total, total_controls = possible[forget].sum(), possible[controls].sum()
    if min(total, total_controls) <= 1e-12:
        raise NoEffect("the reference models show no membership effect on these samples")
    value = excess[forget].sum() / total - excess[controls].sum() / total_controls
    # Both sums are random, each of as many terms as it has samples; the controls show how far a term strays.
    spread = excess[controls].std(ddof=1)
    standard_error = spread * np.sqrt(len(forget) / total**2 + len(controls) / total_controls**2)
    return Remaining(float(value), float(standard_error), float(total))


def memorisation_weights(
    references: ReferenceSignals, forget: Rows, *, scale: float, power: float, spread: bool, seed: int
) -> Values:
    """Weight of each forget sample's adversarial example, at least 0: scale x clip(effect / q90, 0, 1) ** power.

    q90 is the 90% quantile of the effect over all samples: what models memorise most is unlearned most. 1 in place of
    the clipped share where the references memorise nothing, for then nothing tells the samples apart.

    Args:
        forget: their rows.
        scale: the strength, above 0.
        power: 0 takes no account of memorisation.
        spread: multiply each by an exponential variate of mean 1. Alike weights leave samples that are more alike than
            never-trained images are, which absolute z shows.
        seed: of these variates.

    Raises:
        ValueError: a negative power, or a scale that is not positive.
    """
    if power < 0 or scale <= 0:
        raise ValueError(f"a power of {power} or a scale of {scale} is out of range")
    top = np.quantile(references.effect, 0.9)
    share = np.clip(references.effect[forget] / top, 0, 1) if top > 0 else np.ones(len(forget))
    factor = np.random.default_rng(seed).exponential(size=len(forget)) if spread else 1.0
    weights: Values = scale * share**power * factor
    return weights


def rmia(
    phi: Values,
    references: ReferenceSignals,
    samples: Rows,
    population: Rows,
    *,
    gamma: float,
    offline_a: float | None,
) -> Values:
    """RMIA (arXiv 2312.03262, section 3): the share of the population whose likelihood ratio a sample's exceeds.

    Score(x) = share of z with [p(x|model) / p(x)] / [p(z|model) / p(z)] >= gamma. One sort of the population and a
    binary search for each sample.

    Args:
        phi: the model's signals, N.
        samples: rows to be scored.
        population: rows of never-trained samples z.
        gamma: 1 keeps the order of the ratios; larger values make ties.
        offline_a: offline form, p(x) = ((1 + a) p_OUT + (1 - a)) / 2 with this a; None: online form, p(x) the mean of
            IN and OUT.

    Raises:
        ValueError: an empty population or a gamma that is not positive.
    """
    if not len(population) or gamma <= 0:
        raise ValueError("RMIA needs a population and a positive gamma")
    if offline_a is None:
        marginal = (references.probability_out + references.probability_in) / 2
    else:
        marginal = ((1 + offline_a) * references.probability_out + 1 - offline_a) / 2
    ratio = expit(phi) / np.maximum(marginal, np.finfo(np.float64).tiny)
    beaten = np.searchsorted(np.sort(gamma * ratio[population]), ratio[samples], side="right")
    scores: Values = beaten / len(population)
    return scores


def lira(phi: Values, references: ReferenceSignals, *, online: bool) -> Values:
    """LiRA (arXiv 2112.03570, section V): likelihood of the signal among references; N.

    Online log N(phi; in) - log N(phi; out). Offline -log(1 - F((phi - out) / sd)) with the normal distribution function
    F: its order, also where F rounds to 1. Means are per sample, variances one for all samples, as the paper advises for
    few references.

    Raises:
        ValueError: too few references for a variance, or no variance at all.
    """
    if not (references.sd_out > 0 and references.sd_in > 0):
        raise ValueError("LiRA needs references whose signals of a sample vary")
    from_out = (phi - references.mean_out) / references.sd_out
    if not online:
        return np.asarray(-log_ndtr(-from_out), dtype=np.float64)
    from_in = (phi - references.mean_in) / references.sd_in
    scores: Values = (from_out**2 - from_in**2) / 2 + np.log(references.sd_out / references.sd_in)
    return scores


def loss(phi: Values) -> Values:
    """The negative cross-entropy log p_y, N (Yeom et al. 2018)."""
    scores: Values = -np.logaddexp(0, -phi)
    return scores


def loss_null(references: ReferenceSignals, forget: Rows, controls: Rows) -> float | None:
    """`null_auc` of the loss, whose order is that of phi."""
    return null_auc(references.phi, references.member, forget, controls)


def null_auc(scores: Values, member: Mask, forget: Rows, controls: Rows) -> float | None:
    """The AUC that models which were not trained on the forget set show: a score's own null, near but not at 1/2.

    For scores that know nothing of an image's difficulty, such as loss and modified entropy. Mean over the references of
    the AUC of the forget samples against the controls, of either only those the reference was not trained on.

    Args:
        scores: of the reference models, K x N.
        member: which reference was trained on which sample, K x N.

    Returns:
        None where no reference leaves two of each.
    """
    values = []
    for own, trained_on in zip(scores, member, strict=True):
        unseen, unseen_controls = own[forget[~trained_on[forget]]], own[controls[~trained_on[controls]]]
        if len(unseen) >= 2 and len(unseen_controls) >= 2:
            values.append(statistics.auc(unseen, unseen_controls).value)
    return float(np.mean(values)) if values else None


def svc_non_members(phi: Values, members: Rows, non_members: Rows, forget: Rows, *, seed: int) -> float:
    """Share of the forget set that a support vector classifier calls non-members, 0..1.

    The attack of older unlearning papers (Jia et al., arXiv 2304.04934, "MIA efficacy"): an RBF classifier (C = 3) of
    the true class's probability, fitted on equally many retained and never-trained images. It ignores difficulty, so
    it is for comparison with their tables alone.

    Args:
        phi: the model's signals, N.
        members, non_members: rows to fit on; the larger group is cut to the smaller by a draw.

    Raises:
        ValueError: one of the three groups is empty.
    """
    from sklearn.svm import SVC  # takes a second to import, and no service job needs it

    count = min(len(members), len(non_members))
    if not count or not len(forget):
        raise ValueError("the SVC attack needs members, non-members and forget samples")
    generator = np.random.default_rng(seed)
    fitted = np.concatenate([generator.permutation(group)[:count] for group in (members, non_members)])
    probability = expit(phi)[:, None]
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(probability[fitted], np.repeat([1, 0], count))
    return float((attack.predict(probability[forget]) == 0).mean())


def _mean_and_pooled_sd(values: Values, mask: Mask) -> tuple[Values, float]:
    """Mean of each column over the rows of ``mask``, and the one standard deviation about these means."""
    count = mask.sum(0)
    mean: Values = np.where(mask, values, 0).sum(0) / count
    freedom = int(mask.sum()) - values.shape[1]
    square = float((np.where(mask, values - mean, 0) ** 2).sum())
    return mean, float(np.sqrt(square / freedom)) if freedom > 0 else float("nan")


def _curve(x: Values, y: Values, *, degree: int) -> Callable[[Values], Values]:
    """Least-squares polynomial; of the smallest norm where ``x`` has too few different values for the degree."""
    centre, spread = x.mean(), x.std()
    spread = spread if spread > 0 else 1.0
    coefficients = np.linalg.lstsq(np.vander((x - centre) / spread, degree + 1), y, rcond=None)[0]

    def curve(at: Values) -> Values:
        values: Values = np.vander((at - centre) / spread, degree + 1) @ coefficients
        return values

    return curve
