"""The measurement of one model of a case: what every model of a job is compared by."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from torch import nn

from worker import plan as agreed
from worker.jobs.cases import Case
from worker.jobs.loading import Rows
from worker.jobs.telling import told_auc, told_audit, told_slice
from worker.unlearning import audit, fingerprint, membership, statistics, training
from worker.unlearning.adversarial import Adversarial

Values = NDArray[np.float64]
Right = NDArray[np.bool_]

CONTROLS_FINGERPRINTED = 1000  # the first of the audit controls; their distances to the boundary are searched


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found of one model, and what the next one is compared with."""

    audit: agreed.Audit | None  # None without a forget set, and so for ``boundary``
    slices: list[agreed.Slice]
    boundary: agreed.Boundary | None
    utility: agreed.Utility
    retained: agreed.Auc | None
    changed: agreed.Auc | None
    signals: Values  # of every image of the case
    right: Right  # which of all controls it puts into their class
    examples: Adversarial | None  # nearest to the forget set under this model

    def told(self) -> agreed.ModelMeasurement:
        """Of an unlearn job, which has a forget set."""
        assert self.audit is not None  # noqa: S101 - what was judged was measured
        assert self.boundary is not None  # noqa: S101 - what was judged was measured
        return agreed.ModelMeasurement(
            self.audit, self.utility, self.slices, self.boundary, self.retained, self.changed
        )


def measure(
    case: Case,
    network: nn.Module,
    *,
    step: int,
    before: Measured | None = None,
    examples: Adversarial | None = None,
) -> Measured:
    """Measure and judge a network.

    Args:
        step: of the ladder, from 1; the level of significance is divided by it.
        before: the base model's measurement, where this is not the base.
        examples: the forget set's nearest adversarial examples under ``network``, where they are known already.

    Raises:
        ValueError: the model's answers are not finite or all alike.
    """
    logits = training.infer_together(network, case.data.inputs)
    signals = membership.signal(logits, case.data.labels)
    right = (logits.argmax(1) == case.data.labels).cpu().numpy()
    z = membership.calibrate(signals, case.signals, case.calibration).z
    whole = _audited(case, signals, case.forget, step) if len(case.forget) else None
    if examples is None and whole is not None:
        examples = case.nearest(network, case.forget)
    return Measured(
        audit=None if whole is None else told_audit(whole, case.plan.forget),
        slices=_slices(case, signals, whole, step),
        boundary=None if examples is None else _boundary(case, network, examples),
        utility=_utility(case, right),
        retained=told_auc(fingerprint.separation(z[case.retain], z[case.controls])),
        changed=None if before is None else _changed(case, before.signals - signals),
        signals=signals,
        right=right[case.all_controls],
        examples=examples,
    )


def measuring_cost(plan: agreed.UnlearnPlan | agreed.AuditPlan) -> float:
    """Of one `measure`, in passes of one image."""
    live = len(plan.forget) + len(plan.retain) + len(plan.calibration) + len(plan.audit_controls)
    controls = min(len(plan.audit_controls), CONTROLS_FINGERPRINTED) if plan.forget else 0
    return 0.35 * live + attack_cost(plan.attack, len(plan.forget) + controls)


def attack_cost(attack: agreed.AttackSpec, images: int) -> float:
    return images * (30.0 if attack.method == "boundary" else 110.0)


def _audited(case: Case, signals: Values, rows: Rows, step: int, share: int = 1) -> audit.Audit:
    """The audit of these forget rows, at one of ``share`` equal parts of the level."""
    rule = case.plan.audit
    return audit.measure(
        signals,
        case.signals,
        rows,
        case.calibration,
        case.controls,
        tolerance=rule.tolerance,
        tolerance_membership=rule.tolerance_membership,
        level=rule.level / share,
        rmia_offline_a=rule.rmia_offline_a,
        rmia_gamma=rule.rmia_gamma,
        step=step,
    )


def _slices(case: Case, signals: Values, whole: audit.Audit | None, step: int) -> list[agreed.Slice]:
    if whole is not None and len(case.requests) == 1 and len(case.requests[0]) == len(case.forget):
        return [told_slice(whole, case.plan.forget)]
    return [
        told_slice(_audited(case, signals, rows, step, share=len(case.requests)), request)
        for rows, request in zip(case.requests, case.plan.requests, strict=True)
    ]


def _boundary(case: Case, network: nn.Module, examples: Adversarial) -> agreed.Boundary:
    controls = case.nearest(network, case.controls[:CONTROLS_FINGERPRINTED])
    found = fingerprint.boundary(examples, controls)
    return agreed.Boundary(found.forget_median, found.controls_median, told_auc(found.auc), found.not_found)


def _changed(case: Case, fallen: Values) -> agreed.Auc | None:
    """Members that are forgotten lose signal: a keeper of the old checkpoint looks for whose fell most."""
    return told_auc(fingerprint.separation(fallen[case.forget], fallen[case.controls]))


def _utility(case: Case, right: Right) -> agreed.Utility:
    controls = case.all_controls
    labels = case.data.labels.cpu().numpy()[controls]
    low, high = statistics.wilson(int(right[controls].sum()), len(controls))
    return agreed.Utility(
        forget=_share(right[case.forget]),
        retained=_share(right[case.retain]),
        controls=float(right[controls].mean()),
        controls_low=low,
        controls_high=high,
        controls_by_class={
            name: float(right[controls][labels == label].mean())
            for label, name in enumerate(case.plan.data.classes)
            if (labels == label).any()
        },
    )


def _share(right: Right) -> float | None:
    return float(right.mean()) if len(right) else None
