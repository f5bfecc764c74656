"""A service in use for years, stored past its API: what benchmarks.load sends its requests to."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from models.base import new_id, now
from models.evidence import GENESIS, seal
from models.parameters import Network, Policy, Recipe
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    EventSeal,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    RequestSample,
    RequestStatus,
    Role,
    TrainingSet,
    TrainingSetApplication,
    TrainingSetStatus,
    VersionStatus,
)
from models.secrets import API_KEY_PEPPER, load_or_create
from models.session import Database
from models.settings import Settings
from service.security import application_named, create_key
from tests.service.stored import store_samples

SETS = 8  # each with an application and a model of its own
SAMPLES = 120_000  # of each set
FIRST = 100  # the row that store_samples begins with
# Requests name samples of the first half of a set, again and again: nobody asks a model to forget all that it has learnt.
NAMED = SAMPLES // 2
AT_ONCE = 5000
STILL_OPEN = 0.02  # of the stored requests; the others are completed and certified
# Each model has an unlearn job that waits, as without a GPU: what comes in waits for the one after it. Jobs that run beside
# the load are those that the benchmark asks for.
PAUSE = timedelta(days=1)


@dataclass(frozen=True)
class Owner:
    """An application, its key, the set that it may erase from, and the model that was trained on the set."""

    key: str
    training_set: str
    training_set_id: uuid.UUID
    application_id: uuid.UUID
    model_id: uuid.UUID
    waiting_job: uuid.UUID


@dataclass(frozen=True)
class Store:
    """Who calls, and one stored request of each application."""

    owners: list[Owner]
    operator: str
    compliance: str
    known: list[uuid.UUID]


def fill(database: Database, settings: Settings, stored: int, sets: int = SETS) -> Store:
    """Sets, samples, models, keys and ``stored`` requests, with a log that verifies."""
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    with database.write() as session:
        owners = [_owner(session, pepper, place) for place in range(sets)]
        keys = [create_key(session, pepper, role) for role in (Role.OPERATOR, Role.COMPLIANCE)]
    for owner in owners:
        with database.write() as session:
            store_samples(session, owner.training_set_id, SAMPLES)
    known = [*_store_requests(database, owners, stored)]
    if database.engine.dialect.name == "postgresql":  # autovacuum would do it within a minute
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    return Store(owners, *keys, known)


def _owner(session: Session, pepper: bytes, place: int) -> Owner:
    name = f"shop-{place}"
    key = create_key(session, pepper, Role.APPLICATION, name)
    application = application_named(session, name)
    training_set = TrainingSet(
        name=f"set-{place}",
        status=TrainingSetStatus.READY,
        source={},
        controls={},
        classes=["a", "b", "c", "d"],
        rows=FIRST + SAMPLES,
    )
    session.add(training_set)
    session.flush()
    session.add(TrainingSetApplication(training_set_id=training_set.id, application_id=application.id))
    model = Model(
        name=f"model-{place}",
        training_set_id=training_set.id,
        status=ModelStatus.READY,
        network=Network(name="small-cnn").model_dump(mode="json"),
        recipe=Recipe().model_dump(mode="json"),
        policy=Policy().model_dump(mode="json"),
        released_number=1,
    )
    session.add(model)
    session.flush()
    job = Job(kind=JobKind.TRAIN, status=JobStatus.SUCCEEDED, model_id=model.id, seed=0)
    session.add(job)
    session.flush()
    session.add(
        ModelVersion(
            model_id=model.id,
            number=1,
            job_id=job.id,
            status=VersionStatus.RELEASED,
            path=f"store/{model.id}/1/checkpoint.safetensors",
            sha256="0" * 64,
            size=1,
            released_at=now(),
        )
    )
    waiting = Job(
        kind=JobKind.UNLEARN, model_id=model.id, training_set_id=training_set.id, seed=0, not_before=now() + PAUSE
    )
    session.add(waiting)
    session.flush()
    return Owner(key, training_set.name, training_set.id, application.id, model.id, waiting.id)


def _store_requests(database: Database, owners: list[Owner], number: int) -> Iterator[uuid.UUID]:
    """Yields one id for each owner."""
    draw = random.Random(0)
    position, previous, begun = 0, GENESIS, now() - timedelta(days=730)
    for start in range(0, number, AT_ONCE):
        rows: dict[type[Any], list[dict[str, Any]]] = {
            each: [] for each in (DeletionRequest, RequestSample, Erasure, Event, EventSeal)
        }
        for place in range(start, min(start + AT_ONCE, number)):
            owner = owners[place % len(owners)]
            event = _store_request(rows, owner, draw, begun + timedelta(days=729) * (place / number), place)
            position += 1
            previous = seal(previous, event, position)
            rows[EventSeal].append(
                {
                    "position": position,
                    "event_id": event.id,
                    "hash": previous,
                    "record": event.record,
                    "record_id": event.record_id,
                }
            )
            if place < len(owners):
                yield uuid.UUID(event.record_id)
        with database.write() as session:
            for record, values in rows.items():
                session.execute(insert(record), values)


def _store_request(
    rows: dict[type[Any], list[dict[str, Any]]], owner: Owner, draw: random.Random, received: datetime, place: int
) -> Event:
    request, is_open = new_id(), draw.random() < STILL_OPEN
    ended = None if is_open else received + timedelta(days=2)
    rows[DeletionRequest].append(
        {
            "id": request,
            "application_id": owner.application_id,
            "training_set_id": owner.training_set_id,
            "status": RequestStatus.QUEUED if is_open else RequestStatus.COMPLETED,
            "submitted_by": "key",
            "external_id": f"crm-{place}",
            "regulation": draw.choice(["GDPR", "GDPR", "CCPA"]),
            "received_at": received,
            "due_at": now() + timedelta(days=25) if is_open else received + timedelta(days=30),
            "fingerprint": b"",
            "approval_required": False,
            "has_controls": False,
            "samples_erased_at": ended,
            "certified_at": ended,
        }
    )
    # What was forgotten lies behind the rows that there are: a request that named it again would have less to do.
    named = (
        draw.sample(range(FIRST, FIRST + NAMED), 2) if is_open else [FIRST + SAMPLES + 2 * place + n for n in (0, 1)]
    )
    rows[RequestSample] += [
        {"request_id": request, "training_set_id": owner.training_set_id, "sample_index": index} for index in named
    ]
    rows[Erasure].append(
        {
            "id": new_id(),
            "request_id": request,
            "model_id": owner.model_id,
            "job_id": owner.waiting_job if is_open else None,
            "status": ErasureStatus.OPEN if is_open else ErasureStatus.DONE,
            "created_at": now() if is_open else received,
            "finished_at": ended,
            "signals_erased_at": ended,
        }
    )
    event = Event(
        id=new_id(),
        at=received,
        name="deletion_request.accepted",
        record="deletion_request",
        record_id=str(request),
        actor="key:stored",
        data={},
    )
    columns = ("id", "at", "name", "record", "record_id", "actor", "data")
    rows[Event].append({name: getattr(event, name) for name in columns})
    return event
