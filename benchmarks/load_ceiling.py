"""The ceiling of benchmarks.load: the rows of one deletion request inserted by plain SQLAlchemy, without the service.

    python -m benchmarks.load_ceiling URL SECONDS THREADS

Prints how many transactions were committed, and in how many seconds. Ids and selectors are as large as the service's;
nothing is looked up, checked or answered. SQLite as the service opens it, one writer at a time.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import uuid
from typing import Any

from sqlalchemy import Connection, insert, select

from benchmarks.load_store import FIRST, NAMED
from models.base import new_id, now
from models.records import DeletionRequest, Erasure, ErasureStatus, Event, Model, RequestSample, RequestStatus
from models.session import Database

SELECTORS = 10


def main() -> None:
    url, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    database = Database(url)
    owners = _owners(database)
    counts = [0] * threads
    end = time.monotonic() + seconds

    def work(place: int) -> None:
        draw = random.Random(uuid.uuid4().int)
        while time.monotonic() < end:
            with database.write() as session:
                _insert(session.connection(), draw, *draw.choice(owners))
            counts[place] += 1

    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(sum(counts), time.monotonic() - started)


def _owners(database: Database) -> list[Any]:
    """Application, set and model of those that the load is sent for."""
    with database.read() as session:
        query = (
            select(DeletionRequest.application_id, DeletionRequest.training_set_id, Model.id)
            .join(Model, Model.training_set_id == DeletionRequest.training_set_id)
            .distinct()
        )
        return [tuple(row) for row in session.execute(query)]


def _insert(
    connection: Connection, draw: random.Random, application: uuid.UUID, training_set: uuid.UUID, model: uuid.UUID
) -> None:
    request, at = new_id(), now()
    rows = draw.sample(range(FIRST, FIRST + NAMED), SELECTORS)
    connection.execute(
        insert(DeletionRequest),
        {
            "id": request,
            "application_id": application,
            "training_set_id": training_set,
            "status": RequestStatus.QUEUED,
            "submitted_by": "ceiling",
            "regulation": "GDPR",
            "received_at": at,
            "due_at": at,
            "idempotency_key": str(request),
            "fingerprint": bytes(32),
            "selectors": [
                {
                    "selector": {"key": f"train/{row:06d}"},
                    "outcome": "matched",
                    "count": 1,
                    "indices": [row],
                    "copies": [],
                }
                for row in rows
            ],
            "resolution": {"outcomes": {"matched": SELECTORS}, "identified_by": {"key": SELECTORS}},
            "approval_required": False,
            "has_controls": False,
        },
    )
    connection.execute(
        insert(RequestSample),
        [{"request_id": request, "training_set_id": training_set, "sample_index": row} for row in rows],
    )
    connection.execute(
        insert(Erasure),
        {"id": new_id(), "request_id": request, "model_id": model, "status": ErasureStatus.OPEN, "created_at": at},
    )
    connection.execute(
        insert(Event),
        {
            "id": new_id(),
            "at": at,
            "name": "deletion_request.accepted",
            "record": "deletion_request",
            "record_id": str(request),
            "actor": "ceiling",
            "data": {"regulation": "GDPR", "due_at": at.isoformat(), "samples": {"matched": SELECTORS}},
        },
    )


if __name__ == "__main__":
    main()
