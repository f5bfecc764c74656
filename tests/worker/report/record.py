"""Records the results in data/, and those that tests.replaying replays: real jobs of the demo's case on scikit-learn's digits.

Run from the repository root, about half a minute on one thread: ``python -m tests.worker.report.record [FOLDER]``; the jobs run
in FOLDER, and a training that lies there already is used again. Numbers are rounded to six digits and files left out.

result.json             the demo: 175 samples of one request, the rehearsed strength, a retrained model beside
result-retrained.json   three requests, a strength far too weak on purpose: under, under, retrained
result-few.json         one request of three samples: inconclusive
result-over.json        a strength far too large, and a policy without retraining: withdrawn
result-audit.json       the demo's new model audited again, when nothing is left to forget
rehearsed.json          what the train job says of the strengths it rehearsed
register.json, train.json, near_duplicates.jsonl    in tests/replaying/data: the two jobs before them
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from models.parameters import DEMO
from worker import pipeline
from worker import plan as agreed

DATA = Path(__file__).parent / "data"
REPLAYED = Path(__file__).parents[2] / "replaying" / "data"
POLICY = DEMO.policy
FEW = 3


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    demo, strengths = prepare(folder)
    DATA.mkdir(exist_ok=True)
    (DATA / "rehearsed.json").write_text(json.dumps(rounded(strengths), indent=1) + "\n")
    for name in ("register", "train"):
        keep(folder / name, REPLAYED / f"{name}.json")
    shutil.copyfile(folder / "register" / "near_duplicates.jsonl", REPLAYED / "near_duplicates.jsonl")
    record("result", demo, folder)
    new = folder / "result" / "checkpoint.safetensors"
    weak = dataclasses.replace(demo.unlearn, learning_rate=1e-5, weight_scale=0.01)
    strong = dataclasses.replace(demo.unlearn, learning_rate=0.05, weight_scale=20.0)
    others = {
        "result-retrained": dataclasses.replace(
            demo,
            unlearn=weak,
            ladder=dataclasses.replace(demo.ladder, amun_steps=2),
            requests=[demo.forget[:100], demo.forget[100 : DEMO.forget - FEW], demo.forget[DEMO.forget - FEW :]],
            compare_retrained=False,
        ),
        "result-few": dataclasses.replace(
            demo,
            forget=demo.forget[:FEW],
            requests=[demo.forget[:FEW]],
            retain=demo.forget[FEW:] + demo.retain,
            unlearn=strength(demo.unlearn, strengths[0]),
            compare_retrained=False,
        ),
        "result-over": dataclasses.replace(
            demo,
            unlearn=strong,
            ladder=dataclasses.replace(demo.ladder, amun_steps=2, retrain=False),
            compare_retrained=False,
        ),
        "result-audit": agreed.AuditPlan(
            **{
                name: getattr(demo, name)
                for name in ("data", "network", "signals", "retain", "attack", "audit", "seed")
            },
            base=file(new),
            forget=[],
            requests=[],
            calibration=demo.calibration,
            audit_controls=demo.audit_controls,
            threads=1,
        ),
    }
    for name, plan in others.items():
        record(name, plan, folder)


def prepare(folder: Path) -> tuple[agreed.UnlearnPlan, list[dict[str, Any]]]:
    """The demo's unlearn plan, and the rehearsed strengths by size."""
    registered, at = run(
        agreed.RegisterPlan(
            agreed.Source("builtin", "digits"), agreed.Controls(share=DEMO.controls_share), seed=DEMO.seed
        ),
        folder / "register",
    )
    lines = [json.loads(line) for line in (at / "manifest.jsonl").read_text().splitlines()]
    train, controls = ([line["index"] for line in lines if line["split"] == split] for split in ("train", "control"))
    data = agreed.DataFiles(
        *(str(at / name) for name in ("pixels.u8", "labels.i32", "digests.bin")),
        rows=registered["rows"],
        shape=tuple(registered["shape"]),
        classes=registered["classes"],
    )
    unlearn = agreed.UnlearnSpec(learning_rate=1.0, weight_scale=1.0, **POLICY.finetuning.model_dump())
    common: dict[str, Any] = {
        "data": data,
        "network": agreed.NetworkSpec(**DEMO.network.model_dump()),
        "recipe": agreed.RecipeSpec(**DEMO.recipe.model_dump()),
        "attack": agreed.AttackSpec(**POLICY.attack.model_dump()),
        "audit": agreed.AuditSpec(**POLICY.audit.model_dump()),
        "seed": DEMO.seed,
        "threads": 1,
    }
    sizes = {"sizes": [FEW, DEMO.forget]}
    trained, at = run(
        agreed.TrainPlan(
            **common,
            train=train,
            controls=controls,
            references=POLICY.references,
            rehearsal=agreed.RehearsalSpec(**POLICY.rehearsal.model_dump() | sizes),
            unlearn=unlearn,
        ),
        folder / "train",
    )
    plan = agreed.UnlearnPlan(
        **common,
        base=file(at / "checkpoint.safetensors"),
        signals=agreed.SignalFiles(str(at / "phi.f32"), str(at / "members.u8"), POLICY.references),
        forget=train[: DEMO.forget],
        retain=train[DEMO.forget :],
        requests=[train[: DEMO.forget]],
        calibration=[index for index in controls if index % 2 == 0],
        audit_controls=[index for index in controls if index % 2 == 1],
        unlearn=strength(unlearn, trained["rehearsal"][-1]),
        utility=agreed.UtilitySpec(**POLICY.utility.model_dump()),
        ladder=agreed.LadderSpec(
            **POLICY.ladder.model_dump(), retrain_inconclusive=False, straight_to_retraining=False
        ),
        compare_retrained=True,
    )
    return plan, trained["rehearsal"]


def strength(spec: agreed.UnlearnSpec, rehearsed: dict[str, Any]) -> agreed.UnlearnSpec:
    return dataclasses.replace(spec, learning_rate=rehearsed["learning_rate"], weight_scale=rehearsed["weight_scale"])


def run(plan: agreed.Plan, folder: Path) -> tuple[dict[str, Any], Path]:
    """The outcome of a job; one that lies there is used again."""
    folder.mkdir(parents=True, exist_ok=True)
    text = agreed.dump(plan)
    path = folder / agreed.PLAN_FILE
    if not (path.exists() and path.read_text() == text and (folder / agreed.RESULT_FILE).exists()):
        path.write_text(text)
        pipeline.run(path, folder, io.StringIO())
    result = agreed.load_result(folder / agreed.RESULT_FILE)
    if result.outcome is None:
        raise SystemExit(f"{folder.name}: {result.error}")
    return result.outcome, folder


def record(name: str, plan: agreed.Plan, folder: Path) -> None:
    outcome, at = run(plan, folder / name)
    result = keep(at, DATA / f"{name}.json")
    print(
        name,
        outcome.get("verdict"),
        [(one["method"], one["verdict"]) for one in outcome.get("steps", [])],
        result["seconds"],
    )


def keep(job: Path, at: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((job / agreed.RESULT_FILE).read_text()) | {"files": []}
    at.write_text(json.dumps(rounded(result), separators=(",", ":")) + "\n")
    return result


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def file(path: Path) -> agreed.CheckpointFile:
    return agreed.CheckpointFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
