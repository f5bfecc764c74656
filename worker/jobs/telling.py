"""Measurements of the engine in the words of `worker.plan`."""

from __future__ import annotations

from collections.abc import Sequence

from worker import plan as agreed
from worker.unlearning import audit, statistics
from worker.unlearning.verdict import Value


def told_audit(measured: audit.Audit, forget: Sequence[int]) -> agreed.Audit:
    """``forget``: rows of the training set, in the order they were measured."""
    return agreed.Audit(
        verdict=measured.verdict.value.value,
        reasons=list(measured.verdict.reasons),
        estimates=told_estimates(measured),
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


def told_slice(measured: audit.Audit, request: Sequence[int]) -> agreed.Slice:
    worst = max(zip(request, measured.samples, strict=True), key=lambda pair: pair[1].z)
    return agreed.Slice(
        forget=len(request),
        verdict=measured.verdict.value.value,
        reasons=list(measured.verdict.reasons),
        estimates=told_estimates(measured),
        smallest_detectable_shift=measured.smallest_detectable_shift,
        worst=worst[0],
    )


def told_estimates(measured: audit.Audit) -> list[agreed.Estimate]:
    return [
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
    ]


def told_auc(auc: statistics.AUC | None) -> agreed.Auc | None:
    return None if auc is None else agreed.Auc(auc.value, auc.low, auc.high)


def verdict_of(whole: agreed.Audit, slices: Sequence[agreed.Slice]) -> tuple[str, list[str]]:
    """The verdict of a model and its reasons: that of the whole, unless only a request shows what the whole hides.

    Where the whole is not bad but a request is, it is that request's: `under_unlearned` before `over_unlearned`.
    """
    if whole.verdict in (Value.PASS, Value.INCONCLUSIVE):
        for bad in (Value.UNDER_UNLEARNED, Value.OVER_UNLEARNED):
            reasons = [
                f"request {number} of {len(slices)}: {reason}"
                for number, one in enumerate(slices, 1)
                if one.verdict == bad
                for reason in one.reasons
            ]
            if reasons:
                return bad.value, reasons
    return whole.verdict, list(whole.reasons)
