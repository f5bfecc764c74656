"""One replayed job: ``python -m tests.replaying [OPTIONS] PLAN.json OUT_DIR --supervised``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.replaying import files, outcomes
from worker import plan as agreed

PHASES = {
    "register": agreed.REGISTER_PHASES,
    "train": agreed.TRAIN_PHASES,
    "unlearn": agreed.UNLEARN_PHASES,
    "audit": agreed.AUDIT_PHASES,
}
ENVIRONMENT = dict.fromkeys(("device", "hardware", "python", "torch", "code_version"), "replay") | {"threads": 1}


def main() -> int:
    options = arguments()
    if options.supervised:
        threading.Thread(target=_exit_with_supervisor, daemon=True).start()
    plan = agreed.load_plan(options.plan)
    misbehaves = options.kind in (None, plan.kind) and _first_time(options.once)
    phases = PHASES[plan.kind]
    for number, phase in enumerate(phases):
        progress = {"phase": phase, "progress": number / len(phases), "step": "replayed", "eta_seconds": None}
        print(json.dumps(progress), flush=True)
        time.sleep(options.seconds / len(phases))
        if misbehaves and phase == (options.at or phases[0]):
            code = _misbehave(options)
            if code is not None:
                _write_result(options.folder, plan.kind, error={"code": code, "detail": "as replayed"})
                return 1
    return _succeed(options, plan, misbehaves)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.replaying", description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--supervised", action="store_true", help="exit when standard input ends")
    parser.add_argument("--rows", type=int, help="of a set that is registered; default: as many as were recorded")
    parser.add_argument("--case", choices=outcomes.CASES, help="what an unlearn job finds; default: by its size")
    parser.add_argument("--scores", action="store_true", help="keep single scores, of which reports draw plots")
    parser.add_argument("--seconds", type=float, default=0.0, help="that the whole job takes")
    wrong = parser.add_argument_group("misbehaviour")
    wrong.add_argument("--kind", choices=PHASES, help="in jobs of this kind alone")
    wrong.add_argument("--once", type=Path, help="only while this file is not there; it is made")
    wrong.add_argument("--at", help="phase in which it happens; default: the first")
    wrong.add_argument("--sleep", type=float, help="seconds")
    wrong.add_argument("--signal", help="kill itself: KILL, SEGV, ...")
    wrong.add_argument("--exit", type=int, help="end with this status and no result")
    wrong.add_argument("--fail", choices=agreed.ERROR_CODES, help="fail with this code")
    wrong.add_argument("--flipped", action="store_true", help="change a file after its sha256 was taken")
    wrong.add_argument("--nan", action="store_true", help="a NaN among what was measured")
    return parser.parse_args()


def _first_time(once: Path | None) -> bool:
    if once is None:
        return True
    try:
        once.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _misbehave(options: argparse.Namespace) -> str | None:
    """The code of a failure, if there is to be one."""
    if options.sleep is not None:
        time.sleep(options.sleep)
    if options.signal is not None:
        os.kill(os.getpid(), signal.Signals[f"SIG{options.signal}"])
    if options.exit is not None:
        os._exit(options.exit)
    return options.fail  # type: ignore[no-any-return]


def _succeed(options: argparse.Namespace, plan: agreed.Plan, misbehaves: bool) -> int:
    outcome = outcomes.of(plan, case=options.case, rows=options.rows, scores=options.scores)
    contents = files.of(plan, outcome)
    listed = [files.write(options.folder / name, content) for name, content in contents.items()]
    if misbehaves and options.flipped:
        name = next(iter(contents))
        (options.folder / name).write_bytes(contents[name][:-1] + b"?")
    if misbehaves and options.nan:
        (outcome.get("after") or outcome)["utility"] = {"controls": float("nan")}
    _write_result(options.folder, plan.kind, outcome=outcome, listed=listed)
    return 0


def _write_result(
    folder: Path,
    kind: str,
    *,
    outcome: dict[str, Any] | None = None,
    error: dict[str, str] | None = None,
    listed: list[dict[str, Any]] | None = None,
) -> None:
    result = {
        "kind": kind,
        "status": "failed" if error else "succeeded",
        "seconds": dict.fromkeys(PHASES[kind], 0.01),
        "environment": ENVIRONMENT,
        "files": listed or [],
        "error": error,
        "outcome": outcome,
    }
    draft = folder / f".{agreed.RESULT_FILE}"
    draft.write_text(json.dumps(result))
    os.replace(draft, folder / agreed.RESULT_FILE)


def _exit_with_supervisor() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # no buffer: Python waits a second for its lock at the end, and aborts
        pass
    os._exit(9)


if __name__ == "__main__":
    sys.exit(main())
