"""What every model of one unlearn job is measured with."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from torch import nn

from worker import plan as agreed
from worker.jobs.loading import Data, Rows
from worker.unlearning import audit, membership, statistics, training


@dataclasses.dataclass(frozen=True)
class Judge:
    """What every model of one job is measured with; rows are positions in ``data`` and ``signals``."""

    plan: agreed.UnlearnPlan
    data: Data
    signals: membership.ReferenceSignals
    forget: Rows
    retain: Rows
    calibration: Rows
    controls: Rows

    def measure(self, network: nn.Module) -> agreed.ModelMeasurement:
        """Raises ValueError where the model's answers are not finite or all alike."""
        logits = training.infer(network, self.data.inputs)
        rule = self.plan.audit
        measured = audit.measure(
            membership.signal(logits, self.data.labels),
            self.signals,
            self.forget,
            self.calibration,
            self.controls,
            tolerance=rule.tolerance,
            tolerance_membership=rule.tolerance_membership,
            level=rule.level,
            rmia_offline_a=rule.rmia_offline_a,
            rmia_gamma=rule.rmia_gamma,
            step=1,
        )
        right = (logits.argmax(1) == self.data.labels).cpu().numpy()
        return agreed.ModelMeasurement(_told(measured, self.plan.forget), self._utility(right))

    def _utility(self, right: NDArray[np.bool_]) -> agreed.Utility:
        controls = np.concatenate([self.calibration, self.controls])
        labels = self.data.labels.cpu().numpy()[controls]
        low, high = statistics.wilson(int(right[controls].sum()), len(controls))
        return agreed.Utility(
            forget=float(right[self.forget].mean()),
            retained=float(right[self.retain].mean()) if len(self.retain) else 0.0,
            controls=float(right[controls].mean()),
            controls_low=low,
            controls_high=high,
            controls_by_class={
                name: float(right[controls][labels == label].mean())
                for label, name in enumerate(self.plan.data.classes)
                if (labels == label).any()
            },
        )


def _told(measured: audit.Audit, forget: list[int]) -> agreed.Audit:
    return agreed.Audit(
        verdict=measured.verdict.value.value,
        reasons=list(measured.verdict.reasons),
        estimates=[
            agreed.Estimate(
                name=one.name,
                role=one.role.value,
                estimate=one.estimate,
                standard_error=one.standard_error,
                tolerance=one.tolerance,
                p_value=one.p_value,
                inside=one.inside,
                bad=one.name in measured.verdict.bad,
                auc=one.auc,
                low=one.low,
                high=one.high,
            )
            for one in measured.estimates
        ],
        loss_null=measured.loss_null,
        blind_auc=measured.blind_auc,
        smallest_detectable_shift=measured.smallest_detectable_shift,
        tpr=measured.tpr,
        tpr_at_fpr=measured.tpr_at_fpr,
        tpr_at_zero=measured.tpr_at_zero,
        tpr_at_zero_high=measured.tpr_at_zero_high,
        samples=[
            agreed.SampleScore(
                index=index,
                z=sample.z,
                low=sample.low,
                high=sample.high,
                testable=sample.testable,
                difficulty=sample.difficulty,
            )
            for index, sample in zip(forget, measured.samples, strict=True)
        ],
        scores={
            name: {"forget": scores.forget.tolist(), "controls": scores.controls.tolist()}
            for name, scores in measured.scores.items()
        },
    )
