"""Faults that only a GPU can show: memory that runs out, a GPU that is lost, memory given back, a cancel inside a kernel.

    python -m benchmarks.gpu_faults             on a machine with a GPU, about ten minutes
    python -m benchmarks.gpu_faults --rehearse  on a CPU: the same children and judgements, with faults that are raised

Drives ``python -m worker.pipeline`` itself, so it needs no more than that does. Writes benchmarks/results/gpu-faults.json and
gpu-faults.md; a rehearsal writes nothing. Exit status 0: everything was seen that must be; 1: something was not; 2: there is no
GPU. Memory is filled by this process, down to what a trial is to find free: no other process should use the GPU meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from worker import plan as agreed

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
NO_GPU = 2
CHILD_SECONDS, CANCEL_SECONDS = 5.0, 15.0  # until a killed worker's and a cancelled job's child must be gone
TERM_SECONDS = 3.0  # as worker.supervise waits from SIGTERM to SIGKILL
GIVEN_BACK = 64 * 2**20  # bytes of the GPU that may be missing after a child has gone
SHRINK = 0.88  # from one trial's free memory to the next
TRIALS = 30
PATIENCE = 400.0

# Children that meet a fault in the midst of a training. The pipeline itself is the real one.
FAULTY = """
import sys, time, torch
from worker import pipeline
from worker.unlearning import training
finite, cuda = training.finite, torch.cuda.is_available()
def faulty(loss, epoch):
    {fault}
    return finite(loss, epoch)
training.finite = faulty
sys.exit(pipeline.main())
"""
LOST = """if not cuda:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")
    torch.zeros(1, device="cuda")[torch.tensor([10**6], device="cuda")].sum().item()"""
IN_A_KERNEL = """print('{"phase":"in a kernel","progress":0.5}', flush=True)
    if cuda:
        torch.cuda._sleep(2 * 10**11)
        torch.cuda.synchronize()
    time.sleep(120)"""


@dataclasses.dataclass(frozen=True)
class Seen:
    """One judgement."""

    row: int  # of the fault matrix, docs/faults.md
    fault: str
    must: str
    found: str
    right: bool


class Bench:
    """A training job of random images, on the GPU or, in a rehearsal, a small one on the CPU."""

    def __init__(self, folder: Path, rehearse: bool) -> None:
        self.folder, self.rehearse = folder, rehearse
        self.device = "cpu" if rehearse else "cuda"
        self._number = 0
        rows, side = (240, 8) if rehearse else (6144, 32)
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (rows, 3, side, side), dtype=np.uint8)
        (folder / "pixels.u8").write_bytes(pixels.tobytes())
        (folder / "labels.i32").write_bytes(generator.integers(0, 10, rows, dtype=np.int32).tobytes())
        (folder / "digests.bin").write_bytes(b"".join(hashlib.sha256(row.tobytes()).digest() for row in pixels))
        self.plan = self._plan(rows, side)

    def _plan(self, rows: int, side: int) -> agreed.TrainPlan:
        data = agreed.DataFiles(
            pixels=str(self.folder / "pixels.u8"),
            labels=str(self.folder / "labels.i32"),
            digests=str(self.folder / "digests.bin"),
            rows=rows,
            shape=(3, side, side),
            classes=[str(label) for label in range(10)],
        )
        common: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4, "augment": False, "mixed_precision": False}
        batch = 32 if self.rehearse else 2048
        recipe = agreed.RecipeSpec(
            epochs=2, batch_size=batch, learning_rate=0.05, schedule="constant", compiled=False, **common
        )
        return agreed.TrainPlan(
            data=data,
            network=agreed.NetworkSpec(
                name="small-cnn" if self.rehearse else "resnet18", width=4 if self.rehearse else 64
            ),
            recipe=recipe,
            train=list(range(rows * 2 // 3)),
            controls=list(range(rows * 2 // 3, rows)),
            references=4,
            rehearsal=agreed.RehearsalSpec(
                models=1,
                sizes=[20],
                requests=1,
                shown_on=1,
                learning_rates=[0.01],
                weight_scales=[1.0],
                tolerance_accuracy=1.0,
            ),
            attack=agreed.AttackSpec(
                method="boundary",
                batch_size=256,
                rival_classes=2,
                steps=10,
                bisections=4,
                eps_start=0.04,
                doublings=4,
                mixed_precision=False,
            ),
            unlearn=agreed.UnlearnSpec(
                form="retain+adversarial",
                weight_scale=1.0,
                weight_power=1.0,
                weight_spread=False,
                learning_rate=0.01,
                schedule="constant",
                epochs=1,
                batch_size=batch,
                retain_share=1.0,
                saliency_share=None,
                **common,
            ),
            audit=agreed.AuditSpec(
                tolerance=0.1, tolerance_membership=0.5, level=0.05, rmia_offline_a=0.3, rmia_gamma=1.0
            ),
            seed=1,
            threads=None,
        )

    @contextmanager
    def child(self, plan: agreed.TrainPlan, fault: str = "", **environment: str) -> Iterator[Child]:
        """The pipeline at work, as the worker's supervisor starts it; killed at the end where it still runs."""
        self._number += 1
        out = self.folder / f"job-{self._number}"
        out.mkdir()
        (out / agreed.PLAN_FILE).write_text(agreed.dump(plan))
        program = ["-c", FAULTY.replace("{fault}", fault)] if fault else ["-m", "worker.pipeline"]
        with (out / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *program, str(out / agreed.PLAN_FILE), str(out), "--supervised"],
                cwd=ROOT,
                env={**os.environ, "AMUN_DEVICE": self.device, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        made = Child(process, out)
        try:
            yield made
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            made.close()

    def free(self) -> int:
        """Bytes of the GPU that nobody holds; 0 in a rehearsal."""
        return 0 if self.rehearse else int(torch.cuda.mem_get_info()[0])


class Child:
    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder
        self.phases: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.phases.append(json.loads(line)["phase"])

    def reach(self, phase: str) -> None:
        wait(lambda: phase in self.phases or self.process.poll() is not None, PATIENCE)
        if phase not in self.phases:
            raise SystemExit(f"the child ended before its phase {phase!r}: {(self.folder / 'log').read_text()[-2000:]}")

    def gone(self, seconds: float) -> float:
        """Seconds until it has ended; more than ``seconds`` where it has not by then."""
        return wait(lambda: self.process.poll() is not None, seconds)

    def result(self) -> agreed.Result | None:
        path = self.folder / agreed.RESULT_FILE
        return agreed.load_result(path) if path.exists() else None

    def close(self) -> None:
        self._reader.join(5)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def wait(ready: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while not ready() and time.monotonic() - started <= seconds:
        time.sleep(0.02)
    return time.monotonic() - started


def forever(plan: agreed.TrainPlan) -> agreed.TrainPlan:
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, epochs=100_000))


def no_gpu(bench: Bench) -> list[Seen]:
    """Row 6, with the GPU hidden from the child."""
    with bench.child(bench.plan, CUDA_VISIBLE_DEVICES="", AMUN_DEVICE="cuda") as child:
        child.gone(PATIENCE)
        result = child.result()
    code = result.error.code if result and result.error else "a result"
    return [Seen(6, "no GPU under AMUN_DEVICE=cuda", "failed(no_gpu), never the CPU", code, code == "no_gpu")]


def lost_gpu(bench: Bench) -> list[Seen]:
    """Row 4: the context of a running child is spoilt by a kernel that fails."""
    with bench.child(bench.plan, LOST) as child:
        child.gone(PATIENCE)
        status, result = child.process.returncode, child.result()
    found = f"exit status {status}, {'no result' if result is None else 'a result'}"
    must = "ends without a result, so that the attempt is counted and another made"
    return [Seen(4, "GPU lost in the midst of a job", must, found, result is None and status not in (0, None))]


def given_back(bench: Bench) -> list[Seen]:
    """Row 3: the child is killed, or its worker is, which closes the pipe that it watches."""
    seen = []
    for how in ("child killed", "worker killed"):
        before = bench.free()
        with bench.child(forever(bench.plan)) as child:
            child.reach("train")
            time.sleep(0 if bench.rehearse else 5)
            held = before - bench.free()
            if how == "child killed":
                child.process.kill()
            elif child.process.stdin is not None:
                child.process.stdin.close()
            seconds = child.gone(CHILD_SECONDS)
            back = seconds + wait(lambda before=before: bench.free() >= before - GIVEN_BACK, CHILD_SECONDS - seconds)
        found = f"gone after {seconds:.2f} s, {held / 2**20:,.0f} MiB back after {back:.2f} s"
        right = back <= CHILD_SECONDS and (bench.rehearse or held > GIVEN_BACK)
        seen.append(Seen(3, how, f"no process and its memory back within {CHILD_SECONDS:.0f} s", found, right))
    return seen


def cancelled(bench: Bench) -> list[Seen]:
    """Row 23: SIGTERM while one kernel runs for minutes, and SIGKILL where that is not heard."""
    before = bench.free()
    with bench.child(bench.plan, IN_A_KERNEL) as child:
        child.reach("in a kernel")
        time.sleep(0.5)
        child.process.terminate()
        seconds = child.gone(TERM_SECONDS)
        if child.process.poll() is None:
            child.process.kill()
            seconds += child.gone(CANCEL_SECONDS)
        back = seconds + wait(lambda: bench.free() >= before - GIVEN_BACK, CANCEL_SECONDS)
        versions = child.result()
    right = back <= CANCEL_SECONDS - 10.4 and versions is None  # beside a heartbeat of 10 s and two looks
    must = f"gone within {CANCEL_SECONDS:.0f} s less the heartbeat of 10 s, no result"
    return [
        Seen(
            23, "cancelled inside a kernel", must, f"gone after {seconds:.2f} s, memory back after {back:.2f} s", right
        )
    ]


def outcome_of(bench: Bench, fault: str = "") -> tuple[str, float | None]:
    """How one job ends, and how much of its training images the model knows."""
    with bench.child(bench.plan, fault) as child:
        child.gone(PATIENCE)
        result = child.result()
    if result is None:
        return "no result", None
    if result.status == "failed":
        return result.error.code if result.error else "failed", None
    assert result.outcome is not None
    return ("halved" if result.batches_halved else "whole"), result.outcome["accuracy_train"]


def out_of_memory(bench: Bench) -> list[Seen]:
    """Row 5: less and less memory is left free, until a job passes in halves, and until that does not fit either."""
    ends = list(rehearsed_ends(bench) if bench.rehearse else shrinking_ends(bench))
    order = [end for number, (end, _, _) in enumerate(ends) if number == 0 or end != ends[number - 1][0]]
    told = ", ".join(f"{end} with {free / 2**20:,.0f} MiB" for end, free, _ in ends)
    must = "whole, then halved (a result all the same), then failed(oom), as memory shrinks"
    return [Seen(5, "CUDA out of memory", must, told, order == ["whole", "halved", "oom"])]


def shrinking_ends(bench: Bench) -> Iterator[tuple[str, int, float | None]]:
    free = bench.free()
    for _ in range(TRIALS):
        ballast = torch.empty(max(1, bench.free() - free), dtype=torch.uint8, device="cuda")
        end, accuracy = outcome_of(bench)
        yield end, free, accuracy
        del ballast
        torch.cuda.empty_cache()
        if end not in ("whole", "halved"):
            return
        free = int(free * SHRINK)


def rehearsed_ends(bench: Bench) -> Iterator[tuple[str, int, float | None]]:
    """A device that holds so many images of a batch, in place of one that is full."""
    batch = bench.plan.recipe.batch_size
    for holds in (batch, batch // 2, batch // 4):
        end, accuracy = outcome_of(bench, HOLDS.replace("{holds}", str(holds)))
        yield end, holds * 2**20, accuracy


HOLDS = """pass
parts = training.parts
def held(count, accumulate):
    made = parts(count, accumulate)
    if max(part.stop - part.start for part in made) > {holds}:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return made
training.parts = held
def faulty(loss, epoch):"""

TRIED = (no_gpu, lost_gpu, given_back, cancelled, out_of_memory)


def markdown(seen: Sequence[Seen], about: str) -> str:
    lines = ["# Faults on a GPU", "", "`python -m benchmarks.gpu_faults`. " + about, ""]
    lines += ["| row | fault | what must be seen | what was seen | |", "|---:|---|---|---|---|"]
    lines += [
        f"| {one.row} | {one.fault} | {one.must} | {one.found} | {'as it must be' if one.right else 'NOT'} |"
        for one in seen
    ]
    return "\n".join(lines) + "\n"


def show(seen: Sequence[Seen]) -> None:
    table = Table("row", "fault", "must be seen", "was seen", "right")
    for one in seen:
        table.add_row(str(one.row), one.fault, one.must, one.found, "yes" if one.right else "NO")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_faults", description=__doc__)
    parser.add_argument(
        "--rehearse", action="store_true", help="on the CPU, with faults that are raised; writes nothing"
    )
    rehearse = parser.parse_args(arguments).rehearse
    if not rehearse and not torch.cuda.is_available():
        print("torch finds no GPU, so nothing was measured and nothing written. --rehearse tries the script on a CPU.")
        return NO_GPU
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), rehearse)
        seen = [one for trial in TRIED for one in trial(bench)]
    show(seen)
    if rehearse:
        print("A rehearsal on the CPU: its faults were raised, no GPU was looked at, and nothing was written.")
    else:
        found = {"machine": machine.describe(), "seen": [dataclasses.asdict(one) for one in seen]}
        (RESULTS / "gpu-faults.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "gpu-faults.md").write_text(markdown(seen, machine.line(found["machine"])))
    return 0 if all(one.right for one in seen) else 1


if __name__ == "__main__":
    sys.exit(main())
