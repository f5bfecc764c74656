"""What sharing a job among ranks costs or gains, and whether it changes the result.

One plan to train (a model, reference models, a rehearsal) and one to unlearn and retrain, on scikit-learn's digits
enlarged to 16 x 16, each run by one process and by `torchrun` with 2 ranks: on a CPU with one torch thread each, so that
two ranks have twice the processor time of one; where there are several GPUs, with one for each rank. All runs follow
one after another in one go, so that only their ratios say something. Run from the repository root:

    python -m benchmarks.ranks [--ranks 2] [--rounds 3]

Writes benchmarks/results/ranks.json and ranks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks import machine
from worker import plan as agreed
from worker.jobs.loading import build, load_data
from worker.jobs.recipes import seed_for
from worker.unlearning import images, training

RESULTS = Path(__file__).parent / "results"
SIDE, ROWS, TRAINED, FORGET, REFERENCES = 16, 1600, 800, 80, 8
ROUNDINGS = 6  # trainings that differ by rounding alone
RECIPE = agreed.RecipeSpec(
    epochs=10,
    batch_size=128,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one-cycle",
    augment=True,
    mixed_precision=True,
    compiled=False,
)
ATTACK = agreed.AttackSpec("boundary", 256, 2, 30, 6, 0.04, 12, mixed_precision=False)
UNLEARN = agreed.UnlearnSpec(
    form="retain+adversarial",
    learning_rate=0.01,
    weight_scale=1.0,
    weight_power=1.0,
    weight_spread=True,
    schedule="linear",
    epochs=5,
    batch_size=128,
    momentum=0.9,
    weight_decay=5e-4,
    augment=True,
    retain_share=1.0,
    saliency_share=None,
    mixed_precision=True,
)
AUDIT = agreed.AuditSpec(tolerance=0.1, tolerance_membership=0.5, level=0.05, rmia_offline_a=0.3, rmia_gamma=1.0)
REHEARSAL = agreed.RehearsalSpec(
    models=4,
    sizes=[FORGET],
    requests=1,
    shown_on=1,
    learning_rates=[0.01],
    weight_scales=[0.5, 2.0],
    tolerance_accuracy=0.02,
)
LADDER = agreed.LadderSpec(
    amun_steps=1,
    stronger=2.0,
    weaker=0.5,
    saliency_share=0.5,
    retrain=False,
    retrain_inconclusive=False,
    straight_to_retraining=False,
)
NETWORK = agreed.NetworkSpec(name="small-cnn", width=16)
PHASES = {"train": ("train", "references", "rehearse"), "unlearn": ("attack", "finetune", "audit", "retrain")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of all runs")
    options = parser.parse_args()
    gpus = torch.cuda.device_count()
    if 0 < gpus < options.ranks:
        raise SystemExit(
            f"{options.ranks} ranks need a GPU each, or none (CUDA_VISIBLE_DEVICES=), and there are {gpus}"
        )
    torch.set_num_threads(1)
    counts = (1, options.ranks)
    with tempfile.TemporaryDirectory() as folder:
        data = arrays(Path(folder))
        runs = [one_round(Path(folder) / str(number), data, counts) for number in range(options.rounds)]
        rounding = accuracies_by_rounding(data)
    document = {
        "machine": machine.describe(),
        "ranks": options.ranks,
        "rounds": options.rounds,
        "load": os.getloadavg()[1],
        "seconds": seconds_of(runs, counts),
        "results": {str(count): runs[0][count]["result"] for count in counts},
        "largest_difference": runs[0]["difference"],
        "accuracies_by_rounding": rounding,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ranks.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "ranks.md").write_text(table(document))
    print(table(document))


def arrays(folder: Path) -> agreed.DataFiles:
    pixels, labels, classes = images.digits()
    large = F.interpolate(torch.from_numpy(pixels[:ROWS]).float(), size=(SIDE, SIDE), mode="bilinear")
    rows = large.round().to(torch.uint8).numpy()
    (folder / "pixels").write_bytes(rows.tobytes())
    (folder / "labels").write_bytes(labels[:ROWS].astype(np.int32).tobytes())
    (folder / "digests").write_bytes(b"".join(images.row_digest(row) for row in rows))
    paths = [str(folder / name) for name in ("pixels", "labels", "digests")]
    return agreed.DataFiles(*paths, rows=ROWS, shape=(1, SIDE, SIDE), classes=classes)


def one_round(folder: Path, data: agreed.DataFiles, counts: tuple[int, int]) -> dict[Any, Any]:
    """Both jobs by one process and by several; all unlearn what the one process has trained."""
    found: dict[Any, Any] = {}
    places = {count: {kind: folder / f"{kind}-{count}" for kind in PHASES} for count in counts}
    for kind in PHASES:
        for count in counts:
            plan = train_plan(data) if kind == "train" else unlearn_plan(data, places[counts[0]]["train"])
            wall, result = run(plan, places[count][kind], count)
            one = found.setdefault(count, {"seconds": {}, "wall": {}, "result": {}})
            one["wall"][kind] = wall
            one["seconds"] |= {phase: result.seconds[phase] for phase in PHASES[kind]}
            one["result"] |= summary(result)
    found["difference"] = {
        kind: difference(*(places[count][kind] / "checkpoint.safetensors" for count in counts)) for kind in PHASES
    }
    return found


def train_plan(data: agreed.DataFiles) -> agreed.TrainPlan:
    return agreed.TrainPlan(
        data=data,
        network=NETWORK,
        recipe=RECIPE,
        train=list(range(TRAINED)),
        controls=list(range(TRAINED, ROWS)),
        references=REFERENCES,
        rehearsal=REHEARSAL,
        attack=ATTACK,
        unlearn=UNLEARN,
        audit=AUDIT,
        seed=1,
        threads=1,
    )


def unlearn_plan(data: agreed.DataFiles, trained: Path) -> agreed.UnlearnPlan:
    base = trained / "checkpoint.safetensors"
    return agreed.UnlearnPlan(
        data=data,
        network=NETWORK,
        recipe=RECIPE,
        base=agreed.CheckpointFile(str(base), hashlib.sha256(base.read_bytes()).hexdigest()),
        signals=agreed.SignalFiles(str(trained / "phi.f32"), str(trained / "members.u8"), references=REFERENCES),
        forget=list(range(FORGET)),
        retain=list(range(FORGET, TRAINED)),
        calibration=list(range(TRAINED, ROWS, 2)),
        audit_controls=list(range(TRAINED + 1, ROWS, 2)),
        requests=[list(range(FORGET))],
        attack=ATTACK,
        unlearn=UNLEARN,
        audit=AUDIT,
        utility=agreed.UtilitySpec(tolerance_accuracy=0.05),
        ladder=LADDER,
        compare_retrained=True,
        seed=2,
        threads=1,
    )


def run(plan: agreed.TrainPlan | agreed.UnlearnPlan, folder: Path, ranks: int) -> tuple[float, agreed.Result]:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(agreed.dump(plan))
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *launch, "worker.pipeline", str(folder / "plan.json"), str(folder)],
        env={**os.environ, "AMUN_DEVICE": device, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started, agreed.load_result(folder / "result.json")


def summary(result: agreed.Result) -> dict[str, Any]:
    assert result.outcome is not None
    if result.kind == "train":
        (rehearsed,) = result.outcome["rehearsal"]
        return {
            "accuracy of the model": result.outcome["accuracy_controls"],
            "rehearsed weights x": rehearsed["weight_scale"],
            "rehearsed R": rehearsed["membership"],
        }
    after, retrained = result.outcome["after"], result.outcome["retrained"]
    estimates = {one["name"]: one["estimate"] for one in after["audit"]["estimates"]}
    return {
        "verdict": result.outcome["verdict"],
        "AUC(z) after": 0.5 + estimates["z"],
        "R after": estimates["membership"],
        "accuracy after": after["utility"]["controls"],
        "accuracy retrained": retrained["utility"]["controls"],
        "median distance": result.outcome["adversarial"]["distance_quantiles"]["0.5"],
    }


def accuracies_by_rounding(data: agreed.DataFiles) -> list[float]:
    """Of the first model trained by one process from weights that are moved by 1e-7 of themselves, the noise floor."""
    plan, device = train_plan(data), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pool = load_data(data, np.arange(ROWS), device)
    seed, found = seed_for(plan.seed, "model"), []
    for number in range(ROUNDINGS):
        torch.manual_seed(seed)
        network, generator = build(data, NETWORK), torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape, generator=generator))
        training.train(
            network.to(device),
            *pool.subset(np.arange(TRAINED)),
            **dataclasses.asdict(RECIPE),
            seed=seed,
        )
        found.append(round(training.accuracy(network, *pool.subset(np.arange(TRAINED, ROWS))), 4))
    return found


def difference(one: Path, other: Path) -> float:
    """The largest of any parameter or buffer."""
    first, second = load_file(one), load_file(other)
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def seconds_of(runs: list[dict[Any, Any]], counts: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Median seconds by phase, and the median over the rounds of the ratio of one process to several."""
    found = {}
    for group in ("seconds", "wall"):
        for name in runs[0][counts[0]][group]:
            one, several = ([run[count][group][name] for run in runs] for count in counts)
            found[name if group == "seconds" else f"whole {name} job"] = {
                "one": round(statistics.median(one), 2),
                "several": round(statistics.median(several), 2),
                "ratio": round(statistics.median(a / b for a, b in zip(one, several, strict=True)), 2),
            }
    return found


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    ranks, apart, noise = document["ranks"], document["largest_difference"], document["accuracies_by_rounding"]
    rounds = "One round" if document["rounds"] == 1 else f"Medians of {document['rounds']} rounds"
    lines = [
        f"# One job by {ranks} ranks",
        "",
        f"{ROWS} digits of {SIDE} x {SIDE} pixels, half of them trained on, {FORGET} to forget, {REFERENCES} reference "
        f"models, small-cnn of width {NETWORK.width}, batches of {RECIPE.batch_size}; one torch thread a process. "
        f"{rounds} of one process and {ranks} ranks by turns.",
        "",
        machine.line(document["machine"]),
        f"Measured beside other work (load {document['load']:.1f}), so only the ratios within a round say something.",
        "",
        f"| phase | seconds, one process | seconds, {ranks} ranks | times as fast |",
        "|---|---|---|---|",
    ]
    for name, one in document["seconds"].items():
        lines.append(f"| {name} | {one['one']} | {one['several']} | {one['ratio']} |")
    lines += [
        "",
        "A phase's first step also loads what torch has not loaded yet; a whole job includes the start of the processes.",
        "",
        f"| result | one process | {ranks} ranks |",
        "|---|---|---|",
    ]
    one, several = (document["results"][str(count)] for count in (1, ranks))
    for name, value in one.items():
        cells = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in (value, several[name])]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    lines += [
        "",
        f"Largest difference of any parameter or buffer: {apart['train']:.1g} after training, {apart['unlearn']:.1g} after "
        "unlearning. Batches and crops are the same; what differs is the order in which floats are added, and this recipe "
        f"makes much of it: {len(noise)} trainings by one process, from first weights moved by 1e-7 of themselves, end at an "
        f"accuracy of the model between {min(noise):.4f} and {max(noise):.4f}. Reference models are trained whole by one "
        "rank each, so they and what is rehearsed on them are the same to the last bit.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
