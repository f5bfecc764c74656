"""What must hold whatever backup is restored: requests that were accepted, keys that were revoked. One JSON object a line.

It is small, so it is written far more often than a backup, and kept in another place.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from models.base import now
from models.records import (
    ApiKey,
    Application,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Model,
    ModelStatus,
    RequestSample,
    RequestStatus,
    Sample,
    Split,
    TrainingSet,
    record_event,
)
from models.settling import unsettle

ACTOR = "cli"
NO_MORE = (RequestStatus.CANCELLED, RequestStatus.REJECTED)
COPIED = ("submitted_by", "external_id", "regulation", "ground", "idempotency_key", "resolution", "approval_required")
TIMES = ("submitted_at", "received_at", "due_at", "original_due_at", "extended_at", "approved_at", "held_at")
IDS_AT_ONCE = 500


@dataclass
class Applied:
    """What a ledger brought back, and what a person must look at."""

    requests: list[uuid.UUID] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    without_set: list[uuid.UUID] = field(default_factory=list)  # their training set was registered after the backup
    called_off: list[uuid.UUID] = field(default_factory=list)  # cancelled or rejected since: they wait in the backup


def entries(session: Session) -> Iterator[dict[str, Any]]:
    """The whole ledger."""
    for key in session.scalars(select(ApiKey).where(ApiKey.revoked_at.is_not(None)).order_by(ApiKey.id)):
        yield {"revoked_key": key.id, "at": key.revoked_at.isoformat() if key.revoked_at else None}
    query = (
        select(DeletionRequest, Application.name)
        .join(Application, Application.id == DeletionRequest.application_id)
        .order_by(DeletionRequest.id)
    )
    rows = session.execute(query.execution_options(yield_per=IDS_AT_ONCE))
    for chunk in rows.partitions(IDS_AT_ONCE):
        samples = _by_request(session, RequestSample.request_id, RequestSample.sample_index, chunk)
        models = _by_request(session, Erasure.request_id, Erasure.model_id, chunk)
        for request, application in chunk:
            yield {
                "request": str(request.id),
                "application": application,
                "training_set": str(request.training_set_id),
                "status": RequestStatus(request.status).value,
                "fingerprint": request.fingerprint.hex(),
                "samples": sorted(samples[request.id]),
                "models": sorted(str(model) for model in models[request.id]),
                **{name: getattr(request, name) for name in COPIED},
                **{name: _text(getattr(request, name)) for name in TIMES},
            }


def apply(session: Session, ledger: Iterable[str]) -> Applied:
    """Bring back what a newer ledger has and the restored database has not. The session is one that writes."""
    applied = Applied()
    for line in ledger:
        entry = json.loads(line)
        if "revoked_key" in entry:
            _revoke(session, entry, applied)
        elif "request" in entry:
            _bring_back(session, entry, applied)
    return applied


def _revoke(session: Session, entry: dict[str, Any], applied: Applied) -> None:
    key = session.get(ApiKey, entry["revoked_key"])
    if key is None or key.revoked_at is not None:
        return
    key.revoked_at = datetime.fromisoformat(entry["at"])
    record_event(session, "key.revoked", "api_key", key.id, ACTOR, source="ledger")
    applied.keys.append(key.id)


def _bring_back(session: Session, entry: dict[str, Any], applied: Applied) -> None:
    request_id, called_off = uuid.UUID(entry["request"]), RequestStatus(entry["status"]) in NO_MORE
    known = session.get(DeletionRequest, request_id)
    if known is not None:
        if called_off and known.status not in NO_MORE:
            applied.called_off.append(request_id)
        return
    if called_off:
        return
    training_set = session.get(TrainingSet, uuid.UUID(entry["training_set"]))
    if training_set is None:
        applied.without_set.append(request_id)
        return
    standing = _standing(session, training_set.id, entry["samples"])
    request = DeletionRequest(
        id=request_id,
        application_id=_application(session, entry["application"]).id,
        training_set_id=training_set.id,
        fingerprint=bytes.fromhex(entry["fingerprint"]),
        has_controls=any(split is Split.CONTROL for split in standing.values()),
        **{name: entry[name] for name in COPIED},
        **{name: datetime.fromisoformat(entry[name]) if entry[name] else None for name in TIMES},
    )
    session.add(request)
    session.flush()
    rows = [
        {"request_id": request_id, "sample_index": index, "training_set_id": training_set.id}
        for index in entry["samples"]
    ]
    if rows:
        session.execute(insert(RequestSample), rows)
    if any(split is Split.TRAIN for split in standing.values()):
        status = ErasureStatus.ON_HOLD if request.held_at is not None else ErasureStatus.OPEN
        for model in _models(session, training_set.id, entry["models"]):
            session.add(Erasure(request_id=request_id, model_id=model, status=status))
    unsettle(session, request_id)
    record_event(
        session, "deletion_request.restored", "deletion_request", request_id, ACTOR, samples=len(rows), source="ledger"
    )
    applied.requests.append(request_id)


def _standing(session: Session, training_set: uuid.UUID, indices: Sequence[int]) -> dict[int, Split]:
    """The rows among these that the restored set still holds."""
    found: dict[int, Split] = {}
    for start in range(0, len(indices), IDS_AT_ONCE):
        query = select(Sample.index, Sample.split).where(
            Sample.training_set_id == training_set,
            Sample.index.in_(indices[start : start + IDS_AT_ONCE]),
            Sample.erased_at.is_(None),
        )
        found.update({index: split for index, split in session.execute(query)})  # noqa: C416 - rows, not pairs, to mypy
    return found


def _models(session: Session, training_set: uuid.UUID, named: list[str]) -> list[uuid.UUID]:
    """Those that the request was about, as far as they are there and know anything."""
    ids = [uuid.UUID(model) for model in named]
    live = Model.status.in_([ModelStatus.TRAINING, ModelStatus.READY, ModelStatus.WITHDRAWN])
    query = select(Model.id).where(Model.training_set_id == training_set, Model.id.in_(ids), live)
    return list(session.scalars(query))


def _application(session: Session, name: str) -> Application:
    found = session.scalars(select(Application).where(Application.name == name)).one_or_none()
    if found is None:
        found = Application(name=name, created_at=now())
        session.add(found)
        session.flush()
    return found


def _by_request(session: Session, request: Any, column: Any, chunk: Sequence[Any]) -> defaultdict[uuid.UUID, list[Any]]:
    found: defaultdict[uuid.UUID, list[Any]] = defaultdict(list)
    for owner, value in session.execute(select(request, column).where(request.in_([row[0].id for row in chunk]))):
        found[owner].append(value)
    return found


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
