"""How long does a deletion request wait for its 202 while the broker is down, hung, flushed or full?

    python -m benchmarks.broker [--requests 200] [--stored 10000]

On loopback: one uvicorn process with its dispatcher, its database, and a Redis of its own that is stopped, frozen (SIGSTOP),
flushed and filled (maxmemory). Around each of these moments two jobs are queued, one whose message was sent before it and one
whose message meets it; then requests of ten samples each are sent one after another. The states come twice, in turns. At the
end every queued job's message must have arrived.

Writes benchmarks/results/broker.json and broker.md; fails where an answer took longer than 250 ms, was not 202, or a message is
missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from benchmarks.footprint import processor
from benchmarks.lists import postgres
from benchmarks.load_service import URL, Service
from benchmarks.load_store import FIRST, NAMED, Store, fill
from models.queue import QUEUE, celery_app
from models.records import Job, JobStatus
from models.session import Database
from models.settings import Settings
from service import schema
from tests.conftest import find_program
from tests.faults.matrix.conftest import Broker

RESULTS = Path(__file__).parent / "results"
LIMIT_MS = 250
TURNS = 2
ARRIVE_SECONDS = 660.0  # a hint that was lost is sent again after a minute, later ones after ten at most

STATES: dict[str, tuple[Callable[[Broker], object], Callable[[Broker], object]]] = {
    "up": (lambda broker: None, lambda broker: None),
    "down": (Broker.stop, Broker.start),
    "hung": (Broker.freeze, Broker.thaw),
    "flushed": (lambda broker: broker.client.flushall(), lambda broker: None),
    "full": (Broker.fill, Broker.empty),
}


class ApiAlone(Service):
    """Without a worker: nobody takes the messages that are counted."""

    def _start(self, name: str, command: list[str]) -> None:
        if name != "worker":
            super()._start(name, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="in each state, in each turn")
    parser.add_argument("--stored", type=int, default=10_000, help="requests in the database before")
    options = parser.parse_args()
    program = find_program("redis-server")
    if program is None:
        raise SystemExit("redis-server is not on PATH: install it (on Debian: apt-get install redis-server)")
    document: dict[str, Any] = {
        "command": ("python -m benchmarks.broker " + " ".join(sys.argv[1:])).strip(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "limit_ms": LIMIT_MS,
        "stored": options.stored,
        "databases": {},
    }
    with tempfile.TemporaryDirectory(prefix="amun-broker-") as name, postgres() as create:
        for database, url in (("SQLite", None), ("PostgreSQL", create(0))):
            folder = Path(name) / database
            (folder / "redis").mkdir(parents=True)
            Path(name).chmod(0o755)  # Redis runs as another user
            (folder / "redis").chmod(0o777)
            broker = Broker(program, folder / "redis")
            try:
                settings = Settings(data_dir=folder, database_url=url, broker_url=broker.url, rate_limit="")
                document["databases"][database] = measure(settings, broker, options)
            finally:
                broker.thaw()
                broker.stop()
    (RESULTS / "broker.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "broker.md").write_text(table(document))
    print(table(document))
    raise SystemExit(0 if met(document) else 1)


def met(document: dict[str, Any]) -> bool:
    """Whether every answer was 202 and in time, and every message arrived."""
    return all(
        found["failed"] == 0
        and found["arrived"]["queued"] == found["arrived"]["with_a_message"]
        and all(value < LIMIT_MS for values in found["milliseconds"].values() for value in values)
        for found in document["databases"].values()
    )


def measure(settings: Settings, broker: Broker, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of the answers in each state, and how many messages arrived in the end."""
    schema.upgrade(settings)
    database = Database(settings.database)
    store = fill(database, settings, options.stored, sets=1)
    found: dict[str, Any] = {"milliseconds": {state: [] for state in STATES}, "failed": 0}
    with ApiAlone(settings, 1, settings.data_dir) as service:
        with httpx.Client(base_url=service.urls[0], timeout=30, trust_env=False) as client:
            send(client, store, 30)  # connections, caches and compiled statements
            for turn in range(TURNS):
                for state, (enter, leave) in STATES.items():
                    register(client, store, f"{state}-{turn}-before")
                    time.sleep(2 * settings.dispatch_seconds)  # a round publishes it
                    enter(broker)
                    register(client, store, f"{state}-{turn}-after")
                    time.sleep(2 * settings.dispatch_seconds)  # a round meets what was done to the broker
                    seconds, failed = send(client, store, options.requests)
                    leave(broker)
                    found["milliseconds"][state] += [round(1000 * each, 2) for each in seconds]
                    found["failed"] += failed
        found["arrived"] = arrived(settings, database)
    database.dispose()
    return found


def register(client: httpx.Client, store: Store, name: str) -> None:
    """Queue a job."""
    source = {"kind": "builtin", "path": "digits"}
    body = {"name": name, "applications": [], "source": source, "controls": {"share": 0.5}}
    headers = {"Authorization": f"Bearer {store.operator}"}
    client.post("/v1/training-sets", json=body, headers=headers).raise_for_status()


def send(client: httpx.Client, store: Store, number: int) -> tuple[list[float], int]:
    """Seconds of each answer, and how many were not 202."""
    owner, seconds, failed = store.owners[0], [], 0
    for _ in range(number):
        rows = random.sample(range(FIRST, FIRST + NAMED), 10)
        body = {"training_set": owner.training_set, "samples": [{"key": f"train/{row:06d}"} for row in rows]}
        headers = {"Authorization": f"Bearer {owner.key}", "Idempotency-Key": str(uuid.uuid4())}
        started = time.perf_counter()
        answer = client.post(URL, json=body, headers=headers)
        seconds.append(time.perf_counter() - started)
        failed += answer.status_code != 202
    return seconds, failed


def arrived(settings: Settings, database: Database) -> dict[str, int]:
    """Of the queued jobs that may run now, how many the broker has a message of."""
    with database.read() as session:
        # The store's own job waits for a day.
        queued = select(Job.id).where(Job.status == JobStatus.QUEUED, Job.not_before.is_(None))
        waiting = {str(job) for job in session.scalars(queued)}
    named: set[str] = set()
    deadline = time.monotonic() + ARRIVE_SECONDS
    with celery_app(settings).connection_for_read() as connection, connection.channel() as channel:
        while not waiting <= named and time.monotonic() < deadline:
            while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
                named.add(message.decode()[0][0])
            time.sleep(0.5)
    return {"queued": len(waiting), "with_a_message": len(waiting & named)}


def table(document: dict[str, Any]) -> str:
    machine = document["machine"]
    lines = [
        "# Deletion requests while the broker is away",
        "",
        f"`{document['command']}`",
        "",
        "POST /v1/deletion-requests with ten samples each, one after another on loopback, "
        f"{document['stored']:,} requests stored before; one API process with its dispatcher, which has published one job "
        "and has another to publish. Redis is stopped, frozen, flushed, and filled; each state twice, in turns.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, Python {machine['python']}; other work beside it.",
        "",
        f"| database | broker | requests | p50 | p99 | slowest | share under {document['limit_ms']} ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in document["databases"].items():
        for state, values in found["milliseconds"].items():
            parts = statistics.quantiles(values, n=100)
            under = sum(value < document["limit_ms"] for value in values) / len(values)
            lines.append(
                f"| {name} | {state} | {len(values)} | {parts[49]:.0f} ms | {parts[98]:.0f} ms | {max(values):.0f} ms | "
                f"{under:.1%} |"
            )
    lines.append("")
    for name, found in document["databases"].items():
        messages = found["arrived"]
        lines.append(
            f"- {name}: not answered 202: {found['failed']}. Of {messages['queued']} jobs that were queued meanwhile, "
            f"{messages['with_a_message']} had a message in the end."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
