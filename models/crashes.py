"""Named crash points: edges between two effects at which a test has the process killed, to see that the rest still follows.

``AMUN_CRASH=finish.before_commit`` kills, with SIGKILL to itself, whichever process comes to that point. Nothing else ever
happens here: without the variable a point costs one look into the environment.
"""

from __future__ import annotations

import os
import signal
from types import MappingProxyType

VARIABLE = "AMUN_CRASH"

# Name -> what is done by then, and what is not.
POINTS = MappingProxyType(
    {
        "request.before_commit": "a handler has written all its rows; nothing is committed, nobody was answered",
        "request.after_commit": "the rows of a POST or of a decision are committed; nobody was answered",
        "claim.before_commit": "a job is claimed in an open transaction",
        "claim.after_commit": "a job is running by its row; there is no heartbeat and no folder yet",
        "staging.made": "the attempt's folder is there, and empty",
        "plan.written": "plan.json is on the disk; no child was started",
        "child.started": "the child runs",
        "child.ended": "the child has ended; its result was not read",
        "register.refused": "rows of refused content are overwritten in the staging folder",
        "report.written": "an audit report is written and signed in the staging folder",
        "certificate.written": "a certificate, or an edition of a report, is written and signed in the staging folder",
        "signing.key_kept": "the file of a new signing key is there, and no row",
        "publish.collected": "what will be published is apart from the rest, still in the staging folder",
        "finish.published": "the files are in their place; no transaction was begun",
        "finish.before_commit": "the files are in their place, every row is written and nothing committed",
        "finish.after_commit": "the job has succeeded; its staging folder is still there",
        "finish.taken_back": "a fenced or overtaken attempt has removed its files; its job was not moved",
        "staging.removed": "the attempt is over and its folder gone",
        "stop.before_commit": "a job that ends other than well is moved in an open transaction of the worker",
        "stop.after_commit": "it is moved; the staging folder is still there",
        "dispatch.leased": "a dispatcher holds the lease and has done nothing",
        "sweep.after_commit": "one job with an expired lease was given back or failed; others may be left",
        "plan.after_model": "erasures of one model are attached to a new job; others may be left",
        "hint.sent": "a message is with the broker; the row does not say so",
        "destroy.file_gone": "a checkpoint is gone; its version does not say so",
        "destroy.after_commit": "one version is destroyed; others may be left",
        "retire.signals_gone": "signals of a retired model are gone; its row names them",
        "signals.overwritten": "signals of forgotten samples are zeros; the erasure does not say so",
        "erase.buried": "samples are tombstones; their pixels are still there",
        "erase.overwritten": "pixels and signals are zeros; the request does not say so",
        "erase.after_commit": "one request's samples are erased; others may be left",
        "uploads.published": "an upload is in its place; no row names it",
        "uploads.condemned": "an upload is taken away from its place while its row is locked",
        "uploads.gone": "an upload's file is gone; its row is not",
        "certify.planned": "one certify job is queued; others may be left",
        "remind.after_commit": "due dates were told of; the log's warning was not written",
        "seal.before_commit": "seals are inserted in an open transaction",
        "seal.after_commit": "events are sealed; nobody was told of them",
        "orphans.removed": "one folder that no row names was removed; others may be left",
        "prune.after_commit": "old deliveries of webhooks are gone",
        "fan_out.before_commit": "deliveries are inserted and the cursor moved in an open transaction",
        "fan_out.after_commit": "deliveries wait to be sent",
        "send.claimed": "deliveries are claimed; nothing was posted",
        "send.posted": "the receiver has answered; no row says so",
        "send.after_commit": "the attempt is written down",
        "migrate.before_commit": "a migration has changed tables in an open transaction",
    }
)


class UnknownCrashPoint(ValueError):
    """There is no crash point of this name: see models.crashes.POINTS."""


def known(name: str) -> str:
    """The name itself. Raises UnknownCrashPoint."""
    if name not in POINTS:
        raise UnknownCrashPoint(f"there is no crash point {name!r}: {VARIABLE} may be one of {', '.join(POINTS)}")
    return name


def crash_point(name: str) -> None:
    """Kill this process here if AMUN_CRASH says so. Raises UnknownCrashPoint for a name that is not in `POINTS`."""
    if os.environ.get(VARIABLE) == known(name):
        os.kill(os.getpid(), signal.SIGKILL)
