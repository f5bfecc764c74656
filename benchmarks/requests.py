"""Requests of 1, 10, 1% and 2% of the training images: does one rehearsed strength for each size hold?

CIFAR-10 images as means of 2 x 2 pixels, a small network, 7,100 of 14,200 images trained on. Requests of 1% (71 images)
and 2% (142) are judged by the verdict rule over ten seeds, each with its own training half, forget set and models;
requests of 1 and 10 by R pooled over rehearsed requests that their strength was not chosen on. All seeds share one set of
reference models, as all requests to a service do. Run from the repository root:

    python -m benchmarks.requests --data FOLDER [--seeds 10]

FOLDER holds CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg. Writes benchmarks/results/requests.json and .md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import cifar, machine
from worker.unlearning import (
    adversarial,
    amun,
    audit,
    baselines,
    membership,
    networks,
    references,
    rehearsal,
    training,
)

RESULTS = Path(__file__).parent / "results"
POOL, SIDE, WIDTH, REFERENCES, MODELS = 14_200, 16, 16, 16, 4
SIZES, SMALL = (71, 142), (1, 10)
SMALL_REQUESTS = 26  # shown on each of four models
RECIPE: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "augment": False,
}
ATTACK: dict[str, Any] = {
    "method": "boundary",
    "batch_size": 512,
    "rival_classes": 2,
    "steps": 50,
    "bisections": 8,
    "eps_start": 0.04,
    "doublings": 12,
}
FORM, POWER = "retain+adversarial", 1.0
FINETUNING: dict[str, Any] = {
    "schedule": "linear",
    "epochs": 5,
    "batch_size": 64,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "augment": False,
}
RULE = {"tolerance": 0.1, "tolerance_membership": 0.5}
STRENGTHS: dict[str, Any] = {"learning_rates": [0.05], "weight_scales": [1.0, 3.0, 9.0]}
NAMES = ("original", "retrained", "AMUN")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as class folders")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--together", type=int, default=2, help="reference models trained at once")
    parser.add_argument("--cache", type=Path, default=Path("build/requests.pt"), help="of the reference models")
    parser.add_argument("--small-requests", type=int, default=SMALL_REQUESTS, help="on each of four models")
    options = parser.parse_args()
    started = time.perf_counter()
    inputs, labels = cifar.load(options.data, "train", POOL, seed=0, side=SIDE)
    members = references.assign(POOL, REFERENCES, seed=0)
    phi, kept = trained_references(inputs, labels, members, options.together, options.cache)
    print(f"references: {time.perf_counter() - started:.0f} s", flush=True)
    document: dict[str, Any] = {"machine": machine.describe(), "rehearsed": [], "runs": []}
    for sizes, requests, shown_on, share in ((SIZES, 3, 2, 1.0), (SMALL, 4, options.small_requests, 0.2)):
        begun = time.perf_counter()
        strengths = rehearsal.rehearse(
            kept,
            inputs,
            labels,
            phi,
            members,
            sizes=sizes,
            requests=requests,
            shown_on=shown_on,
            **STRENGTHS,
            weight_power=POWER,
            weight_spread=True,
            form=FORM,
            attack=ATTACK,
            finetuning=FINETUNING | {"retain_share": share},
            **RULE,
            tolerance_accuracy=0.02,
            seed=0,
        )
        seconds = (time.perf_counter() - begun) / len(sizes)
        for strength in strengths:
            document["rehearsed"].append(vars(strength) | {"retain_share": share, "seconds": round(seconds, 1)})
            print(document["rehearsed"][-1], flush=True)
        if sizes == SIZES:
            chosen = {strength.size: strength for strength in strengths}
            signals = membership.ReferenceSignals(phi, members)
            for seed in range(options.seeds):
                document["runs"] += run_seed(inputs, labels, signals, chosen, seed)
                write(document)
    document["seconds"] = round(time.perf_counter() - started)
    write(document)


def trained_references(
    inputs: Tensor, labels: Tensor, members: NDArray[np.bool_], together: int, cache: Path
) -> tuple[NDArray[np.float64], dict[int, nn.Module]]:
    """Signals of all references and those that rehearse; from the cache where an earlier run left them."""
    if not cache.exists():
        phi, kept = np.zeros(members.shape), {}
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // together))
        for reference in references.train(build, inputs, labels, members, **RECIPE, seed=0, together=together):
            phi[reference.index] = reference.phi
            if reference.index in rehearsal.rehearsed(REFERENCES, MODELS):
                kept[reference.index] = reference.network.state_dict()
        torch.set_num_threads(threads)
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"phi": torch.from_numpy(phi), "kept": kept}, cache)
    found = torch.load(cache, weights_only=True)
    networks_kept = {index: build().eval() for index in found["kept"]}
    for index, network in networks_kept.items():
        network.load_state_dict(found["kept"][index])
    return found["phi"].numpy(), networks_kept


def build() -> nn.Module:
    return networks.build("small-cnn", shape=(3, SIDE, SIDE), classes=cifar.CLASSES, width=WIDTH)


def run_seed(
    inputs: Tensor,
    labels: Tensor,
    signals: membership.ReferenceSignals,
    chosen: dict[int, rehearsal.Strength],
    seed: int,
) -> list[dict[str, Any]]:
    """Original, retrained and unlearned model of one seed, for each size."""
    generator = np.random.default_rng([seed, 1])
    trained, controls = np.split(generator.permutation(POOL), 2)
    calibration, judged = controls[0::2], controls[1::2]

    def pick(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return inputs[rows], labels[rows]

    original = baselines.retrain(build, *pick(trained), **RECIPE, seed=1000 + seed)
    runs = []
    for size, strength in chosen.items():
        forget, retain = trained[:size], trained[size:]
        retrained = baselines.retrain(build, *pick(retain), **RECIPE, seed=2000 + seed)
        examples = adversarial.nearest(original, *pick(forget), **ATTACK)
        weights = membership.memorisation_weights(
            signals, forget, scale=strength.weight_scale, power=POWER, spread=True, seed=seed
        )
        unlearned = amun.unlearn(
            original,
            pick(forget),
            pick(retain),
            adversarial=examples,
            form=FORM,
            weights=torch.from_numpy(weights),
            learning_rate=strength.learning_rate,
            seed=3000 + seed,
            **FINETUNING,
        )
        for name, network in zip(NAMES, (original, retrained, unlearned), strict=True):
            phi = membership.signal(training.infer(network, inputs), labels)
            found = audit.measure(
                phi,
                signals,
                forget,
                calibration,
                judged,
                **RULE,
                level=0.05,
                rmia_offline_a=0.3,
                rmia_gamma=1.0,
                step=1,
            )
            estimates = {one.name: round(one.estimate, 4) for one in found.estimates}
            accuracies = [training.accuracy(network, *pick(rows)) for rows in (forget, retain, controls)]
            runs.append(
                {
                    "seed": seed,
                    "size": size,
                    "model": name,
                    "verdict": found.verdict.value.value,
                    "bad": sorted(found.verdict.bad),
                    "estimates": estimates,
                    "accuracies": [round(one, 4) for one in accuracies],
                }
            )
            print(seed, size, name, runs[-1]["verdict"], runs[-1]["bad"], estimates, flush=True)
    return runs


def write(document: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "requests.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "requests.md").write_text(table(document))


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Requests of 1, 10, 1% and 2%",
        "",
        f"CIFAR-10 as JPEG, {SIDE} x {SIDE} pixels, {POOL // 2} of {POOL} images trained on by a small network "
        f"({RECIPE['epochs']} epochs, width {WIDTH}), {REFERENCES} reference models; tolerance 0.10 on AUC(z), 0.5 on R. "
        f"AMUN: {FINETUNING['epochs']} epochs on {FORM.replace('+', ' and ')}, strength rehearsed on {MODELS} reference "
        "models; no retrained model was used to choose anything.",
        "",
        machine.line(document["machine"]),
        "",
        "## By the verdict rule",
        "",
        "| forget | model | pass | under | over | inconclusive | AUC(z), mean | R, mean | forget | retained | controls |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        for name in NAMES:
            runs = [run for run in document["runs"] if run["size"] == size and run["model"] == name]
            if not runs:
                continue
            counts = Counter(run["verdict"] for run in runs)
            z, remaining = ([run["estimates"][key] for run in runs] for key in ("z", "membership"))
            accuracies = np.mean([run["accuracies"] for run in runs], axis=0)
            words = ("pass", "under_unlearned", "over_unlearned", "inconclusive")
            lines.append(
                f"| {size} | {name} | {' | '.join(str(counts[word]) for word in words)} | "
                f"{0.5 + np.mean(z):.3f} ± {np.std(z):.3f} | {np.mean(remaining):+.2f} ± {np.std(remaining):.2f} | "
                f"{' | '.join(f'{value:.3f}' for value in accuracies)} |"
            )
    lines += [
        "",
        "± is the standard deviation over seeds; the last three columns are mean accuracies.",
        "",
        "## Rehearsed: what the chosen strength does to requests it was not chosen on",
        "",
        "| size | requests | learning rate | weights x | R before | R after, pooled, 90% interval | AUC(z) | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(document["rehearsed"], key=lambda strength: strength["size"]):
        reach = 1.645 * one["membership_standard_error"]
        auc = f"{one['auc_z_mean']:.3f}" if one["auc_z_mean"] is not None else ""
        lines.append(
            f"| {one['size']} | {one['requests']} | {one['learning_rate']} | {one['weight_scale']} | "
            f"{one['membership_before']:+.2f} | {one['membership']:+.2f} ({one['membership'] - reach:+.2f} to "
            f"{one['membership'] + reach:+.2f}) | {auc} | {100 * one['accuracy_change_mean']:+.2f} points |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
