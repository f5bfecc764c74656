"""A pipeline child that replays: recorded results of real jobs, fitted to the plan it is given, in a tenth of a second.

The recordings are of the demo's case on scikit-learn's digits; see tests/worker/report/record.py. Measurements are theirs, files
are made up: as many rows as the plan has, and a checkpoint that differs from job to job. It imports no torch and no numpy.

    settings = Settings(pipeline=replaying.command(rows=60))
    settings = Settings(pipeline=replaying.command(kind="unlearn", at="finetune", signal="KILL", once=folder / "killed"))

For small requests to be released, rehearse a size near theirs: the recorded rehearsal vouches for the sizes of the plan.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(**options: object) -> str:
    """The value of AMUN_PIPELINE that replays with these options of `tests.replaying.__main__`, from any working folder."""
    words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.replaying"]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value not in (None, False):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
