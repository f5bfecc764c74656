"""How often does the demo's case end in a `pass`, and does the audit tell the models apart? Ten seeds of it.

For each seed: another split of scikit-learn's digits, another forget set, other models. The strength of unlearning is
rehearsed on reference models, never fitted to the forget set. Seeds 0 to 19 were used to choose the demo's recipe and
the grid of its rehearsal, so the table begins after them. Run from the repository root:

    python -m benchmarks.seeds [--first 20] [--seeds 10] [--threads 1]

Writes benchmarks/results/seeds.json and seeds.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor, nn

from models.parameters import DEMO
from worker.unlearning import (
    adversarial,
    amun,
    audit,
    baselines,
    images,
    membership,
    networks,
    references,
    rehearsal,
    training,
)

RESULTS = Path(__file__).parent / "results"
MODELS = ("original", "retrained", "AMUN")
RECIPE = DEMO.recipe.model_dump()
POLICY = DEMO.policy
ATTACK = POLICY.attack.model_dump()
FINETUNING = POLICY.finetuning.model_dump(exclude={"form", "weight_power", "weight_spread"})
REHEARSAL = POLICY.rehearsal.model_dump(exclude={"models"})
AUDIT = POLICY.audit.model_dump()

Rows = NDArray[np.int64]
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=20, help="first seed")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pixels, classes, _ = images.digits()
    inputs, labels = training.laid_out(torch.from_numpy(pixels).float() / 255), torch.from_numpy(classes)
    runs = []
    for seed in range(options.first, options.first + options.seeds):
        runs.append(run_case(inputs, labels, seed))
        print(summary_line(runs[-1]), flush=True)
    document = {
        "machine": machine(),
        "case": DEMO.model_dump(mode="json", exclude={"seed"}),
        "trained_on": len(labels) - round(DEMO.controls_share * len(labels)),
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "seeds.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "seeds.md").write_text(table(document))
    print(table(document))


def run_case(inputs: Tensor, labels: Tensor, seed: int) -> dict[str, Any]:
    """The demo's case once, from the split to the three audits."""
    seconds: dict[str, float] = {}
    forget, retain, calibration, judged = split(len(labels), seed)
    trained, controls = np.concatenate([forget, retain]), np.concatenate([calibration, judged])

    def build() -> nn.Module:
        shape = (int(inputs.shape[1]), int(inputs.shape[2]), int(inputs.shape[3]))
        return networks.build(DEMO.network.name, shape=shape, classes=10, width=DEMO.network.width)

    def pick(rows: Rows) -> tuple[Tensor, Tensor]:
        return inputs[rows], labels[rows]

    def timed(phase: str, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        outcome = work()
        seconds[phase] = round(time.perf_counter() - started, 1)
        return outcome

    kept = rehearsal.rehearsed(POLICY.references, POLICY.rehearsal.models)
    members = references.assign(len(labels), POLICY.references, seed=seed)
    trained_references = timed(
        "references", lambda: list(references.train(build, inputs, labels, members, **RECIPE, seed=seed))
    )
    phi = np.stack([reference.phi for reference in trained_references])
    (strength,) = timed(
        "rehearsal",
        lambda: rehearsal.rehearse(
            {index: trained_references[index].network for index in kept},
            inputs,
            labels,
            phi,
            members,
            **REHEARSAL | {"sizes": [len(forget)]},
            form=POLICY.finetuning.form,
            weight_power=POLICY.finetuning.weight_power,
            weight_spread=POLICY.finetuning.weight_spread,
            attack=ATTACK,
            finetuning=FINETUNING,
            tolerance=POLICY.audit.tolerance,
            tolerance_membership=POLICY.audit.tolerance_membership,
            seed=seed,
        ),
    )
    signals = membership.ReferenceSignals(phi, members)
    original = timed("train", lambda: baselines.retrain(build, *pick(trained), **RECIPE, seed=10_000 + seed))
    retrained = timed("retrain", lambda: baselines.retrain(build, *pick(retain), **RECIPE, seed=20_000 + seed))
    examples = timed("attack", lambda: adversarial.nearest(original, *pick(forget), **ATTACK))
    weights = membership.memorisation_weights(
        signals,
        forget,
        scale=strength.weight_scale,
        power=POLICY.finetuning.weight_power,
        spread=POLICY.finetuning.weight_spread,
        seed=40_000 + seed,
    )
    unlearned = timed(
        "finetune",
        lambda: amun.unlearn(
            original,
            pick(forget),
            pick(retain),
            adversarial=examples,
            form=POLICY.finetuning.form,
            weights=torch.from_numpy(weights),
            learning_rate=strength.learning_rate,
            seed=30_000 + seed,
            **FINETUNING,
        ),
    )

    def measured(network: nn.Module) -> dict[str, Any]:
        own = membership.signal(training.infer(network, inputs), labels)
        found = audit.measure(own, signals, forget, calibration, judged, **AUDIT, step=1)
        estimates = {
            estimate.name: {
                "estimate": round(estimate.estimate, 4),
                "standard_error": round(estimate.standard_error, 4),
            }
            for estimate in found.estimates
        }
        return {
            "verdict": str(found.verdict.value),
            "bad": sorted(found.verdict.bad),
            "estimates": estimates,
            "accuracy_forget": round(training.accuracy(network, *pick(forget)), 4),
            "accuracy_retained": round(training.accuracy(network, *pick(retain)), 4),
            "accuracy_controls": round(training.accuracy(network, *pick(controls)), 4),
        }

    return {
        "seed": seed,
        "learning_rate": strength.learning_rate,
        "weight_scale": strength.weight_scale,
        "not_found": int((~examples.found).sum()),
        "seconds": seconds,
        "models": {
            name: measured(network) for name, network in zip(MODELS, (original, retrained, unlearned), strict=True)
        },
    }


def split(rows: int, seed: int) -> tuple[Rows, Rows, Rows, Rows]:
    """Forget set, retained set, calibration controls (even places) and audit controls (odd places)."""
    order = np.random.default_rng(seed).permutation(rows)
    trained, controls = np.split(order, [rows - round(DEMO.controls_share * rows)])
    controls.sort()
    return trained[: DEMO.forget], trained[DEMO.forget :], controls[0::2], controls[1::2]


def machine() -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in cpu_info() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(names),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def summary_line(run: dict[str, Any]) -> str:
    verdicts = ", ".join(f"{name} {run['models'][name]['verdict']}" for name in MODELS)
    return f"seed {run['seed']}: {verdicts} (lr {run['learning_rate']}, weights times {run['weight_scale']}, {run['seconds']} s)"


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine, runs = document["machine"], document["runs"]
    lines = [
        "# The demo's case over several seeds",
        "",
        (
            f"{DEMO.forget} of {document['trained_on']} training images of scikit-learn's digits to forget, tolerance "
            f"{POLICY.audit.tolerance:.2f} on AUC(z), {POLICY.references} reference models, strength rehearsed on "
            f"{POLICY.rehearsal.models} of them. Every seed has its own split, forget set, references and models."
        ),
        "",
        (
            f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['threads']} torch thread(s), "
            f"torch {machine['torch']}, Python {machine['python']}."
        ),
        "",
        "| model | pass | under_unlearned | over_unlearned | inconclusive | share of pass (95% interval) |",
        "|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        counts = Counter(run["models"][name]["verdict"] for run in runs)
        low, high = share_interval(counts["pass"], len(runs))
        words = ("pass", "under_unlearned", "over_unlearned", "inconclusive")
        cells = " | ".join(str(counts[word]) for word in words)
        lines.append(f"| {name} | {cells} | {counts['pass'] / len(runs):.2f} ({low:.2f} to {high:.2f}) |")
    seconds = {phase: np.mean([run["seconds"][phase] for run in runs]) for phase in runs[0]["seconds"]}
    lines += [
        "",
        "Mean seconds: " + ", ".join(f"{phase} {mean:.1f}" for phase, mean in seconds.items()) + ".",
        "",
        "AUC(z) with its 95% interval; R is the remaining membership share with its standard error.",
        "",
        "| seed | model | verdict | AUC(z) | R | accuracy: forget | retained | controls | decided by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for name in MODELS:
            one = run["models"][name]
            z, remaining = one["estimates"]["z"], one["estimates"]["membership"]
            auc, reach = 0.5 + z["estimate"], 1.96 * z["standard_error"]
            label = name if name != "AMUN" else f"AMUN, lr {run['learning_rate']}, weights x {run['weight_scale']}"
            lines.append(
                f"| {run['seed']} | {label} | {one['verdict']} | {auc:.3f} ({auc - reach:.3f} to {auc + reach:.3f}) | "
                f"{remaining['estimate']:+.2f} ± {remaining['standard_error']:.2f} | {one['accuracy_forget']:.3f} | "
                f"{one['accuracy_retained']:.3f} | {one['accuracy_controls']:.3f} | {', '.join(one['bad'])} |"
            )
    return "\n".join(lines) + "\n"


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95% interval of a share (Clopper and Pearson 1934)."""
    low = beta.ppf(0.025, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


if __name__ == "__main__":
    main()
