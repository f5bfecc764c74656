"""The result of benchmarks/chaos.py as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

PIECES = {"service": "an API process", "worker": "a worker", "redis": "Redis", "db": "PostgreSQL"}


def table(document: dict[str, Any]) -> str:
    machine, options, settings = document["machine"], document["options"], document["settings"]
    jobs = ", ".join(f"{number} {kind}" for kind, number in sorted(document["jobs"].items()))
    attempts = ", ".join(f"{jobs} in {number}" for number, jobs in document["attempts"].items())
    requeued = ", ".join(f"{number} x {reason}" for reason, number in sorted(document["requeued"].items()))
    posts, wrong = document["posts"], document["wrong"]
    lines = [
        "# Everything is killed at random",
        "",
        f"`{document['command']}`",
        "",
        "The compose topology as processes: two API processes, two workers, Redis with its append-only file, PostgreSQL with "
        f"fsync. {options['jobs']} deletion requests to {options['models']} models, each a job of its own, and "
        f"{options['kills']} SIGKILLs. Lease {settings['lease']:.0f} s, heartbeat {settings['heartbeat']:.0f} s, dispatcher "
        f"every {settings['dispatch']:.0f} s (the defaults). The child replays a recorded result in "
        f"{options['job_seconds']} s; reports and certificates are written and signed.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, Python {machine['python']}; other work beside it.",
        "",
        "| what | found |",
        "|---|---|",
        f"| lost, twice, or wrong in rows, files or log | {len(wrong)} |",
        f"| jobs that succeeded | {jobs} |",
        f"| attempts that they took | {attempts} |",
        f"| given back to the queue | {requeued or 'none'} |",
        f"| POSTs accepted, repeated ones included | {posts['accepted']} |",
        f"| tries that got no answer or a 5xx | {posts['sent_again']} |",
        f"| from the first request until every client was through | {document['seconds']:.0f} s |",
        "",
        f"Seconds from a kill until the service did again what the killed process is for (limit "
        f"{document['limit_seconds']:.0f}):",
        "",
        "| killed | kills | what came again | times | median | worst |",
        "|---|---|---|---|---|---|",
    ]
    for piece, name in PIECES.items():
        kills = sum(kill["name"].partition("-")[0] == piece for kill in document["kills"])
        ours = [one for one in document["recoveries"] if one["piece"] == piece]
        for what in dict.fromkeys(one["what"] for one in ours):
            seconds = [one["seconds"] for one in ours if one["what"] == what]
            cells = f"{len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f}"
            lines.append(f"| {name} | {kills} | {what} | {cells} |")
    if wrong:
        lines += ["", "Wrong:", "", *(f"- {one}" for one in wrong)]
    return "\n".join(lines) + "\n"
