"""What benchmarks.load writes for people: a table and a plot of its document."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Document = dict[str, Any]


def table(document: Document) -> str:
    """The results as Markdown."""
    machine = document["machine"]
    lines = [
        "# Deletion requests under load",
        "",
        f"POST /v1/deletion-requests with ten samples and an Idempotency-Key each, on loopback, {document['stored']:,} "
        "requests stored before; generator, database, API processes with the dispatcher, and worker on one machine. Latency "
        "is the generator's, from sending to the whole answer, at a constant rate (the target's, or three quarters of what was "
        "reached as fast as it goes where that is less: beyond it latency tells of the queue alone); what was sent late, "
        f"because no connection was free, is shown beside it. Each row took {document['seconds']} s. Failed: any answer but "
        "202, and connections that broke.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, Python {machine['python']}, which adds ten million numbers "
        f"in {machine['additions_seconds']} s; load average "
        f"{document['began']['load_average'][0]:.1f} at the start. Command: `{document['command']}`.",
        "",
        *_cells(document),
        "",
        *_verdicts(document),
        "",
        "## As fast as it goes, and the ceiling",
        "",
        "The ceiling: the same rows (request, ten samples, erasure, event) inserted by plain SQLAlchemy into the same tables, "
        "without HTTP, look-ups or checks, by as many processes; in turns with the service, each turn as long as the other.",
        "",
        "| database | ceiling, transactions a second | service, accepted a second | share | failed |",
        "|---|---|---|---|---|",
    ]
    for name, found in document["databases"].items():
        ceiling = found["ceiling"]
        plain, service = (statistics.median(ceiling[part]) for part in ("plain", "service"))
        lines.append(f"| {name} | {plain:.0f} | {service:.0f} | {ceiling['share']:.2f} | {ceiling['service_failed']} |")
    lines += ["", "## Beside it", ""]
    for name, found in document["databases"].items():
        lines += [*_beside(name, found), ""]
    return "\n".join(lines).rstrip() + "\n"


def plot(document: Document, path: Path) -> None:
    """Latency by percentile, of each cell."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, found in document["databases"].items():
        for cell in found["cells"]:
            shares, values = zip(*cell["histogram_ms"], strict=True)
            axes.plot([1 / (1 - share) for share in shares], values, label=f"{name}, {cell['beside']}")
    limit = document["targets"]["p99_ms"]
    axes.axhline(limit, color="grey", linestyle=":", label=f"{limit} ms")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([2, 10, 100, 1000, 10_000], ["50", "90", "99", "99.9", "99.99"])
    axes.set_xlabel("percentile of the answers")
    axes.set_ylabel("milliseconds")
    axes.legend()
    figure.savefig(path, dpi=120)


def _cells(document: Document) -> Iterator[str]:
    yield (
        "| database | beside | asked a second | accepted a second | p50 | p95 | p99 | failed | sent late, p99 | API, ms of "
        "processor a request | machine busy |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, found in document["databases"].items():
        for cell in found["cells"]:
            latency = " | ".join(f"{cell['latency_ms'][part]:.0f} ms" for part in ("p50", "p95", "p99"))
            yield (
                f"| {name} | {cell['beside']} | {cell['asked_rate']} | {cell['accepted_a_second']:.0f} | {latency} | "
                f"{cell['failed']} | {cell['sent_late_ms']['p99']} ms | {cell['api_ms_a_request']:.1f} | "
                f"{cell['machine_busy']:.0%} |"
            )


def _verdicts(document: Document) -> Iterator[str]:
    """Each target, and whether it was met."""
    targets = document["targets"]
    for name, found in document["databases"].items():
        idle, busy = found["cells"]
        accepted = idle["accepted_a_second"]
        ratio = busy["latency_ms"]["p99"] / max(idle["latency_ms"]["p99"], 1e-9)
        failed = sum(cell["failed"] for cell in found["cells"])
        worst = max(found["selectors"])
        for target, value, met in (
            (f"{targets['rate'][name]} accepted a second", f"{accepted:.0f}", accepted >= 0.99 * targets["rate"][name]),
            (
                f"p99 under {targets['p99_ms']} ms",
                f"{idle['latency_ms']['p99']:.0f} ms",
                idle["latency_ms"]["p99"] < targets["p99_ms"],
            ),
            ("none failed", str(failed), failed == 0),
            ("p99 at most doubled beside a job", f"{ratio:.2f}", ratio <= 2),
            (
                f"10,000 selectors under {targets['selectors_seconds']:.0f} s",
                f"{worst:.2f} s",
                worst < targets["selectors_seconds"],
            ),
        ):
            yield f"- {name}: {target}: {value}, {'met' if met else '**not met**'}"


def _beside(name: str, found: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    for cell in found["cells"]:
        gets = ", ".join(
            f"{get} {values.get('p99_ms', 0):.0f} ms ({values['calls']} calls)" for get, values in cell["gets"].items()
        )
        memory = ", ".join(f"{process} {before} to {after}" for process, (before, after) in cell["memory_mb"].items())
        yield f"- {cell['beside']}: p99 of GETs: {gets}; not answered 200: {cell['gets_failed']}."
        yield f"  Resident MB before and after: {memory}. Load average {cell['load_average'][0]:.1f} at the end."
    job, backlog, log = found["job"], found["backlog"], found["log"]
    yield f"- the job: kind {job['kind']}, in phase {job['phase']} at the end, attempts {job['attempts']}."
    yield (
        f"- events unsealed as the load ended: {backlog['unsealed']:,}; all sealed after {backlog['sealed_after_seconds']} s; "
        f"the log of {log['sealed']:,} events {'verifies' if log['intact'] else '**does not verify**'}."
    )
    seconds = ", ".join(f"{each:.2f}" for each in found["selectors"])
    yield f"- seconds of requests with 10,000 selectors: {seconds}. Lists with 100,000 requests stored: lists.md."
