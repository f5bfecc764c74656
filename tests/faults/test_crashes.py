"""Killed at every edge between two effects: whatever was done by then, a fresh process brings it to its end, once."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from models.crashes import POINTS
from tests.faults.conftest import WELL_BEHAVED, Pair
from tests.faults.plays import Play, play
from tests.faults.scene import ASKED, MODEL

ROOT = Path(__file__).resolve().parents[2]
KILLED = -signal.SIGKILL
WELL = {
    "requests": dict.fromkeys(ASKED, "completed"),
    "certified": True,
    "sets": ["ready"],
    "models": {MODEL: "ready"},
    "failed": [],
}
CANCELLED = {
    "requests": {"two images": "on_hold", "a control": "completed"},
    "certified": False,
    "failed": ["cancelled"],
}
FAILED = {"requests": {"two images": "failed", "a control": "completed"}, "certified": False, "failed": ["oom"]}
EMPTY = {"requests": {}, "sets": [], "models": {}}


@dataclass(frozen=True)
class Case:
    """``options`` misbehave in the first process alone; ``ends`` is what differs from `WELL`."""

    point: str
    stage: str = "asked"
    act: str = "go_on"
    again: str | None = None  # None: the act once more
    options: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.point}-{self.stage}-{self.act}-{'-'.join(map(str, self.options.values()))}".rstrip("-")


ANY_JOB = (
    "claim.before_commit",
    "claim.after_commit",
    "staging.made",
    "plan.written",
    "child.started",
    "publish.collected",
    "staging.removed",
)
FILES_OF_A_JOB = ("finish.published", "finish.before_commit", "finish.after_commit")
ROUND = (
    "dispatch.leased",
    "hint.sent",
    "seal.before_commit",
    "seal.after_commit",
    "fan_out.before_commit",
    "fan_out.after_commit",
    "send.claimed",
    "send.posted",
    "send.after_commit",
)
ERASING = ("erase.buried", "erase.overwritten", "erase.after_commit")
AFTER_FORGETTING = (
    "destroy.file_gone",
    "destroy.after_commit",
    "signals.overwritten",
    *ERASING,
    "certify.planned",
)
REGISTERED = {"requests": {}, "models": {}}
TRAINED = {"requests": {}}
A_CONTROL = {"requests": {"a control": "completed"}}
OUT_OF_MEMORY = {"kind": "unlearn", "fail": "oom"}
LOST = {"kind": "unlearn", "exit": 3}
SLOW = {"kind": "unlearn", "sleep": 0.5}
CASES = [
    Case("request.before_commit", "empty", "register", ends=REGISTERED),
    Case("request.after_commit", "registered", "train", ends=TRAINED),
    Case("request.before_commit", "trained", "ask_and_wait"),
    Case("request.after_commit", "trained", "ask_and_wait"),
    Case("request.before_commit", "asked", "hold_and_resume"),
    Case("request.after_commit", "asked", "hold_and_resume"),
    *(Case(point, "registered", "train", ends=TRAINED) for point in (*ANY_JOB, *FILES_OF_A_JOB, *ROUND)),
    *(Case(point, "empty", "register", ends=REGISTERED) for point in FILES_OF_A_JOB),
    *(Case(point) for point in (*FILES_OF_A_JOB, "claim.after_commit", "child.ended")),
    *(Case(point, "forgotten") for point in (*FILES_OF_A_JOB, "certificate.written", "staging.removed")),
    Case("register.refused", "empty", "register", ends=REGISTERED),
    Case("report.written"),
    Case("signing.key_kept"),
    Case("finish.taken_back", act="cancel_at_the_end", again="go_on", options=SLOW, ends=CANCELLED),
    Case("stop.after_commit", options=OUT_OF_MEMORY, ends=FAILED),
    Case("stop.before_commit", options=LOST),
    Case("stop.after_commit", options=LOST),
    Case("stop.after_commit", act="shut_down", again="go_on", options=SLOW),
    Case("sweep.after_commit", act="lose_a_worker", again="go_on"),
    Case("plan.after_model", "trained", "ask_two_models", ends={"models": {MODEL: "ready", "second": "ready"}}),
    *(Case(point, "forgotten") for point in AFTER_FORGETTING),
    *(Case(point, "trained", "ask_for_a_control", ends=A_CONTROL) for point in ERASING),
    Case("retire.signals_gone", act="retire", ends={"models": {MODEL: "retired"}}),
    Case("uploads.published", "registered", "upload", ends=REGISTERED),
    Case("uploads.condemned", "registered", "upload", again="go_on", ends=REGISTERED),
    Case("uploads.gone", "registered", "upload", again="go_on", ends=REGISTERED),
    Case("remind.after_commit", act="remind"),
    Case("orphans.removed", "trained", "leave_an_orphan", again="go_on", ends=TRAINED),
    Case("prune.after_commit", "trained", "grow_old", again="go_on", ends=TRAINED),
    Case("migrate.before_commit", "bare", "migrate", ends=EMPTY),
]


def test_every_crash_point_is_died_at() -> None:
    assert {case.point for case in CASES} == set(POINTS)


def test_the_product_has_the_crash_points_that_are_listed() -> None:
    found = {
        name
        for folder in ("models", "service", "worker", "migrations")
        for file in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'crash_point\("([^"]+)"\)', file.read_text())
    }
    assert found == set(POINTS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_was_begun_comes_to_its_end_once(pair: Pair, case: Case) -> None:
    settings = pair.at(case.stage, **case.options)
    died = play(Play(settings, case.act, pair.receiver, crash=case.point))
    assert died.exitcode == KILLED, died.told.get("error", f"it never came to {case.point}")
    well = settings.model_copy(update={"pipeline": WELL_BEHAVED})
    recovered = play(Play(well, case.again or case.act, pair.receiver, recovers=True)).told
    assert recovered.pop("error", None) is None
    assert recovered.pop("violations") == []
    assert recovered == WELL | case.ends
