"""The audit of one model: does it still know the forget set, judged against never-trained controls?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.unlearning import membership, statistics
from worker.unlearning.membership import Calibration, ReferenceSignals
from worker.unlearning.verdict import Estimate, Role, Verdict, judge

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

FORGET_FOR_AN_AUC = 20
THIRDS = ("hard", "middle", "easy")
EFFECT_FOR_A_TEST = 2.80  # standard deviations; one sample is then found four times in five
FALSE_POSITIVE_RATE = 0.01
CONTROLS_FOR_A_RATE = 10  # expected false positives below which a rate is not read off


@dataclass(frozen=True)
class SampleScore:
    """One forget sample; ``row`` is its row in the signals."""

    row: int
    z: float
    low: float  # 95% interval of z
    high: float
    testable: bool  # its membership effect is large enough for z alone to tell
    difficulty: float


@dataclass(frozen=True)
class Scores:
    """One value a sample, in the order of the rows that were given."""

    forget: Values
    controls: Values


@dataclass(frozen=True)
class Audit:
    """Everything the audit says of one model. Below 20 forget samples or controls there is no AUC among it."""

    verdict: Verdict
    estimates: list[Estimate]
    loss_null: float | None  # loss AUC that models not trained on the forget set show
    blind_auc: float | None  # AUC of the difficulty alone: how unlike the controls the forget set is
    smallest_detectable_shift: float
    tpr: float | None  # true positive rate of z at ``tpr_at_fpr``; None with fewer than 1,000 controls
    tpr_at_fpr: float | None
    tpr_at_zero: float | None  # where ``tpr`` is None: share of forget samples whose z is above every control's
    tpr_at_zero_high: float | None  # its exact 95% upper bound
    samples: list[SampleScore]
    scores: dict[str, Scores]  # z, rmia, lira, loss, difficulty


def measure(
    phi: Values,
    references: ReferenceSignals,
    forget: Rows,
    calibration: Rows,
    audit: Rows,
    *,
    tolerance: float,
    tolerance_membership: float,
    level: float,
    rmia_offline_a: float,
    rmia_gamma: float,
    step: int,
) -> Audit:
    """Measure and judge a model by its signals.

    Primary is AUC(z) - 1/2. Secondary are RMIA (offline), LiRA (online) and absolute z, each as AUC - 1/2, the loss AUC
    against its own null, AUC(z) in each third of difficulty that holds 20 forget samples, and the remaining membership
    share R. The thirds are those of the controls, fixed before a request exists.

    Args:
        phi: the model's signals, N.
        references: signals of the reference models for the same N samples.
        forget: rows of the forget set.
        calibration: rows of never-trained controls that fit the curves of z and are RMIA's population.
        audit: rows of other never-trained controls, which the forget set is compared with.
        tolerance: of the AUCs; twice this in a third of difficulty.
        tolerance_membership: of R.
        level, step: see `verdict.judge`.
        rmia_offline_a, rmia_gamma: see `membership.rmia`.

    Raises:
        ValueError: an empty forget set, fewer than two audit controls, sets that overlap, or see
            `membership.calibrate`.
    """
    if not len(forget) or len(audit) < 2:
        raise ValueError("an audit needs a forget sample and two audit controls")
    if len(np.unique(np.concatenate([forget, calibration, audit]))) < len(forget) + len(calibration) + len(audit):
        raise ValueError("forget set, calibration and audit controls overlap")
    calibrated = membership.calibrate(phi, references, calibration)
    scores = _scores(phi, references, calibrated, forget, calibration, audit, rmia_offline_a, rmia_gamma)
    enough = min(len(forget), len(audit)) >= FORGET_FOR_AN_AUC
    loss_null = membership.loss_null(references, forget, audit) if enough else None
    estimates = _aucs(scores, loss_null, tolerance) if enough else []
    if enough:
        thirds = np.quantile(references.mean_out[np.concatenate([calibration, audit])], [1 / 3, 2 / 3])
        estimates += _thirds(scores, thirds, 2 * tolerance)
    try:
        remaining = membership.remaining_membership(calibrated, references, forget, audit)
    except membership.NoEffect:
        pass  # nothing the references could tell members by, so no share of it is left or gone
    else:
        estimates.append(
            Estimate("membership", Role.SECONDARY, remaining.value, remaining.standard_error, tolerance_membership)
        )
    z = scores["z"]
    rate = enough and len(audit) * FALSE_POSITIVE_RATE >= CONTROLS_FOR_A_RATE
    above = int((z.forget > z.controls.max()).sum())
    return Audit(
        verdict=judge(estimates, level=level, step=step, references=len(references)),
        estimates=estimates,
        loss_null=loss_null,
        blind_auc=statistics.auc(scores["difficulty"].forget, scores["difficulty"].controls).value if enough else None,
        smallest_detectable_shift=statistics.smallest_detectable_shift(len(forget), len(audit)),
        tpr=statistics.tpr_at_fpr(z.forget, z.controls, FALSE_POSITIVE_RATE) if rate else None,
        tpr_at_fpr=FALSE_POSITIVE_RATE if rate else None,
        tpr_at_zero=above / len(forget) if enough and not rate else None,
        tpr_at_zero_high=statistics.share_upper_bound(above, len(forget)) if enough and not rate else None,
        samples=[_sample(row, calibrated, references) for row in forget.tolist()],
        scores=scores,
    )


def _scores(
    phi: Values,
    references: ReferenceSignals,
    calibrated: Calibration,
    forget: Rows,
    calibration: Rows,
    audit: Rows,
    rmia_offline_a: float,
    rmia_gamma: float,
) -> dict[str, Scores]:
    everything = {
        "z": calibrated.z,
        "lira": membership.lira(phi, references, online=True),
        "loss": membership.loss(phi),
        "difficulty": references.mean_out,
    }
    judged = np.concatenate([forget, audit])
    rmia = membership.rmia(phi, references, judged, calibration, gamma=rmia_gamma, offline_a=rmia_offline_a)
    scores = {name: Scores(values[forget], values[audit]) for name, values in everything.items()}
    return scores | {"rmia": Scores(rmia[: len(forget)], rmia[len(forget) :])}


def _aucs(scores: dict[str, Scores], loss_null: float | None, tolerance: float) -> list[Estimate]:
    z = scores["z"]
    estimates = [
        _against(0.5, "z", Role.PRIMARY, z, tolerance),
        _against(0.5, "rmia", Role.SECONDARY, scores["rmia"], tolerance),
        _against(0.5, "lira", Role.SECONDARY, scores["lira"], tolerance),
        _against(0.5, "absolute_z", Role.SECONDARY, Scores(np.abs(z.forget), np.abs(z.controls)), tolerance),
    ]
    if loss_null is not None:
        estimates.append(_against(loss_null, "loss", Role.SECONDARY, scores["loss"], tolerance))
    return estimates


def _thirds(scores: dict[str, Scores], cuts: Values, tolerance: float) -> list[Estimate]:
    z, difficulty = scores["z"], scores["difficulty"]
    of_forget, of_controls = np.digitize(difficulty.forget, cuts), np.digitize(difficulty.controls, cuts)
    estimates = []
    for third, name in enumerate(THIRDS):
        within = Scores(z.forget[of_forget == third], z.controls[of_controls == third])
        if min(len(within.forget), len(within.controls)) >= FORGET_FOR_AN_AUC:
            estimates.append(_against(0.5, f"third_{name}", Role.SECONDARY, within, tolerance))
    return estimates


def _against(null: float, name: str, role: Role, scores: Scores, tolerance: float) -> Estimate:
    auc = statistics.auc(scores.forget, scores.controls)
    return Estimate(name, role, auc.value - null, auc.standard_error, tolerance, auc=auc.value)


def _sample(row: int, calibrated: Calibration, references: ReferenceSignals) -> SampleScore:
    z = float(calibrated.z[row])
    return SampleScore(
        row=row,
        z=z,
        low=z - 1.96,
        high=z + 1.96,
        testable=bool(references.effect[row] / calibrated.scale[row] >= EFFECT_FOR_A_TEST),
        difficulty=float(references.mean_out[row]),
    )
