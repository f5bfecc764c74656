"""How many deletion requests a second are accepted, and how long an answer takes, with and without a job beside it?

    python -m benchmarks.load [--seconds 600] [--stored 100000] [--only SQLite] [--rate 100]

On loopback, on one machine: uvicorn processes (one on SQLite, two on PostgreSQL and Redis) with the dispatcher in them, a
Celery worker, the database and the generator (wrk; on Debian: apt-get install wrk). Each request names ten samples and has
an Idempotency-Key of its own; rate limits are off. On each database, with 100,000 requests stored:

- the ceiling: the same rows inserted by plain SQLAlchemy, alternating with the service going as fast as it can;
- requests at the target's constant rate, or at three quarters of what it can do if that is less, for ``--seconds``, without
  a job and beside a real training on one thread;
- 10,000 selectors in one request.

Writes benchmarks/results/load.json, load.md and load.png; takes about an hour with the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from benchmarks import load_report
from benchmarks.footprint import processor
from benchmarks.lists import postgres
from benchmarks.load_generator import Counted, post, quantile, require_wrk
from benchmarks.load_servers import redis_server
from benchmarks.load_service import URL, Service, Training, Watch
from benchmarks.load_store import FIRST, Store, fill
from models.chain import verify_chain
from models.records import DeletionRequest, Event, EventSeal
from models.session import Database
from models.settings import Settings
from service import schema

RESULTS = Path(__file__).parent / "results"
TARGETS = {"SQLite": 150, "PostgreSQL": 250}  # accepted a second
PROCESSES = {"SQLite": 1, "PostgreSQL": 2}
P99_LIMIT_MS = 150
TURNS = 3  # of the ceiling and the service, alternating
EASY = 0.75  # of the rate that was reached in bursts
WRITERS = 8  # threads of each process that measures the ceiling, as the service has
SELECTORS, LARGE_RUNS, LARGE_LIMIT_SECONDS = 10_000, 5, 2.0
SEALED_WITHIN = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="of requests at a constant rate, for each cell")
    parser.add_argument("--burst", type=int, default=30, help="seconds of each turn as fast as it goes")
    parser.add_argument("--stored", type=int, default=100_000, help="requests in the database before")
    parser.add_argument("--only", choices=list(TARGETS), help="one database")
    parser.add_argument("--rate", type=int, help="requests a second instead of the target's")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for load.json, load.md and load.png")
    options = parser.parse_args()
    require_wrk()
    command = "python -m benchmarks.load " + " ".join(sys.argv[1:])
    document: dict[str, Any] = {
        "command": command.strip(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "additions_seconds": additions(),
        },
        "began": {"load_average": os.getloadavg()},
        "stored": options.stored,
        "seconds": options.seconds,
        "targets": {"rate": TARGETS, "p99_ms": P99_LIMIT_MS, "selectors_seconds": LARGE_LIMIT_SECONDS},
        "databases": {},
    }
    with tempfile.TemporaryDirectory(prefix="amun-load-") as name, postgres() as create, redis_server() as broker:
        folder = Path(name)
        urls = {"SQLite": (None, None), "PostgreSQL": (create(0), broker)}
        for database, (url, broker_url) in urls.items():
            if options.only in (None, database):
                data = folder / database
                data.mkdir()
                settings = Settings(data_dir=data, database_url=url, broker_url=broker_url, threads=1, rate_limit="")
                document["databases"][database] = measure(database, settings, options)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "load.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.results / "load.md").write_text(load_report.table(document))
    load_report.plot(document, options.results / "load.png")
    print(load_report.table(document))


def additions() -> float:
    """Seconds in which this interpreter adds ten million numbers: machines of one name differ threefold by the day."""
    taken = []
    for _ in range(3):
        started, total = time.perf_counter(), 0
        for number in range(10_000_000):
            total += number
        taken.append(time.perf_counter() - started)
    return round(min(taken), 2)


def measure(name: str, settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """Everything on one database."""
    schema.upgrade(settings)
    database = Database(settings.database)
    started = time.perf_counter()
    store = fill(database, settings, options.stored)
    print(f"{name}: {options.stored:,} requests stored in {time.perf_counter() - started:.0f} s", flush=True)
    with Service(settings, PROCESSES[name], settings.data_dir) as service:
        post(service.urls, store.owners, 3, None)  # connections, caches and compiled statements
        found: dict[str, Any] = {"ceiling": _bursts(name, settings, service, store, options.burst)}
        rate = options.rate or _asked_rate(name, found["ceiling"])
        found["cells"] = [_cell(name, "no job", service, store, options.seconds, rate)]
        with Training(service, store) as training:
            found["cells"].append(_cell(name, "a job", service, store, options.seconds, rate))
            found["job"] = _still_running(training.progress())
        found["backlog"] = _backlog(database)
        found["selectors"] = _large(service, store)
    found["log"] = _log(database)
    database.dispose()
    return found


def _bursts(name: str, settings: Settings, service: Service, store: Store, seconds: int) -> dict[str, Any]:
    """Requests a second of both, as fast as it goes, in turns: other work on the machine slows both."""
    found: dict[str, Any] = {"plain": [], "service": [], "service_failed": 0}
    for _ in range(TURNS):
        found["plain"].append(round(_plain(settings, PROCESSES[name], seconds), 1))
        counted = post(service.urls, store.owners, seconds, None)
        found["service"].append(round(counted.rate, 1))
        found["service_failed"] += counted.failed
    found["share"] = round(statistics.median(found["service"]) / statistics.median(found["plain"]), 2)
    print(f"{name}, as fast as it goes: {found}", flush=True)
    return found


def _asked_rate(name: str, bursts: dict[str, Any]) -> int:
    """The target's, or what leaves a quarter of what was reached in bursts: beyond it latency only tells of the queue."""
    return min(TARGETS[name], int(EASY * statistics.median(bursts["service"])))


def _plain(settings: Settings, processes: int, seconds: int) -> float:
    command = [sys.executable, "-m", "benchmarks.load_ceiling", settings.database, str(seconds), str(WRITERS)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    rates = []
    for process in running:
        number, took = process.communicate()[0].split()
        rates.append(int(number) / float(took))
    return sum(rates)


def _cell(name: str, beside: str, service: Service, store: Store, seconds: int, rate: int) -> dict[str, Any]:
    with Watch(service, store) as watch:
        counted = post(service.urls, store.owners, seconds, rate)
    found = {"beside": beside, "asked_rate": rate} | _posts(counted) | watch.found()
    found["api_ms_a_request"] = round(1000 * watch.api_seconds / max(1, counted.accepted), 2)
    print(f"{name}, {beside}: { {part: found[part] for part in found if part != 'histogram_ms'} }", flush=True)
    return found


def _posts(counted: Counted) -> dict[str, Any]:
    return {
        "seconds": round(counted.seconds, 1),
        "accepted": counted.accepted,
        "accepted_a_second": round(counted.rate, 1),
        "failed": counted.failed,
        "answers": counted.answers,
        "latency_ms": {f"p{share}": quantile(counted.latency, share / 100) / 1000 for share in (50, 95, 99)}
        | {"max": max(counted.latency, default=0) / 1000},
        "sent_late_ms": {"p99": quantile(counted.late, 0.99), "max": max(counted.late, default=0)},
        "histogram_ms": _histogram(counted),
    }


def _histogram(counted: Counted) -> list[list[float]]:
    """Latency at each of the percentiles that the plot shows."""
    shares = [each / 100 for each in range(1, 100)] + [0.995, 0.999, 0.9999]
    return [[share, quantile(counted.latency, share) / 1000] for share in shares]


def _still_running(job: dict[str, Any]) -> dict[str, Any]:
    if job["status"] != "running":
        raise RuntimeError(f"the job beside the load ended while it was measured: {job['status']}, {job['error']}")
    return {"kind": job["kind"], "phase": job["phase"], "progress": job["progress"], "attempts": job["attempts"]}


def _backlog(database: Database) -> dict[str, Any]:
    """Events that no seal covers as soon as the load ends, and how long until all are sealed."""
    started = time.monotonic()
    left = first = _unsealed(database)
    while left and time.monotonic() - started < SEALED_WITHIN:
        time.sleep(0.2)
        left = _unsealed(database)
    return {"unsealed": first, "sealed_after_seconds": round(time.monotonic() - started, 1), "left": left}


def _unsealed(database: Database) -> int:
    with database.read() as session:
        sealed = session.scalar(select(func.max(EventSeal.position))) or 0
        return (session.scalar(select(func.count()).select_from(Event)) or 0) - sealed


def _large(service: Service, store: Store) -> list[float]:
    """Seconds of requests with 10,000 selectors each, over HTTP."""
    found, owner = [], store.owners[0]
    headers = {"Authorization": f"Bearer {owner.key}"}
    with httpx.Client(base_url=service.urls[0], headers=headers, timeout=60, trust_env=False) as client:
        for run in range(LARGE_RUNS):
            rows = range(FIRST + run * 4000, FIRST + run * 4000 + SELECTORS)
            body = {"training_set": owner.training_set, "samples": [{"key": f"train/{row:06d}"} for row in rows]}
            started = time.perf_counter()
            answer = client.post(URL, json=body)
            found.append(round(time.perf_counter() - started, 2))
            if answer.status_code != 202:
                raise RuntimeError(f"10,000 selectors: {answer.status_code} {answer.text[:300]}")
    print(f"10,000 selectors: {found}", flush=True)
    return found


def _log(database: Database) -> dict[str, Any]:
    with database.read() as session:
        chain = verify_chain(session)
        requests = session.scalar(select(func.count()).select_from(DeletionRequest))
    return {"requests": requests, "sealed": chain.sealed, "unsealed": chain.unsealed, "intact": chain.intact}


if __name__ == "__main__":
    main()
