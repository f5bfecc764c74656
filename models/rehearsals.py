"""What rehearsal says of a request of some size. The worker's gate and what is told before a request is sent must agree."""

from __future__ import annotations

import math
from typing import Any

from models.parameters import Policy

REHEARSED_WITHIN = 10.0  # a size counts as rehearsed up to this factor from a rehearsed one
ONE_SIDED = 1.645


def nearest_strength(rehearsal: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """What was rehearsed (`worker.plan.RehearsedStrength`) at the size nearest to the request's, by ratio."""
    return min(rehearsal, key=lambda strength: abs(math.log(strength["size"] / size)))


def rehearsed(training: dict[str, Any] | None, size: int) -> dict[str, Any] | None:
    """`nearest_strength` of a model (`Model.training`), or None where nothing was rehearsed or nothing is to forget."""
    rehearsal = (training or {}).get("rehearsal", [])
    return nearest_strength(rehearsal, size) if rehearsal and size else None


def rehearsal_failed(policy: Policy, rehearsed: dict[str, Any] | None, size: int) -> str | None:
    """Why rehearsal is no evidence for a request of this size, or None where it is.

    It passed where the 90% interval of the pooled R lies within its tolerance and no more accuracy was lost than allowed.
    """
    if rehearsed is None:
        return "nothing was rehearsed"
    if abs(math.log(rehearsed["size"] / size)) > math.log(REHEARSED_WITHIN) + 1e-9:
        return f"the nearest rehearsed size is {rehearsed['size']}"
    error = rehearsed["membership_standard_error"]
    if error is None:
        return "a single rehearsed request has no error"
    tolerance = policy.audit.tolerance_membership
    if abs(rehearsed["membership"]) + ONE_SIDED * error >= tolerance:
        interval = f"{rehearsed['membership']:+.2f} ± {ONE_SIDED * error:.2f}"
        return f"the rehearsed R, {interval}, is not within {tolerance:.2f}"
    if rehearsed["accuracy_change_mean"] < -policy.utility.tolerance_accuracy:
        return f"rehearsal cost {-100 * rehearsed['accuracy_change_mean']:.1f} points of accuracy"
    return None
