"""What the audit of a model rests on, loaded and checked: the model, its images and what the references say of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from worker import plan as agreed
from worker.jobs.failures import Failed, training_errors
from worker.jobs.loading import (
    Data,
    Rows,
    check_controls_untouched,
    check_data,
    check_rows,
    load_data,
    load_network,
    load_signals,
)
from worker.unlearning import adversarial, membership

Audited = agreed.UnlearnPlan | agreed.AuditPlan


@dataclasses.dataclass(frozen=True)
class Case:
    """One model and the sets it is judged by; rows are positions in ``data`` and ``signals``."""

    plan: Audited
    network: nn.Module
    data: Data
    signals: membership.ReferenceSignals
    forget: Rows
    retain: Rows
    calibration: Rows
    controls: Rows  # those the forget set is compared with
    requests: list[Rows]  # of the forget set

    @property
    def all_controls(self) -> Rows:
        return np.concatenate([self.calibration, self.controls])

    @property
    def reference_train_size(self) -> int:
        """Live images each reference was trained on."""
        return int(self.signals.member.sum(1).max())

    def nearest(self, network: nn.Module, rows: Rows) -> adversarial.Adversarial:
        """Their nearest adversarial examples under a network. Raises Failed(plan_invalid)."""
        with training_errors():
            return adversarial.nearest(network, *self.data.subset(rows), **dataclasses.asdict(self.plan.attack))


def load_case(plan: Audited, device: torch.device) -> Case:
    """Raises Failed for whatever is not as the plan says; only an audit may go without a forget set."""
    groups = {
        "forget": plan.forget,
        "retain": plan.retain,
        "calibration": plan.calibration,
        "audit": plan.audit_controls,
    }
    check_data(plan.data)
    check_rows(plan.data.rows, needed=("forget",) if isinstance(plan, agreed.UnlearnPlan) else (), **groups)
    check_requests(plan)
    if len(plan.calibration) < membership.CALIBRATION_AT_LEAST or len(plan.audit_controls) < 2:
        count = f"{len(plan.calibration)} calibration and {len(plan.audit_controls)} audit controls"
        raise Failed("plan_invalid", f"{count} are too few")
    network = load_network(plan.data, plan.network, plan.base).to(device)
    rows = np.concatenate([np.array(group, dtype=np.int64) for group in groups.values()])
    data = load_data(plan.data, rows, device)
    ends = np.cumsum([len(group) for group in groups.values()])
    forget, retain, calibration, controls = np.split(np.arange(len(rows)), ends[:-1])
    check_controls_untouched(data, np.concatenate([forget, retain]), np.concatenate([calibration, controls]))
    place = {row: position for position, row in enumerate(plan.forget)}
    return Case(
        plan,
        network,
        data,
        load_signals(plan, rows),
        forget,
        retain,
        calibration,
        controls,
        requests=[np.array([place[row] for row in request], dtype=np.int64) for request in plan.requests],
    )


def check_requests(plan: Audited) -> None:
    """Each request names rows of the forget set, once. Raises Failed(plan_invalid)."""
    forget = set(plan.forget)
    for number, request in enumerate(plan.requests, 1):
        if not request or len(set(request)) < len(request) or not forget.issuperset(request):
            raise Failed(
                "plan_invalid", f"request {number} is empty, or names a row twice or one that is not forgotten"
            )
