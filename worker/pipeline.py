"""One job on files: ``python -m worker.pipeline PLAN.json OUT_DIR``, with no database.

Prints one JSON line for each `Progress`, writes its files and, last of all, result.json. Exit status 0: succeeded; 1: it
failed for the reason in result.json; 28: there was no space even for that file. A GPU that is lost ends the process without
a result, like anything else that kills it. Several GPUs share a job by ``torchrun --standalone --nproc-per-node N -m
worker.pipeline PLAN.json OUT_DIR``.
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import errno
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from worker import plan as agreed
from worker.jobs import memory
from worker.jobs.audit import audit
from worker.jobs.device import environment
from worker.jobs.failures import Failed, refused_as
from worker.jobs.outputs import Outputs
from worker.jobs.progress import Reporter
from worker.jobs.ranks import GRACE_SECONDS, HALVED, Ranks
from worker.jobs.register import register
from worker.jobs.train import train
from worker.jobs.unlearn import unlearn
from worker.unlearning import images

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def perform(plan: agreed.Plan, outputs: Outputs, report: Reporter) -> Any:
    """The outcome of a plan as its result's dataclass."""
    if isinstance(plan, agreed.RegisterPlan):
        return register(plan, outputs, report)
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    if isinstance(plan, agreed.TrainPlan):
        return train(plan, outputs, report)
    return unlearn(plan, outputs, report) if isinstance(plan, agreed.UnlearnPlan) else audit(plan, report)


def halved(plan: agreed.Plan) -> agreed.Plan:
    """The same plan with half as many images at a time, so that its result stays comparable.

    Training keeps its batches and its steps, and sums the gradients of two halves; another batch size would be another
    recipe than that of the references. Of a search each image is its own, so there the batch itself is half.
    """
    if isinstance(plan, agreed.RegisterPlan):
        return plan
    attack = dataclasses.replace(plan.attack, batch_size=max(1, plan.attack.batch_size // 2))
    if isinstance(plan, agreed.AuditPlan):
        return dataclasses.replace(plan, attack=attack)
    recipe = dataclasses.replace(plan.recipe, accumulate=2 * plan.recipe.accumulate)
    unlearn = dataclasses.replace(plan.unlearn, accumulate=2 * plan.unlearn.accumulate)
    return dataclasses.replace(plan, recipe=recipe, attack=attack, unlearn=unlearn)


def _perform_in_memory(
    plan: agreed.Plan, outputs: Outputs, report: Reporter, ranks: Ranks, halve: bool
) -> tuple[Any, bool]:
    """`perform`, and once more with half the batch where memory ran out; the second value tells whether it did."""
    if not halve:
        try:
            return perform(plan, outputs, report), False
        except (torch.OutOfMemoryError, MemoryError):
            pass  # the exception holds every tensor of the failed run: it must be gone before the next
        outputs.remove()
        if ranks.count > 1:
            ranks.begin_again()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    try:
        return perform(halved(plan), outputs, report), True
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise Failed("oom", str(error) or type(error).__name__) from error


def run(
    plan_path: Path, folder: Path, stream: TextIO, ranks: Ranks | None = None, *, halve: bool = False
) -> agreed.Result:
    """Do the job of ``plan_path`` in ``folder`` and write result.json; progress goes to ``stream``.

    Args:
        ranks: the processes that share the job; all of them are here, and the first one writes.
        halve: begin with half of every batch size.
    """
    crew = ranks or Ranks()
    outputs, report, kind = Outputs(folder, kept=crew.first), Reporter(stream), "unknown"
    written = threading.Lock()  # never released: what is said first of the end of the job stands

    def failed(failure: agreed.Failure) -> agreed.Result:
        outputs.remove()
        where = environment(crew.count, crew.devices)
        return agreed.Result(
            kind=kind,
            status="failed",
            seconds=report.seconds,
            environment=where,
            peak_memory=memory.peaks(),
            error=failure,
        )

    def write(result: agreed.Result, content: str) -> agreed.Result:
        written.acquire()
        with images.durable(folder / agreed.RESULT_FILE) as file:
            file.write(content.encode())
        return result

    def on_failure_of_another(failure: agreed.Failure | None) -> None:
        if failure is None:
            outputs.remove()
            return
        result = failed(failure)
        write(result, agreed.dump(result))
        os._exit(1)  # the main thread waits for the one that failed

    try:
        with refused_as("plan_invalid", ValueError, TypeError, OSError):
            plan = agreed.load_plan(plan_path)
        kind = plan.kind
        if isinstance(plan, agreed.RegisterPlan):  # files are read by one process
            crew = Ranks(crew.number)
            if not crew.first:
                return agreed.Result(kind=kind, status="succeeded", seconds={}, environment=environment())
        with crew.joined(HALVED if halve else "", on_failure_of_another):
            outcome, batches_halved = _perform_in_memory(plan, outputs, report, crew, halve)
        result = agreed.Result(
            kind=kind,
            status="succeeded",
            seconds=report.seconds,
            environment=environment(crew.count, crew.devices),
            files=outputs.listed(),
            peak_memory=memory.peaks(),
            batches_halved=batches_halved,
            outcome=dataclasses.asdict(outcome),
        )
        content = agreed.dump(result)
    except torch.AcceleratorError:
        outputs.remove()
        raise  # whatever this process does next on the GPU fails too; another attempt may find it well again
    except Exception as error:
        failure = _failure(error)
        if failure.code == "internal":
            sys.excepthook(type(error), error, error.__traceback__)
        if not crew.first:
            crew.hand_over(failure)
        if crew.count > 1 and failure.code == "internal":
            time.sleep(GRACE_SECONDS)
        result = failed(failure)
        content = agreed.dump(result)
    return write(result, content) if crew.first else result


def _failure(error: Exception) -> agreed.Failure:
    if isinstance(error, Failed):
        return agreed.Failure(error.code, str(error))
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return agreed.Failure("disk_full", f"no space was left for {error.filename or 'a file'}")
    return agreed.Failure("internal", f"{type(error).__name__}: {error}")


def _die_with_supervisor() -> None:
    """End this process, whatever it is doing, when the other end of its standard input is closed."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.pipeline", description=__doc__)
    parser.add_argument("plan", type=Path, metavar="PLAN.json")
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="made where it does not exist")
    parser.add_argument("--supervised", action="store_true", help="exit when standard input ends")
    parser.add_argument(HALVED, action="store_true", help=argparse.SUPPRESS)  # of ranks that begin again
    options = parser.parse_args(arguments)
    # Not to walk through all of torch for garbage, now and then and at the end, where that alone takes a second of a core.
    gc.freeze()
    atexit.register(gc.freeze)
    # A parent may have passed on that it ignores this signal.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if options.supervised:
        _die_with_supervisor()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may not repeat its results
    options.folder.mkdir(parents=True, exist_ok=True)
    ranks = Ranks.from_environment()
    try:
        with open(os.devnull, "w") as nowhere:
            result = run(
                options.plan, options.folder, sys.stdout if ranks.first else nowhere, ranks, halve=options.halved
            )
        status = 0 if result.status == "succeeded" else 1
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        status = agreed.NO_SPACE_STATUS
    if ranks.count > 1:
        sys.stdout.flush()
        os._exit(status)  # of a job that failed, the process group may wait for ever to be taken down
    return status


if __name__ == "__main__":
    sys.exit(main())
