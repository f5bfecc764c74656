"""Facts that every document takes from rows: requests, sets, versions, decisions, recipients, the log."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from models.chain import head_of_log
from models.records import (
    Application,
    DeletionRequest,
    Erasure,
    Event,
    EventSeal,
    Model,
    ModelVersion,
    RequestSample,
    Sample,
    Split,
    TrainingSet,
)
from models.settings import Settings

Json = dict[str, Any]

PERSON = "key:"  # actors of this kind are people, by their API key
DECISIONS = {"version.released": "released", "version.quarantined": "quarantined"}
DOWNLOADED = "checkpoint.downloaded"
SECONDS_A_DAY = 86400
IDS_AT_ONCE = 500


def some_at_once(indices: Iterable[int]) -> Iterator[list[int]]:
    """Rows of a training set, as many as one statement takes."""
    ordered = sorted(indices)
    for start in range(0, len(ordered), IDS_AT_ONCE):
        yield ordered[start : start + IDS_AT_ONCE]


def at(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


def at_or_none(time: datetime | None) -> str | None:
    return at(time) if time is not None else None


def request(session: Session, asked: DeletionRequest, issued_at: datetime) -> Json:
    """Group 2 of one request."""
    application = session.get_one(Application, asked.application_id)
    resolution = asked.resolution or {}
    lines = history(session, asked)
    accepted = next((line for line in lines if line["event"] == "deletion_request.accepted"), None)
    return {
        "id": str(asked.id),
        "external_id": asked.external_id,
        "application": application.name,
        "regulation": asked.regulation,
        "ground": asked.ground,
        "submitted_by": asked.submitted_by,
        "submitted_at": at_or_none(asked.submitted_at),
        "received_at": at(asked.received_at),
        "acknowledged_at": accepted["at"] if accepted else None,
        "due_at": at(asked.due_at),
        "due_rule": accepted["data"].get("due_rule") if accepted else None,
        "days_used": round(max(0.0, (issued_at - asked.received_at).total_seconds()) / SECONDS_A_DAY, 2),
        "in_time": issued_at <= asked.due_at,
        "approval_required": asked.approval_required,
        "approved_at": at_or_none(asked.approved_at),
        "rejected_at": at_or_none(asked.rejected_at),
        "samples": sum(len(samples_of(session, asked, split)) for split in Split),
        "outcomes": resolution.get("outcomes", {}),
        "identified_by": resolution.get("identified_by", {}),
        "history": lines,
    }


def samples_of(session: Session, asked: DeletionRequest, split: Split) -> list[int]:
    """Rows of the training set that a request erases."""
    query = (
        select(RequestSample.sample_index)
        .join(
            Sample,
            and_(Sample.training_set_id == RequestSample.training_set_id, Sample.index == RequestSample.sample_index),
        )
        .where(RequestSample.request_id == asked.id, Sample.split == split)
    )
    return sorted(session.scalars(query))


def history(session: Session, asked: DeletionRequest) -> list[Json]:
    """Events of a request and of its erasures, oldest first."""
    erasures = [str(each) for each in session.scalars(select(Erasure.id).where(Erasure.request_id == asked.id))]
    own = and_(Event.record == "deletion_request", Event.record_id == str(asked.id))
    return events(session, or_(own, and_(Event.record == "erasure", Event.record_id.in_(erasures))))


def events(session: Session, which: ColumnElement[bool]) -> list[Json]:
    """Lines of the log, oldest first, with their positions where they are sealed."""
    rows = session.execute(
        select(Event, EventSeal.position)
        .outerjoin(EventSeal, EventSeal.event_id == Event.id)
        .where(which)
        .order_by(Event.at, Event.id)
    )
    return [
        {"at": at(event.at), "event": event.name, "actor": event.actor, "position": position, "data": event.data}
        for event, position in rows
    ]


def training_set(made: TrainingSet) -> Json:
    return {
        "name": made.name,
        "manifest_sha256": made.manifest_sha256,
        "rows": made.rows,
        "shape": made.shape,
        "classes": made.classes,
        "left_out_at_registration": made.suppressed,
        "near_duplicates": made.near_duplicates,
    }


def version(made: ModelVersion) -> Json:
    return {"number": made.number, "sha256": made.sha256, "size": made.size}


def overrides(session: Session, model: Model, number: int) -> list[Json]:
    """What people decided about a version, oldest first."""
    found = session.scalars(
        select(Event)
        .where(
            Event.record == "model",
            Event.record_id == str(model.id),
            Event.name.in_(DECISIONS),
            Event.actor.startswith(PERSON),
        )
        .order_by(Event.at, Event.id)
    )
    return [
        {
            "at": at(event.at),
            "action": DECISIONS[event.name],
            "actor": event.actor,
            "reason": event.data.get("reason"),
            "event": str(event.id),
        }
        for event in found
        if event.data.get("version") == number
    ]


def recipients(session: Session, versions: Iterable[ModelVersion]) -> list[Json]:
    """Who fetched these checkpoints, oldest first."""
    known = {str(made.id): made for made in versions}
    found = session.scalars(
        select(Event)
        .where(Event.record == "version", Event.name == DOWNLOADED, Event.record_id.in_(known))
        .order_by(Event.at, Event.id)
    )
    return [
        {
            "version": known[event.record_id].number,
            "sha256": known[event.record_id].sha256,
            "at": at(event.at),
            "actor": event.actor,
            "application": event.data.get("application"),
        }
        for event in found
    ]


def trail(session: Session, settings: Settings, which: ColumnElement[bool]) -> Json:
    """Group 9: head of the log, and the lines that are about this document."""
    head = head_of_log(session)
    return {
        "head": {"position": head.position, "hash": head.hash} if head else None,
        "excerpt": events(session, which),
        "retention_months": settings.record_retention_months,
    }


def by_ids(session: Session, ids: Collection[uuid.UUID]) -> list[ModelVersion]:
    """Versions by number."""
    return list(session.scalars(select(ModelVersion).where(ModelVersion.id.in_(ids)).order_by(ModelVersion.number)))
