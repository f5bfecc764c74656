"""Audit a model again, as it is."""

from __future__ import annotations

from worker import plan as agreed
from worker.jobs.cases import load_case
from worker.jobs.device import choose_device
from worker.jobs.failures import refused_as
from worker.jobs.judging import measure, measuring_cost
from worker.jobs.progress import Reporter


def audit(plan: agreed.AuditPlan, report: Reporter) -> agreed.AuditResult:
    """Measure the model as an unlearn job measures its base; without a forget set, what needs none."""
    device = choose_device()
    live = len(plan.forget) + len(plan.retain) + len(plan.calibration) + len(plan.audit_controls)
    report.expect({"load": 0.2 * live, "audit": measuring_cost(plan), "save": 0.1 * live})
    with report.phase("load"):
        case = load_case(plan, device)
    with report.phase("audit"), refused_as("checkpoint_invalid", ValueError):
        measured = measure(case, case.network, step=1)
    with report.phase("save"):
        return agreed.AuditResult(
            audit=measured.audit,
            slices=measured.slices,
            boundary=measured.boundary,
            utility=measured.utility,
            retained=measured.retained,
            forget=len(case.forget),
            retain=len(case.retain),
            calibration_controls=len(case.calibration),
            audit_controls=len(case.controls),
            references=len(case.signals),
            reference_train_size=None,  # what was erased since is gone from the signals: only the train job knows
        )
