"""The pipeline, but rank 1 comes to grief as SPOILT says: ``python -m tests.worker.spoilt_rank PLAN.json OUT_DIR``."""

import os
import signal
import sys
import time

import torch

from worker import pipeline
from worker.jobs import unlearn
from worker.unlearning import amun

FITS = 32  # images that pass at a time


def out_of_memory(**options):
    if options["batch_size"] // options["accumulate"] > FITS:
        raise torch.OutOfMemoryError("out of memory")


def breaks(**_):
    raise RuntimeError("it is spoilt")


def is_killed(**_):
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(**_):
    time.sleep(120)


def first(spoil, work):
    def spoilt(*arguments, **options):
        spoil(**options)
        return work(*arguments, **options)

    return spoilt


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        how = os.environ["SPOILT"]
        if how == "out_of_memory":
            amun.unlearn = first(out_of_memory, amun.unlearn)
        else:
            unlearn.load_case = first(globals()[how], unlearn.load_case)
    sys.exit(pipeline.main())
