"""The methods of the paper's tables, each with the strengths it is tuned over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import nn

from worker.unlearning import amun, baselines
from worker.unlearning.adversarial import Adversarial
from worker.unlearning.finetuning import DataSet

SCHEDULES = ("constant", "linear")


@dataclass(frozen=True)
class Case:
    """What every method is given."""

    network: nn.Module
    forget: DataSet
    retain: DataSet | None  # None: not available
    adversarial: Adversarial
    fixed: dict[str, Any]  # keywords of `finetuning.finetune` that no method chooses

    def options(self, chosen: dict[str, Any]) -> dict[str, Any]:
        return self.fixed | chosen


Method = Callable[[Case, dict[str, Any]], nn.Module]


def ft(case: Case, chosen: dict[str, Any]) -> nn.Module:
    assert case.retain is not None
    return baselines.finetune_on_retained(case.network, case.retain, **case.options(chosen))


def rl(case: Case, chosen: dict[str, Any]) -> nn.Module:
    return baselines.random_labels(case.network, case.forget, case.retain, **case.options(chosen))


def ga(case: Case, chosen: dict[str, Any]) -> nn.Module:
    return baselines.gradient_ascent(case.network, case.forget, **case.options(chosen))


def l1_sparse(case: Case, chosen: dict[str, Any]) -> nn.Module:
    assert case.retain is not None
    return baselines.l1_sparse(case.network, case.retain, **case.options(chosen))


def salun(case: Case, chosen: dict[str, Any]) -> nn.Module:
    return baselines.salun(case.network, case.forget, case.retain, **case.options(chosen))


def amun_plain(case: Case, chosen: dict[str, Any]) -> nn.Module:
    """As published: D_R, D_F and D_A, or D_F and D_A, all alike."""
    form = "retain+forget+adversarial" if case.retain else "forget+adversarial"
    return amun.unlearn(
        case.network, case.forget, case.retain, adversarial=case.adversarial, form=form, **case.options(chosen)
    )


def amun_salun(case: Case, chosen: dict[str, Any]) -> nn.Module:
    return amun_plain(case, chosen | {"saliency_share": 0.5})


def grid(rates: list[float], **others: list[float]) -> list[dict[str, Any]]:
    names = ["learning_rate", "schedule", *others]
    return [dict(zip(names, values, strict=True)) for values in product(rates, SCHEDULES, *others.values())]


# The best of a row lies inside it at small scale wherever the loss stays finite beyond: seen by widening the rows.
METHODS: dict[str, tuple[Method, list[dict[str, Any]]]] = {
    "FT": (ft, grid([0.1, 0.3, 1.0])),
    "RL": (rl, grid([0.03, 0.1, 0.3])),
    "GA": (ga, grid([1e-3, 3e-3, 0.01])),  # never looks at the retained set, so it has no row without
    "l1-sparse": (l1_sparse, grid([0.1, 0.3, 1.0], strength=[1e-4])),
    "SalUn": (salun, grid([0.03, 0.1, 0.3])),
    "AMUN": (amun_plain, grid([0.1, 0.3, 1.0])),
    "AMUN+SalUn": (amun_salun, grid([0.03, 0.1, 0.3])),
}
WITHOUT_RETAINED: dict[str, tuple[Method, list[dict[str, Any]]]] = {
    "RL": (rl, grid([3e-4, 1e-3, 3e-3])),
    "SalUn": (salun, grid([1e-3, 3e-3, 0.01])),
    "AMUN": (amun_plain, grid([0.01, 0.03, 0.1])),
    "AMUN+SalUn": (amun_salun, grid([0.01, 0.03, 0.1])),
}
