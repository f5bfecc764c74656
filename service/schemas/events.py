"""Events of the sealed log, and what its check found."""

from __future__ import annotations

import uuid
from datetime import datetime

from pydantic import Field

from models.records import Event, EventSeal
from service.schemas.common import Answer, Details


class EventAnswer(Answer):
    position: int = Field(description="In the sealed log.")
    id: uuid.UUID
    at: datetime
    name: str
    record: str
    record_id: str
    actor: str
    data: Details
    hash: str = Field(description="Chains the event to the one before it.")


class ChainHead(Answer):
    position: int
    hash: str


class BadSeal(Answer):
    position: int
    event: uuid.UUID | None = Field(description="Null where the position itself is missing.")
    why: str


class ChainAnswer(Answer):
    intact: bool
    sealed: int
    unsealed: int = Field(description="Events that the dispatcher has yet to seal.")
    head: ChainHead | None = Field(
        description="Compare it with a head that was kept elsewhere: a log cut short at its end is a shorter intact one."
    )
    first_bad: BadSeal | None


def event_answer(event: Event, seal: EventSeal) -> EventAnswer:
    return EventAnswer(
        position=seal.position,
        id=event.id,
        at=event.at,
        name=event.name,
        record=event.record,
        record_id=event.record_id,
        actor=event.actor,
        data=event.data,
        hash=seal.hash,
    )
