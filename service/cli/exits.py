"""Exit statuses that scripts can rely on."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2  # Typer's own
    REFUSED = 3
    UNAVAILABLE = 4
    WAITS = 5
    TIMED_OUT = 6


INTERRUPTED = 130  # 128 + SIGINT, as shells have it

MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "the job or request failed, was cancelled or rejected, or what was fetched is not what was signed",
    Exit.USAGE: "wrong usage",
    Exit.REFUSED: "the service refused (4xx)",
    Exit.UNAVAILABLE: "the service is unreachable or failed (5xx)",
    Exit.WAITS: "it waits for a person: awaiting approval or release, or on hold",
    Exit.TIMED_OUT: "--timeout passed",
}
EXITS = "Exit status: " + "; ".join(f"{int(status)} {meaning}" for status, meaning in MEANINGS.items()) + "."
VERIFIER_EXITS = (
    "Exit status, the verifier's: 0 verified against trusted keys; 1 something is wrong; 2 unreadable, or not there to be "
    "fetched; 3 integrity only, no trusted key was given. 4: the service is unreachable or failed."
)
