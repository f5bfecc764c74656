"""The gate: whether a new version is released or kept back. Pure functions of what was measured and of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.parameters import Policy
from models.rehearsals import rehearsal_failed

RULE = (
    "released where the privacy verdict is pass or exact and accuracy is within its tolerance; an inconclusive verdict "
    "follows the policy; anything else is quarantined until a person decides"
)


@dataclass(frozen=True)
class Gate:
    """``reason`` says why in words for people; ``cause`` is None for a release, else utility, privacy or inconclusive."""

    released: bool
    cause: str | None
    reason: str

    @property
    def decision(self) -> str:
        return "released" if self.released else "quarantined"


def decide(verdict: str, utility_passed: bool, policy: Policy, rehearsed: dict[str, Any] | None, size: int) -> Gate:
    """The decision about a new version.

    Args:
        verdict: of privacy, `worker.plan.UnlearnResult.verdict`.
        utility_passed: the second verdict.
        rehearsed: `worker.plan.RehearsedStrength` at the nearest size, as a dictionary.
        size: forget samples of the job.
    """
    if verdict in ("over_unlearned", "under_unlearned"):
        return Gate(False, "privacy", f"audit verdict: {verdict}")
    if verdict == "inconclusive":
        if policy.inconclusive == "wait_for_batch":
            return Gate(False, "inconclusive", "too few samples to tell: it waits for more requests, by its policy")
        if policy.inconclusive == "retrain":
            return Gate(False, "inconclusive", "too few samples to tell, and it could not be retrained")
        why_not = rehearsal_failed(policy, rehearsed, size)
        if why_not is not None:
            return Gate(
                False, "inconclusive", f"too few samples to tell, and rehearsal does not vouch for it: {why_not}"
            )
    if not utility_passed:
        return Gate(False, "utility", "utility: accuracy on never-trained images fell by more than its tolerance")
    reasons = {
        "exact": "trained from the start without the samples",
        "pass": "the audit passed and accuracy is within its tolerance",
        "inconclusive": "too few samples to tell; rehearsal passed for this size, and accuracy is within its tolerance",
    }
    return Gate(True, None, reasons[verdict])


def of_outcome(outcome: dict[str, Any], policy: Policy, rehearsed: dict[str, Any] | None) -> Gate:
    """`decide` of a `worker.plan.UnlearnResult` as a dictionary."""
    return decide(outcome["verdict"], outcome["utility"]["passed"], policy, rehearsed, outcome["forget"])
