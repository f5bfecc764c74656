"""The append-only log: decisions and changes of phase, sealed into a chain of hashes by the dispatcher."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, new_id, now


class Event(Base):
    """Never updated, never deleted (triggers refuse both). Holds no identifier of a person."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_record", "record", "record_id"), Index("ix_events_at", "at"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    at: Mapped[datetime] = mapped_column(default=now)
    name: Mapped[str] = mapped_column(String(64))
    record: Mapped[str] = mapped_column(String(32))  # job | deletion_request | model | training_set | ...
    record_id: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))  # key:<id> | dispatcher | worker:<name>
    data: Mapped[dict[str, Any]]


class EventSeal(Base):
    """Position of an event and the hash that chains it: sha256(previous hash || canonical body).

    ``record`` and ``record_id`` are the event's, so that what happened to one record is a range of positions.
    """

    __tablename__ = "event_seals"
    __table_args__ = (
        Index("ix_event_seals_record", "record", "position"),
        Index("ix_event_seals_record_id", "record", "record_id", "position"),
    )

    position: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False
    )
    event_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("events.id"), unique=True)
    hash: Mapped[str] = mapped_column(String(64))
    record: Mapped[str] = mapped_column(String(32), server_default="")
    record_id: Mapped[str] = mapped_column(String(64), server_default="")


def record_event(session: Session, name: str, record: str, record_id: object, actor: str, **data: Any) -> Event:
    """Add an event to the open transaction: it is there exactly when what it tells of is."""
    event = Event(name=name, record=record, record_id=str(record_id), actor=actor, data=data)
    session.add(event)
    return event


def event_row(name: str, record: str, record_id: object, actor: str, **data: Any) -> dict[str, Any]:
    """The columns of an event, for a statement that inserts it together with what it tells of."""
    of = {"record": record, "record_id": str(record_id), "actor": actor}
    return {"id": new_id(), "at": now(), "name": name, "data": data} | of
