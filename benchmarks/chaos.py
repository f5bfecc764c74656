"""Is anything lost, done twice or left wrong while everything is killed at random?

    python -m benchmarks.chaos [--jobs 300] [--kills 30] [--models 5] [--seed 1] [--job-seconds 0.8]

Runs the whole of docker-compose.yml as processes (tests/topology.py) with production's lease, heartbeat and dispatcher. The
child that runs jobs replays recorded results in --job-seconds; reports and certificates are written and signed as always. For
each model one client sends one deletion request after the other, so that each is a job of its own; another one for each API
process sends the first request again every second, with its key. Meanwhile API processes, workers, Redis and PostgreSQL get
SIGKILL at moments drawn by --seed, and start again after 0.5 to 5 s. Then the oracle of the fault tests (tests/oracle) reads
rows, files and the log. Writes benchmarks/results/chaos.json and chaos.md; exit status 1 if anything was lost, done twice,
wrong, or took more than 90 s to recover.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import func, select

from benchmarks.chaos_recovery import recoveries
from benchmarks.chaos_run import PATIENCE_SECONDS, Run, kill_at_random, probe, send
from benchmarks.chaos_table import table
from benchmarks.footprint import processor
from models.records import DeletionRequest, Event, Job, JobStatus
from models.session import Database
from service.duties import sealing, sweeping
from service.webhooks import outbox
from tests import oracle, replaying
from tests.caller import Accepted, Caller, keys
from tests.container import wait_for
from tests.topology import Topology

RESULTS = Path(__file__).parent / "results"
LIMIT_SECONDS = 90.0
POLICY = {"references": 4, "rehearsal": {"models": 2, "sizes": [2]}, "retrain_share": 1.0}


def main() -> None:
    options = arguments()
    console = Console()
    pipeline = replaying.command(rows=4 * math.ceil(options.jobs / options.models) + 40, seconds=options.job_seconds)
    with Topology(pipeline=pipeline) as topology:
        database = Database(topology.settings.database)
        names = [f"shop-{number}" for number in range(options.models)]
        made, urls = keys(topology.settings, names), [topology.url(api) for api in topology.apis]
        run = Run(
            topology,
            database,
            options,
            Caller(urls, made["operator"]),
            [Caller(urls, made[name], PATIENCE_SECONDS) for name in names],
            [Caller([url], made[names[0]], PATIENCE_SECONDS) for url in urls],
        )
        prepare(run)
        started = time.monotonic()
        with progress(console) as shown:
            chaos(run, shown)
        document = conclude(run, time.monotonic() - started)
        if document["wrong"]:
            console.print(topology.tails(20_000), markup=False)
        database.dispose()
    document["command"] = f"python -m benchmarks.chaos {shlex.join(sys.argv[1:])}".strip()
    if not options.no_results:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "chaos.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / "chaos.md").write_text(table(document))
    console.print(table(document), markup=False)
    raise SystemExit(1 if document["wrong"] else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300, help="that unlearn")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--job-seconds", type=float, default=0.8, help="that the child takes for a job")
    parser.add_argument("--no-results", action="store_true", help="print the table and write nothing")
    options = parser.parse_args()
    if options.jobs % options.models or options.kills >= options.jobs:
        parser.error("--jobs must be a multiple of --models, and more than --kills")
    return options


def progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def prepare(run: Run) -> None:
    """A training set and a trained model for each client."""
    for number in range(run.options.models):
        made = {
            "name": f"set-{number}",
            "applications": [f"shop-{number}"],
            "source": {"kind": "builtin", "path": "digits"},
            "controls": {"share": 0.5},
        }
        model = {"name": f"model-{number}", "training_set": f"set-{number}", "network": {"name": "small-cnn"}}
        _ended(run, run.operator.ask("POST", "/v1/training-sets", json=made).json()["job"]["id"])
        answer = run.operator.ask("POST", "/v1/models", json={**model, "recipe": {}, "policy": POLICY})
        _ended(run, answer.json()["job"]["id"])


def _ended(run: Run, job: str) -> None:
    wait_for(f"the end of job {job}", lambda: run.operator.get(f"/v1/jobs/{job}")["status"] == "succeeded")


def chaos(run: Run, shown: Progress) -> None:
    """All clients send their requests while the killer kills; returns once both are through."""
    bars = {"jobs": shown.add_task("jobs", total=run.options.jobs)}
    bars["kills"] = shown.add_task("kills", total=run.options.kills)
    with ThreadPoolExecutor(2 * run.options.models + len(run.probes) + 1) as pool:
        clients = [pool.submit(send, run, number, shown, bars["jobs"]) for number in range(run.options.models)]
        beside = [pool.submit(probe, run, caller) for caller in run.probes]
        beside.append(pool.submit(kill_at_random, run, shown, bars["kills"]))
        for client in as_completed(clients):
            if client.exception() is not None:
                run.wrong.append(f"a client gave up: {client.exception()}")
        run.over.set()
        run.wrong += [f"{future.exception()}" for future in as_completed(beside) if future.exception() is not None]
    run.topology.wait_healthy(run.topology.lasting)


def conclude(run: Run, seconds: float) -> dict[str, Any]:
    """Wait for the certificates, stop everything in order, and look at all of it."""
    posts = [accepted for caller in (*run.callers, *run.probes) for accepted in caller.accepted]
    accepted = {post.id for post in posts}
    try:
        wait_for("the certificate of every request", lambda: _certified(run) >= len(accepted), PATIENCE_SECONDS)
    except TimeoutError as error:
        run.wrong.append(str(error))
    with ThreadPoolExecutor() as pool:
        names = [*run.topology.apis, *run.topology.workers]
        for name, in_time in zip(names, pool.map(lambda name: run.topology[name].stop(), names), strict=True):
            if not in_time:
                run.wrong.append(f"{name} did not stop within its grace period")
    # What the dispatcher's next round would do.
    sweeping.orphaned_files(run.database, run.topology.settings)
    sealing.seal_events(run.database)
    outbox.fan_out(run.database)
    run.wrong += oracle.violations(run.database, run.topology.settings, accepted)
    run.wrong += _counted(run, len(accepted))
    urls = {name: run.topology.url(name) for name in run.topology.apis}
    found = recoveries(run.database, run.kills, posts, urls)
    run.wrong += [f"{one['what']} after {one['seconds']} s" for one in found if one["seconds"] > LIMIT_SECONDS]
    return _document(run, seconds, posts, found)


def _certified(run: Run) -> int:
    with run.database.read() as session:
        certified = DeletionRequest.certified_at.is_not(None)
        return session.scalar(select(func.count()).select_from(DeletionRequest).where(certified)) or 0


def _counted(run: Run, accepted: int) -> list[str]:
    """As many requests, unlearn jobs and kills as there should be, and no job that failed."""
    with run.database.read() as session:
        requests = session.scalar(select(func.count()).select_from(DeletionRequest))
        failed = session.scalar(select(func.count()).select_from(Job).where(Job.status != JobStatus.SUCCEEDED))
    wanted, found = run.options.jobs, {"accepted": accepted, "requests": requests, "unlearn jobs": run.succeeded()}
    wrong = [f"{number} {what} instead of {wanted}" for what, number in found.items() if number != wanted]
    if failed:
        wrong.append(f"{failed} jobs did not succeed")
    if len(run.kills) != run.options.kills:
        wrong.append(f"{len(run.kills)} kills instead of {run.options.kills}")
    return wrong


def _document(run: Run, seconds: float, posts: list[Accepted], found: list[dict[str, Any]]) -> dict[str, Any]:
    settings = run.topology.settings
    with run.database.read() as session:
        kinds = session.execute(select(Job.kind, func.count()).group_by(Job.kind)).all()
        attempts = session.execute(select(Job.attempts, func.count()).group_by(Job.attempts)).all()
        requeued = session.scalars(select(Event.data).where(Event.name == "job.requeued")).all()
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "settings": {name: getattr(settings, f"{name}_seconds") for name in ("lease", "heartbeat", "dispatch")},
        "options": {name: value for name, value in vars(run.options).items() if name != "no_results"},
        "seconds": round(seconds, 1),
        "jobs": {kind.value: number for kind, number in kinds},
        "attempts": {str(number): jobs for number, jobs in sorted(attempts)},
        "requeued": dict(Counter(data["reason"] for data in requeued)),
        "posts": {"accepted": len(posts), "sent_again": sum(post.attempts - 1 for post in posts)},
        "starts": {name: run.topology[name].starts for name in run.topology.lasting},
        "kills": [kill.told() for kill in run.kills],
        "recoveries": found,
        "limit_seconds": LIMIT_SECONDS,
        "wrong": run.wrong,
    }


if __name__ == "__main__":
    main()
