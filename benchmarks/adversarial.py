"""The nearest adversarial examples: ours beside DeepFool, DDN, FMN and Carlini-Wagner of three libraries.

    python -m benchmarks.adversarial [--data FOLDER] [--images 300] [--threads 1] [--device cpu]

The same network, images and device for every method, one after the other in three rounds (so that what else the machine
does meets all alike), each time in a fresh process of its own; the best time counts. The network
is trained first, on CIFAR-10 (FOLDER holds train/CLASS/*.jpg) or, without a folder, on scikit-learn's digits; the images
are some that it was trained on and classifies rightly, as a forget set is. Passes are counted on the network, not taken
from a library's word, and what a method returns is judged by one float32 pass: the label differs and every pixel lies in
[0, 1]. Peers come from benchmarks/requirements.txt (`make bench`); a missing one is named and left out.
Writes benchmarks/results/adversarial-cifar.* or adversarial-digits.*.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks import cifar, machine
from worker.unlearning import _torchvision, adversarial, images, networks, training

RESULTS = Path(__file__).parent / "results"
SERVICE: dict[str, Any] = {
    "method": "boundary",
    "batch_size": 512,
    "rival_classes": 2,
    "steps": 50,
    "bisections": 8,
    "eps_start": 0.04,
    "doublings": 12,
}
RECIPE: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "augment": False,
}
PUBLISHED = "ours, pgd (the paper's)"
OURS = "ours, boundary"
ROUNDS = 3

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10 as class folders; without it: digits")
    parser.add_argument("--network", default="small-cnn", choices=["small-cnn", "resnet18"])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network, inputs, labels = prepared(options.data, options.network, options.images)
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.pt"
        torch.save((network, inputs, labels), case)
        found: dict[str, dict[str, Any]] = {}
        for number in range(ROUNDS):
            for name in ATTACKS:
                one = in_its_own_process(name, case, options.threads, options.device)
                if "missing" not in one and number:
                    one = found[name] | {"seconds": min(one["seconds"], found[name]["seconds"])}
                found[name] = one
                print(number, name, one, flush=True)
    data = "cifar" if options.data else "digits"
    document = {
        "machine": machine.describe() | ({} if options.device == "cuda" else {"gpu": None}),
        "data": data,
        "network": options.network,
        "images": len(inputs),
        "shape": list(inputs.shape[1:]),
        "methods": found,
    }
    RESULTS.mkdir(exist_ok=True)
    suffix = data if options.device == "cpu" else f"{data}-gpu"
    (RESULTS / f"adversarial-{suffix}.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / f"adversarial-{suffix}.md").write_text(table(document, f"adversarial-{suffix}.png"))
    plot(document).savefig(RESULTS / f"adversarial-{suffix}.png", dpi=130)
    print(table(document, f"adversarial-{suffix}.png"))


def prepared(data: Path | None, name: str, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network and training images that it classifies rightly."""
    if data:
        inputs, labels = cifar.load(data, "train", 5000, seed=0)
    else:
        pixels, classes, _ = images.digits()
        inputs, labels = (
            training.laid_out(torch.from_numpy(pixels[:900]).float() / 255),
            torch.from_numpy(classes[:900]),
        )
    torch.manual_seed(0)
    shape = (int(inputs.shape[1]), int(inputs.shape[2]), int(inputs.shape[3]))
    network = networks.build(name, shape=shape, classes=10, width=16)
    training.train(network, inputs, labels, **RECIPE, seed=0)
    right = (training.infer(network, inputs).argmax(1) == labels).nonzero()[:count, 0]
    return network, inputs[right].clone(), labels[right].clone()


def in_its_own_process(name: str, case: Path, threads: int, device: str) -> dict[str, Any]:
    """What `measured` says, from a new process, so that its peak of memory is its own; an error as its message."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (name, case, threads, device))


def measured(name: str, case: Path, threads: int, device: str) -> dict[str, Any]:
    torch.set_num_threads(threads)
    network, inputs, labels = torch.load(case, weights_only=False)  # nosec B614 # written by this run
    network, inputs, labels = network.to(device).eval(), inputs.to(device), labels.to(device)
    try:
        attack = ATTACKS[name]()
    except ModuleNotFoundError as error:
        return {"missing": str(error)}
    attack(network, inputs[:16], labels[:16])  # imports and first allocations
    counter = Passes(network)
    with Memory(device) as memory:
        outcome = attack(network, inputs, labels).detach()
    counter.remove()
    started = time.perf_counter()
    attack(network, inputs, labels)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    flipped = (training.infer(network, outcome).argmax(1) != labels) & ((outcome >= 0) & (outcome <= 1)).flatten(1).all(
        1
    )
    distances = (outcome - inputs).flatten(1).norm(dim=1)[flipped].cpu().numpy()
    return {
        "flipped": float(flipped.float().mean()),
        "mean": float(distances.mean()) if len(distances) else None,
        "median": float(np.median(distances)) if len(distances) else None,
        "p95": float(np.quantile(distances, 0.95)) if len(distances) else None,
        "forward": counter.forward / len(inputs),
        "backward": counter.backward / len(inputs),
        "seconds": seconds,
        "megabytes": memory.peak / 1e6,
    }


class Memory:
    """Bytes above what was in use at the beginning: the allocator's own peak on a GPU, resident memory on a CPU."""

    def __init__(self, device: str) -> None:
        self.device, self.peak, self._ended = device, 0.0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._start = self._used()
        if self.device == "cpu":
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self.device == "cpu":
            self._watcher.join()
        else:
            self.peak = torch.cuda.max_memory_allocated() - self._start

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.peak = max(self.peak, self._used() - self._start)

    def _used(self) -> float:
        if self.device == "cuda":
            return float(torch.cuda.memory_allocated())
        return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Passes:
    """Counts the images that go through a network, and those whose gradient comes back."""

    def __init__(self, network: nn.Module) -> None:
        self.forward = self.backward = 0
        self._handle = network.register_forward_hook(self._passed)

    def _passed(self, network: nn.Module, inputs: Any, logits: Tensor) -> None:
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._came_back)

    def _came_back(self, slope: Tensor) -> None:
        # Images that have crossed may ride along with a gradient of zero; they cost their pass all the same.
        self.backward += len(slope)

    def remove(self) -> None:
        self._handle.remove()


def ours(**changes: Any) -> Callable[[], Attack]:
    def load() -> Attack:
        return lambda network, inputs, labels: adversarial.nearest(network, inputs, labels, **SERVICE | changes).inputs

    return load


def torchattacks_deepfool() -> Attack:
    _torchvision.classifier("resnet18", classes=2, side=32)  # declares what its import needs
    import torchattacks

    return lambda network, inputs, labels: torchattacks.DeepFool(network, steps=50, overshoot=0.02)(inputs, labels)


def adv_lib(name: str, **options: Any) -> Callable[[], Attack]:
    def load() -> Attack:
        _torchvision.classifier("resnet18", classes=2, side=32)
        if importlib.util.find_spec("visdom") is None:
            sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # it plots with it, which no attack needs
        import adv_lib.attacks

        attack = getattr(adv_lib.attacks, name)
        return lambda network, inputs, labels: attack(network, inputs, labels, **options)

    return load


def foolbox(name: str, **options: Any) -> Callable[[], Attack]:
    def load() -> Attack:
        import foolbox as library

        attack = getattr(library.attacks, name)(**options)

        def run(network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            model = library.PyTorchModel(network, bounds=(0, 1), device=inputs.device)
            _, clipped, _ = attack(model, inputs, library.criteria.Misclassification(labels), epsilons=None)
            return clipped  # type: ignore[no-any-return]

        return run

    return load


ATTACKS: dict[str, Callable[[], Attack]] = {
    OURS: ours(),
    "ours, boundary, one rival": ours(rival_classes=1),
    PUBLISHED: ours(method="pgd"),
    "torchattacks DeepFool": torchattacks_deepfool,
    "adv-lib DDN, 100 steps": adv_lib("ddn", steps=100),
    "adv-lib DDN, 20 steps": adv_lib("ddn", steps=20),
    "adv-lib FMN, 100 steps": adv_lib("fmn", norm=2, steps=100),
    "adv-lib FMN, 20 steps": adv_lib("fmn", norm=2, steps=20),
    "foolbox DeepFool": foolbox("L2DeepFoolAttack", steps=50, candidates=10, overshoot=0.02),
    "foolbox DDN, 100 steps": foolbox("DDNAttack", steps=100),
    "foolbox FMN, 100 steps": foolbox("L2FMNAttack", steps=100),
    "foolbox Carlini-Wagner, 3 x 100 steps": foolbox("L2CarliniWagnerAttack", binary_search_steps=3, steps=100),
}


def targets(methods: dict[str, dict[str, Any]]) -> list[str]:
    """Whether each target is met, in words."""
    mine, published = methods[OURS], methods[PUBLISHED]
    ratio = published["seconds"] / mine["seconds"]
    better = [
        name
        for name, one in methods.items()
        if "ours" not in name
        and one.get("flipped", 0) >= mine["flipped"]
        and one["mean"] < mine["mean"]
        and one["seconds"] < mine["seconds"]
    ]
    return [
        f"- Every sample flipped: {'met' if mine['flipped'] == 1 else 'MISSED'} ({mine['flipped']:.1%}).",
        f"- At least 25 times faster than the eps-doubling PGD: {'met' if ratio >= 25 else 'MISSED'} ({ratio:.1f} times), "
        f"at no larger mean distance: {'met' if mine['mean'] <= published['mean'] else 'MISSED'} "
        f"({mine['mean']:.4f} against {published['mean']:.4f}).",
        f"- No peer both faster and closer: {'met' if not better else 'MISSED: ' + ', '.join(better)}.",
    ]


def table(document: dict[str, Any], picture: str) -> str:
    """The results as Markdown."""
    methods = document["methods"]
    lines = [
        f"# Nearest adversarial examples on {'CIFAR-10' if document['data'] == 'cifar' else 'digits'}",
        "",
        f"{document['images']} images of {' x '.join(map(str, document['shape']))} that {document['network']} was trained on "
        "and classifies rightly; l2 distances, pixels in [0, 1]; passes of an image on average; the best of "
        f"{ROUNDS} rounds; memory above that of the loaded network and images.",
        "",
        machine.line(document["machine"]),
        "",
        "| method | flipped | mean | median | 95% | forward | backward | seconds | against ours | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in sorted(methods.items(), key=lambda item: item[1].get("seconds", np.inf)):
        if "missing" in one:
            lines.append(f"| {name} | not installed: {one['missing']} | | | | | | | | |")
            continue
        distances = " | ".join(f"{one[key]:.4f}" if one[key] is not None else "" for key in ("mean", "median", "p95"))
        lines.append(
            f"| {name} | {one['flipped']:.1%} | {distances} | {one['forward']:.1f} | {one['backward']:.1f} | "
            f"{one['seconds']:.2f} | {one['seconds'] / methods[OURS]['seconds']:.1f} | {one['megabytes']:.0f} |"
        )
    return "\n".join([*lines, "", "## Targets", "", *targets(methods), "", f"![distance against cost]({picture})", ""])


def plot(document: dict[str, Any]) -> Figure:
    """Mean distance against seconds, numbered as in the legend; a cross where not every sample was flipped."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    found = [(name, one) for name, one in document["methods"].items() if one.get("mean") is not None]
    for number, (name, one) in enumerate(sorted(found, key=lambda item: item[1]["seconds"]), start=1):
        colour = "#D55E00" if name.startswith("ours") else "#0072B2"
        share = "" if one["flipped"] == 1 else f" ({one['flipped']:.0%} flipped)"
        marker = "o" if one["flipped"] == 1 else "x"
        axes.plot(one["seconds"], one["mean"], marker, color=colour, linestyle="none", label=f"{number}  {name}{share}")
        axes.annotate(str(number), (one["seconds"], one["mean"]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel=f"seconds for {document['images']} images", ylabel="mean l2 distance")
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.yaxis.set_minor_formatter("{x:.2f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
