"""The fault matrix: what must be seen of each fault, and, found by their marks, the tests that show it.

``python -m tests.faults.matrix.table`` writes docs/faults.md anew; a test compares.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "faults.md"
GPU, BROKER = "benchmarks/gpu_faults.py", "benchmarks/broker.py"

# Number -> the fault, what must be seen.
ROWS = {
    1: ("API killed before or after the commit of a request", "sent again under the same key it is one request"),
    2: (
        "worker killed while it loads, attacks, fine-tunes, audits or saves",
        "another worker finishes the job within 90 s; one version. By the defaults at most 62 s pass until the next worker "
        "is told: the lease of 45 s, 15 s for a dispatcher that died too, two rounds of 1 s",
    ),
    3: (
        "worker killed after its files are in place and before the commit",
        "the orphan (owner/job.token) is swept and the winner's files stay; no child is on the GPU after 5 s",
    ),
    4: (
        "out of memory (killed), segmentation fault, GPU lost in the midst of a job",
        "the attempt is counted; the third one fails the job with `worker_lost` and the signal",
    ),
    5: (
        "CUDA out of memory",
        "once more with half as many images at a time: training keeps its batches and sums the gradients of two halves, "
        "searches take half as many images, evaluations as few as fit; `batches_halved` in result and report. Then "
        "failed(`oom`)",
    ),
    6: (
        "no GPU under `AMUN_DEVICE=cuda`, or one that does not answer",
        "queued again in 60 s with an alert in the log, the attempt not counted; never the CPU in silence",
    ),
    7: (
        "broker down, hung, flushed or full",
        "requests are answered as fast as with it (one after another within 250 ms), for nothing of one waits for the broker; "
        "everything runs once it is back, and what was flushed after at most 60 s, doubling to 10 min",
    ),
    8: ("a message delivered twice", "the second claim is refused"),
    9: ("worker paused beyond its lease", "it is fenced: its child is stopped and nothing of it is written"),
    10: (
        "database locked or cut off; a commit that happened and is reported failed",
        "503 with Retry-After; nothing half written, nothing twice",
    ),
    11: (
        "disk full, of files or of the database",
        "failed(`disk_full`), before the job starts where that can be foreseen (three times the checkpoint, or to train three "
        "times the set, must be free), a registration at its first image; or 503. It recovers",
    ),
    12: ("checkpoint flipped, cut short, of another network, with NaN, or a pickle", "refused before use"),
    13: ("a row of a report or of the log edited", "named by the verification"),
    14: ("100 equal requests at once", "one row"),
    15: ("samples that are unknown, repeated, erased, or controls", "an answer for each selector"),
    16: (
        "a forget set that is empty, larger than the set, a whole class, over half",
        "422, 422, approval needed, approval needed",
    ),
    17: ("new requests while a job runs", "they wait for the next job, which starts from the released version"),
    18: ("the loss becomes NaN; accuracy falls below the floor", "failed; quarantined (`utility`), the parent serves"),
    19: ("membership above the limit", "quarantined, and signed as failed"),
    20: ("an image that is bad, huge or missing", "failed(`data_error`), naming which"),
    21: ("the data set has changed since it was registered", "failed(`dataset_changed`)"),
    22: ("SIGTERM", "the job is released, the attempt not counted, no process left"),
    23: (
        "a job cancelled, in each phase",
        "its child is gone within 15 s, whatever it does (heartbeat 10 s, SIGTERM, SIGKILL after 3 s); no version",
    ),
    24: ("a migration killed half-way", "the old schema with every row, on both databases; it runs when started again"),
    25: ("two dispatchers at once", "no effect twice"),
}
MEASURED = dict.fromkeys((3, 4, 5, 6, 23), GPU) | {7: BROKER}  # rows that a script shows too

HEAD = """# Faults and what is seen of them

Each row is shown by the tests beside it, on SQLite with messages in a folder and on PostgreSQL with Redis where they differ.
After a fault one oracle (`tests/oracle`) looks at rows, files and the log: every accepted request exists; each has ended or
has a live job; versions are as many as finished jobs; every file has its hash; the log verifies; nothing is left over.
What only a GPU can show is measured by `python -m benchmarks.gpu_faults` on a machine that has one, and how long answers take
without a broker by `python -m benchmarks.broker`.

This page is written by `python -m tests.faults.matrix.table` from the marks of the tests, and a test compares it with them.

| row | fault | what must be seen | shown by |
|---:|---|---|---|
"""


@lru_cache(maxsize=1)
def marked() -> dict[int, list[str]]:
    """For each row the tests that are marked with it, as ``file::test``, sorted."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        everywhere = [
            number
            for node in tree.body
            if isinstance(node, ast.Assign)
            and any(isinstance(to, ast.Name) and to.id == "pytestmark" for to in node.targets)
            for number in _numbers([node.value])
        ]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in [*everywhere, *_numbers(node.decorator_list)]:
                    found[number].add(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return {number: sorted(tests) for number, tests in sorted(found.items())}


def _numbers(expressions: list[ast.expr]) -> list[int]:
    """Of marks ``pytest.mark.fault(7)``."""
    return [
        call.args[0].value  # type: ignore[attr-defined]
        for expression in expressions
        for call in ast.walk(expression)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault"
    ]


def page() -> str:
    """docs/faults.md as it should be."""
    tests = marked()
    lines = []
    for number, (fault, seen) in ROWS.items():
        by_file: defaultdict[str, list[str]] = defaultdict(list)
        for test in tests.get(number, []):
            file, _, name = test.partition("::")
            by_file[file].append(name)
        shown = [
            f"`{file}`: {', '.join(name.removeprefix('test_') for name in names)}" for file, names in by_file.items()
        ]
        if number in MEASURED:
            shown.append(f"`{MEASURED[number]}`")
        lines.append(f"| {number} | {fault} | {seen} | {'<br>'.join(shown)} |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
