"""The paper's tables (arXiv 2503.00917): how close is each method to retraining, and at what cost?

    python -m benchmarks.paper --scale small --data FOLDER            # a CPU, under ten minutes
    python -m benchmarks.paper --scale paper --data FOLDER            # one GPU, repeat until nothing is left

FOLDER holds CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg. The work is cut into units whose results lie in the cache
folder; a run ends before the first unit it would begin after ``--minutes``, and the next run goes on from there. Every
run writes benchmarks/results/paper-SCALE.json, .md and .png from the units there are.

Every method is tuned as the paper does, by Avg gap to a retrained model, which nobody has at deletion time: on the first
forget set, with the same number of strengths each. "AMUN, rehearsed" sees no retrained model: its strength comes from
rehearsal on reference models.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import cifar, machine, paper_report
from benchmarks.methods import METHODS, WITHOUT_RETAINED, Case
from worker.unlearning import (
    adversarial,
    amun,
    baselines,
    membership,
    networks,
    references,
    rehearsal,
    statistics,
    training,
)

ATTACK: dict[str, Any] = {
    "method": "boundary",
    "batch_size": 512,
    "rival_classes": 2,
    "steps": 50,
    "bisections": 8,
    "eps_start": 0.04,
    "doublings": 12,
}
OWN = "AMUN, rehearsed"
OWN_SAMPLED = "AMUN, rehearsed, a fifth of D_R"
SAMPLED = 0.2
KINDS = ("half of the training set", "a part of one class", "the most memorised")


@dataclass(frozen=True)
class Scale:
    trained: int
    tested: int
    side: int
    network: str
    width: int
    recipe: dict[str, Any]
    references: int
    rehearsed: int
    shares: tuple[float, ...]
    forget_sets: int
    retrained: int  # for each forget set
    epochs: int  # of fine-tuning
    batch_size: int
    augment: bool
    few: tuple[int, ...] = field(default=())  # further request sizes, for AMUN, rehearsed alone


PLAIN: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4, "schedule": "one-cycle"}
SCALES = {
    "smoke": Scale(
        600,
        300,
        8,
        "small-cnn",
        8,
        PLAIN | {"epochs": 4, "batch_size": 64, "learning_rate": 0.1, "augment": False},
        4,
        2,
        (0.1,),
        2,
        1,
        1,
        64,
        augment=False,
        few=(1, 30),
    ),
    "small": Scale(
        4000,
        2000,
        16,
        "small-cnn",
        16,
        PLAIN | {"epochs": 25, "batch_size": 64, "learning_rate": 0.1, "augment": False},
        16,
        4,
        (0.1,),
        3,
        2,
        5,
        64,
        augment=False,
        few=(100,),
    ),
    "paper": Scale(
        50_000,
        10_000,
        32,
        "resnet18",
        1,
        PLAIN | {"epochs": 40, "batch_size": 128, "learning_rate": 0.1, "augment": True, "mixed_precision": True},
        16,
        4,
        (0.1, 0.5),
        3,
        3,
        10,
        128,
        augment=True,
        few=(1, 10, 100, 500),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as class folders")
    parser.add_argument("--cache", type=Path, help="default: build/paper-SCALE")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no unit after so long")
    parser.add_argument("--together", type=int, default=2, help="reference models trained at once")
    options = parser.parse_args()
    started = time.perf_counter()
    study = Study(
        SCALES[options.scale], options.data, options.cache or Path("build") / f"paper-{options.scale}", options.together
    )
    left = []
    for name, work in study.units():
        if study.has(name):
            continue
        if time.perf_counter() - started > 60 * options.minutes:
            left.append(name)
            continue
        begun = time.perf_counter()
        study.save(name, work())
        print(f"{time.perf_counter() - started:6.0f} s  {name} ({time.perf_counter() - begun:.1f} s)", flush=True)
    options.results.mkdir(exist_ok=True, parents=True)
    document = {
        "scale": options.scale,
        "setting": asdict(study.scale),
        "machine": machine.describe(),
        "left": left,
        "units": study.outcomes(),
    }
    paper_report.write(document, options.results / f"paper-{options.scale}")
    print(f"{len(left)} units are left" if left else "every unit is done")


class Study:
    """The units of one scale, and the files they leave."""

    def __init__(self, scale: Scale, data: Path, cache: Path, together: int) -> None:
        self.scale, self.cache, self.together = scale, cache, together
        cache.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pool = cache / "pool.pt"
        if not pool.exists():
            train, test = (
                cifar.load(data, split, count, seed=0, side=scale.side)
                for split, count in (("train", scale.trained), ("test", scale.tested))
            )
            torch.save((torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]])), pool)
        inputs, labels = torch.load(pool, weights_only=True)
        self.inputs, self.labels = training.laid_out(inputs.to(self.device)), labels.to(self.device)
        self.trained, self.tested = np.split(np.arange(len(labels)), [scale.trained])
        self.members = references.assign(len(labels), scale.references, seed=0)

    def units(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Name and work of each unit; later ones read what earlier ones saved."""
        yield "original", self.original
        for first in range(0, self.scale.references, self.together):
            yield f"references {first}", lambda first=first: self.train_references(first)
        for share in self.scale.shares:
            for number in range(self.scale.forget_sets):
                for seed in range(self.scale.retrained):
                    name = f"Retrain | {share} | {number} | {seed}"
                    yield name, lambda at=(share, number), seed=seed: self.retrain(*at, seed)
        for share in self.scale.shares:
            size = round(share * self.scale.trained)
            for sampled in (1.0, SAMPLED):
                yield f"rehearsal {size} {sampled}", lambda at=(size, sampled): self.rehearse(*at)
            for table, prefix in ((METHODS, ""), (WITHOUT_RETAINED, "D_F only: ")):
                for method in table:
                    yield f"tuning {prefix}{method} | {share}", lambda at=(prefix, method, share): self.tune(*at)
            for number in range(self.scale.forget_sets):
                for table, prefix in ((METHODS, ""), (WITHOUT_RETAINED, "D_F only: ")):
                    for method in table:
                        yield (
                            f"{prefix}{method} | {share} | {number} | 0",
                            lambda at=(prefix, method, share, number): self.run(*at),
                        )
                for name, sampled in ((OWN, 1.0), (OWN_SAMPLED, SAMPLED)):
                    yield f"{name} | {share} | {number} | 0", lambda at=(share, number, sampled): self.run_own(*at)
        for size in self.scale.few:
            yield f"rehearsal {size} {SAMPLED}", lambda size=size: self.rehearse(size, SAMPLED, 25 if size < 100 else 2)
        for kind in KINDS:
            yield f"kind {kind}", lambda kind=kind: self.of_kind(kind)
        if self.scale.few:
            yield "sequence", self.sequence

    # Files ----------------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def save(self, name: str, outcome: dict[str, Any]) -> None:
        self._path(name).write_text(json.dumps({"unit": name, **outcome}))

    def load(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path(name).read_text())
        return found

    def outcomes(self) -> list[dict[str, Any]]:
        return [self.load(name) for name, _ in self.units() if self.has(name)]

    def _path(self, name: str) -> Path:
        return self.cache / (name.replace(" | ", "~").replace(" ", "_") + ".json")

    def _keep(self, network: nn.Module, name: str) -> None:
        torch.save(network.state_dict(), self.cache / f"{name}.pt")

    def _network(self, name: str) -> nn.Module:
        network = self.build()
        network.load_state_dict(torch.load(self.cache / f"{name}.pt", weights_only=True))
        return network.to(self.device).eval()

    # Work -----------------------------------------------------------------------------------------------------------

    def build(self) -> nn.Module:
        side = self.scale.side
        return networks.build(self.scale.network, shape=(3, side, side), classes=cifar.CLASSES, width=self.scale.width)

    def pick(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(rows).to(self.device)
        return self.inputs[chosen], self.labels[chosen]

    def split(self, size: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.random.default_rng([size, number]).permutation(self.trained)
        return order[:size], order[size:]

    def original(self) -> dict[str, Any]:
        network, seconds = self._timed(lambda: self._train(self.trained, 1))
        self._keep(network, "original")
        accuracies = [training.accuracy(network, *self.pick(rows)) for rows in (self.trained, self.tested)]
        return {"seconds": seconds, "accuracies": accuracies}

    def train_references(self, first: int) -> dict[str, Any]:
        last = min(first + self.together, len(self.members))

        def work() -> list[references.Reference]:
            threads = torch.get_num_threads()
            if self.device.type == "cpu":
                torch.set_num_threads(max(1, threads // self.together))
            found = references.train(
                self.build,
                self.inputs,
                self.labels,
                self.members[first:last],
                **self.scale.recipe,
                seed=100 + first,
                together=self.together,
            )
            trained = list(found)
            torch.set_num_threads(threads)
            return trained

        trained, seconds = self._timed(work)
        rehearsed = rehearsal.rehearsed(len(self.members), self.scale.rehearsed)
        for reference in trained:
            index = first + reference.index
            np.save(self.cache / f"phi-{index}.npy", reference.phi)
            if index in rehearsed:
                self._keep(reference.network, f"reference-{index}")
        return {"seconds": seconds}

    def signals(self) -> membership.ReferenceSignals:
        return membership.ReferenceSignals(self._phi(), self.members)

    def _phi(self) -> NDArray[np.float64]:
        return np.stack([np.load(self.cache / f"phi-{index}.npy") for index in range(len(self.members))])

    def retrain(self, share: float, number: int, seed: int) -> dict[str, Any]:
        forget, retain = self.split(round(share * self.scale.trained), number)
        network, seconds = self._timed(lambda: self._train(retain, 1000 + 10 * number + seed))
        return {"seconds": seconds, **self.measure(network, forget, retain)}

    def rehearse(self, size: int, sampled: float, shown_on: int = 1) -> dict[str, Any]:
        kept = rehearsal.rehearsed(len(self.members), self.scale.rehearsed)
        (strength,), seconds = self._timed(
            lambda: rehearsal.rehearse(
                {index: self._network(f"reference-{index}") for index in kept},
                self.inputs,
                self.labels,
                self._phi(),
                self.members,
                sizes=[size],
                requests=1 if size >= 100 else 4,
                shown_on=shown_on,
                learning_rates=[0.05],
                weight_scales=[1.0, 3.0, 9.0],
                weight_power=1.0,
                weight_spread=True,
                form="retain+adversarial",
                attack=ATTACK,
                finetuning=self._fixed() | {"schedule": "linear", "retain_share": sampled},
                tolerance=0.05,
                tolerance_membership=0.5,
                tolerance_accuracy=0.01,
                seed=0,
            )
        )
        return {"seconds": seconds, "strength": asdict(strength)}

    def tune(self, prefix: str, method: str, share: float) -> dict[str, Any]:
        """Every strength on the first forget set; the one nearest to its retrained models."""
        work, strengths = (WITHOUT_RETAINED if prefix else METHODS)[method]
        forget, retain = self.split(round(share * self.scale.trained), 0)
        goal = self._goal(share, 0)
        case = self._case(forget, None if prefix else retain)
        found = []
        for chosen in strengths:
            try:
                measured = self.measure(work(case, chosen), forget, retain)
            except (training.Diverged, ValueError):  # a strength that ruins the network
                continue
            found.append((paper_report.average_gap(measured, goal), chosen))
        gap, best = min(found, key=lambda one: one[0])
        return {"chosen": best, "gap": gap, "tried": len(strengths)}

    def run(self, prefix: str, method: str, share: float, number: int) -> dict[str, Any]:
        work, _ = (WITHOUT_RETAINED if prefix else METHODS)[method]
        chosen = self.load(f"tuning {prefix}{method} | {share}")["chosen"]
        forget, retain = self.split(round(share * self.scale.trained), number)
        case, attack_seconds = self._timed(lambda: self._case(forget, None if prefix else retain))
        network, seconds = self._timed(lambda: work(case, chosen))
        attack_seconds = attack_seconds if "AMUN" in method else 0.0
        return {
            "seconds": seconds + attack_seconds,
            "attack_seconds": attack_seconds,
            **self.measure(network, forget, retain),
        }

    def run_own(self, share: float, number: int, sampled: float) -> dict[str, Any]:
        size = round(share * self.scale.trained)
        forget, retain = self.split(size, number)
        network, seconds = self._timed(lambda: self._own(self._network("original"), size, forget, retain, sampled))
        return {"seconds": seconds, **self.measure(network, forget, retain)}

    def of_kind(self, kind: str) -> dict[str, Any]:
        """A forget set that is not a random tenth: the original, a retrained and the unlearned network."""
        size = round((0.5 if kind == KINDS[0] else 0.05) * self.scale.trained)
        order = np.random.default_rng(9).permutation(self.trained)
        if kind == KINDS[1]:
            order = np.concatenate([order[self._classes(order) == 3], order[self._classes(order) != 3]])
        if kind == KINDS[2]:
            order = order[np.argsort(-self.signals().effect[order])]
        forget, retain = order[:size], order[size:]
        name = f"rehearsal {size} 1.0"
        if not self.has(name):
            self.save(name, self.rehearse(size, 1.0))
        original = self._network("original")
        own = self._own(original, size, forget, retain, 1.0)
        found = {"original": original, "retrained": self._train(retain, 5000), OWN: own}
        return {
            "size": size,
            "models": {model: self.measure(network, forget, retain) for model, network in found.items()},
        }

    def _classes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        classes: NDArray[np.int64] = self.labels.cpu().numpy()[rows]
        return classes

    def sequence(self) -> dict[str, Any]:
        """Five requests of 2%, one after the other, each on the network and its own examples that the last one left."""
        size = round(0.02 * self.scale.trained)
        name = f"rehearsal {size} {SAMPLED}"
        if not self.has(name):
            self.save(name, self.rehearse(size, SAMPLED))
        order = np.random.default_rng(5).permutation(self.trained)
        network, steps = self._network("original"), []
        for request in range(5):
            forget, retain = order[request * size : (request + 1) * size], order[(request + 1) * size :]
            network = self._own(network, size, forget, retain, SAMPLED)
            steps.append(self.measure(network, order[: (request + 1) * size], retain))
        return {"size": size, "steps": steps}

    def measure(self, network: nn.Module, forget: NDArray[np.int64], retain: NDArray[np.int64]) -> dict[str, Any]:
        """UA, RA, TA and the AUCs in percent; z, R and the SVC attack as they are. Odd test images are compared with."""
        logits = training.infer(network, self.inputs)
        phi, right = membership.signal(logits, self.labels), (logits.argmax(1) == self.labels).cpu().numpy()
        calibration, judged = self.tested[0::2], self.tested[1::2]
        signals = self.signals()
        rows = np.concatenate([forget, judged])
        rmia = membership.rmia(phi, signals, rows, calibration, gamma=1.0, offline_a=None)
        lira = membership.lira(phi, signals, online=True)[rows]
        calibrated = membership.calibrate(phi, signals, calibration)
        remaining = membership.remaining_membership(calibrated, signals, forget, judged)

        def auc(scores: NDArray[np.float64]) -> float:
            return 100 * statistics.auc(scores[: len(forget)], scores[len(forget) :]).value

        return {
            "UA": 100 * float(right[forget].mean()),
            "RA": 100 * float(right[retain].mean()),
            "TA": 100 * float(right[self.tested].mean()),
            "FT AUC": auc(rmia),
            "LiRA": auc(lira),
            "z": auc(calibrated.z[rows]),
            "R": remaining.value,
            "SVC": 100 * membership.svc_non_members(phi, retain, self.tested, forget, seed=0),
        }

    def _train(self, rows: NDArray[np.int64], seed: int) -> nn.Module:
        return baselines.retrain(self.build, *self.pick(rows), **self.scale.recipe, seed=seed)

    def _fixed(self) -> dict[str, Any]:
        return {
            "epochs": self.scale.epochs,
            "batch_size": self.scale.batch_size,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "augment": self.scale.augment,
            "mixed_precision": self.device.type == "cuda",
        }

    def _case(self, forget: NDArray[np.int64], retain: NDArray[np.int64] | None) -> Case:
        network = self._network("original")
        data = self.pick(forget)
        examples = adversarial.nearest(network, *data, **ATTACK)
        return Case(network, data, None if retain is None else self.pick(retain), examples, self._fixed() | {"seed": 7})

    def _own(
        self, network: nn.Module, size: int, forget: NDArray[np.int64], retain: NDArray[np.int64], sampled: float
    ) -> nn.Module:
        strength = self.load(f"rehearsal {size} {sampled}")["strength"]
        data = self.pick(forget)
        weights = membership.memorisation_weights(
            self.signals(), forget, scale=strength["weight_scale"], power=1.0, spread=True, seed=7
        )
        return amun.unlearn(
            network,
            data,
            self.pick(retain),
            adversarial=adversarial.nearest(network, *data, **ATTACK),
            form="retain+adversarial",
            weights=torch.from_numpy(weights),
            learning_rate=strength["learning_rate"],
            retain_share=sampled,
            schedule="linear",
            seed=7,
            **self._fixed(),
        )

    def _goal(self, share: float, number: int) -> dict[str, float]:
        runs = [self.load(f"Retrain | {share} | {number} | {seed}") for seed in range(self.scale.retrained)]
        return paper_report.mean_of(runs)

    def _timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        self._finish()
        started = time.perf_counter()
        outcome = work()
        self._finish()
        return outcome, round(time.perf_counter() - started, 2)

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    main()
