"""The replaying child: what it recorded fits whatever plan it is given, and it misbehaves as it is told."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.parameters import DEMO
from tests import replaying
from tests.replaying import outcomes
from tests.worker.report import cases
from worker import plan as agreed
from worker import report

POLICY = DEMO.policy
COMMON: dict[str, Any] = {
    "data": agreed.DataFiles("pixels", "labels", "digests", 80, (1, 8, 8), [str(digit) for digit in range(10)]),
    "network": agreed.NetworkSpec(**DEMO.network.model_dump()),
    "base": agreed.CheckpointFile("base", "0" * 64),
    "signals": agreed.SignalFiles("phi", "members", 4),
    "retain": list(range(60, 80)),
    "calibration": list(range(0, 20, 2)),
    "audit_controls": list(range(1, 20, 2)),
    "attack": agreed.AttackSpec(**POLICY.attack.model_dump()),
    "audit": agreed.AuditSpec(**POLICY.audit.model_dump()),
    "seed": 1,
}


def unlearning(requests: list[list[int]]) -> agreed.UnlearnPlan:
    return agreed.UnlearnPlan(
        **COMMON,
        recipe=agreed.RecipeSpec(**DEMO.recipe.model_dump()),
        forget=[row for rows in requests for row in rows],
        requests=requests,
        unlearn=agreed.UnlearnSpec(learning_rate=0.01, weight_scale=1.0, **POLICY.finetuning.model_dump()),
        utility=agreed.UtilitySpec(**POLICY.utility.model_dump()),
        ladder=agreed.LadderSpec(
            **POLICY.ladder.model_dump(), retrain_inconclusive=False, straight_to_retraining=False
        ),
        compare_retrained=False,
    )


def registering(tmp_path: Path, **options: object) -> tuple[int, agreed.Result | None]:
    """Exit status of a child whose supervisor lives, and its result."""
    plan = agreed.RegisterPlan(agreed.Source("builtin", "digits"), agreed.Controls(share=0.4), seed=1)
    (tmp_path / agreed.PLAN_FILE).write_text(agreed.dump(plan))
    command = [*shlex.split(replaying.command(rows=10, **options)), str(tmp_path / agreed.PLAN_FILE), str(tmp_path)]
    with subprocess.Popen(
        [*command, "--supervised"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/"
    ) as child:
        status = child.wait(60)
    result = tmp_path / agreed.RESULT_FILE
    return status, agreed.load_result(result) if result.exists() else None


@pytest.mark.parametrize("case", outcomes.CASES)
@pytest.mark.parametrize("scores", [False, True])
def test_every_recorded_case_makes_a_report_of_any_plan(case: str, scores: bool) -> None:
    plan = unlearning([[21, 23], [24]] if case == "few" else [[21, 22, 23], list(range(30, 60))])
    outcome = outcomes.of(plan, case=case, rows=None, scores=scores)
    result = agreed.Result("unlearn", "succeeded", {}, cases.recorded("pass").environment, outcome=outcome)
    document = report.audit_report(cases.facts(result), result)
    assert document["scope"]["forget_samples"] == len(plan.forget)
    assert [part["forget"] for part in document["audit"]["after"]["slices"]] == [len(rows) for rows in plan.requests]
    assert len(document["audit"]["after"]["samples"]) == len(plan.forget)
    shown = document["audit"]["after"]["scores"]
    assert bool(shown) is scores
    assert not scores or len(shown["z"]["controls"]) == len(plan.audit_controls)


@pytest.mark.parametrize("forget", [[], [21, 23]])
def test_a_re_audit_is_replayed_with_and_without_samples(forget: list[int]) -> None:
    plan = agreed.AuditPlan(**COMMON, forget=forget, requests=[forget] if forget else [])
    outcome = outcomes.of(plan, case=None, rows=None, scores=False)
    result = agreed.Result("audit", "succeeded", {}, cases.recorded("pass").environment, outcome=outcome)
    facts = cases.facts(result)
    facts["head"]["kind"] = "re_audit"
    document = report.re_audit(facts, result)
    assert len(document["audit"]["now"]["samples"]) == len(forget)


def test_files_are_as_the_result_lists_them(tmp_path: Path) -> None:
    status, result = registering(tmp_path)
    assert status == 0
    assert result is not None
    assert result.outcome is not None
    assert (result.outcome["rows"], result.outcome["train"], result.outcome["controls"]) == (10, 6, 4)
    assert {file.name: (tmp_path / file.name).stat().st_size for file in result.files} == {
        file.name: file.size for file in result.files
    }


@pytest.mark.parametrize(
    ("options", "status"),
    [({"signal": "KILL"}, -9), ({"exit": 3}, 3), ({"fail": "oom"}, 1), ({"kind": "train", "exit": 3}, 0)],
    ids=str,
)
def test_it_misbehaves_as_it_is_told(tmp_path: Path, options: dict[str, object], status: int) -> None:
    found, result = registering(tmp_path, **options)
    assert found == status
    if "fail" in options:
        assert result is not None
        assert result.error is not None
        assert result.error.code == "oom"
    else:
        assert (result is not None) == (status == 0)


def test_it_misbehaves_once_where_it_is_told_so(tmp_path: Path) -> None:
    assert registering(tmp_path, exit=3, at="save", once=tmp_path / "once")[0] == 3
    assert registering(tmp_path, exit=3, at="save", once=tmp_path / "once")[0] == 0


def test_it_loads_no_tensors() -> None:
    probe = (
        "import sys, tests.replaying.__main__; print([m for m in ('torch', 'numpy', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=replaying.ROOT)
    assert done.stdout.strip() == "[]"
