"""Webhooks: who is told of what, the outbox of messages, and the log of every attempt to deliver one."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, now, status_type
from models.moves import Moves


class DeliveryStatus(StrEnum):
    PENDING = "pending"  # waits for its first or next attempt
    DELIVERED = "delivered"  # answered with a 2xx status
    FAILED = "failed"  # every attempt was used up, or the webhook was disabled
    DISCARDED = "discarded"  # the webhook was deleted before it was delivered


class Webhook(Base):
    """An address of an application. Its secret is derived from a key file, this id and the generation: no row holds it."""

    __tablename__ = "webhooks"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    application_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("applications.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[Any]]  # types of messages; empty: all
    secret_generation: Mapped[int] = mapped_column(default=0)  # counts the rotations
    previous_secret_until: Mapped[datetime | None]  # messages are signed with the one before, too
    created_at: Mapped[datetime] = mapped_column(default=now)
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    deleted_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]  # first of the failed attempts since the last delivery
    deliveries: Mapped[int] = mapped_column(default=0)  # last number that was given to one


class WebhookDelivery(Base):
    """One message for one webhook. It is inserted with what it tells of, and sent later."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event_id", "type"),
        Index(
            # What is due is looked up webhook by webhook: the backlog of one is never read for another.
            "ix_webhook_deliveries_due",
            "webhook_id",
            "next_attempt_at",
            sqlite_where=text("status = 'pending'"),
            postgresql_where=text("status = 'pending'"),
        ),
        Index("ix_webhook_deliveries_finished", "finished_at"),
    )
    MOVES: ClassVar[Moves] = {
        DeliveryStatus.PENDING: frozenset({DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, DeliveryStatus.DISCARDED}),
        DeliveryStatus.DELIVERED: frozenset(),
        DeliveryStatus.FAILED: frozenset(),
        DeliveryStatus.DISCARDED: frozenset(),
    }

    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("events.id"))  # None: a test or a redelivery
    message_id: Mapped[str] = mapped_column(String(64))  # header webhook-id: the same in every attempt and redelivery
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    status: Mapped[DeliveryStatus] = mapped_column(
        status_type(DeliveryStatus, "status"), default=DeliveryStatus.PENDING
    )
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(default=now)
    claimed_until: Mapped[datetime | None]  # a process is sending it
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class WebhookAttempt(Base):
    """What came of one attempt. The receiver's body is not kept."""

    __tablename__ = "webhook_attempts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["webhook_id", "delivery_number"], ["webhook_deliveries.webhook_id", "webhook_deliveries.number"]
        ),
        Index("ix_webhook_attempts_delivery", "webhook_id", "delivery_number"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    webhook_id: Mapped[uuid.UUID]
    delivery_number: Mapped[int]
    at: Mapped[datetime] = mapped_column(default=now)
    status_code: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)  # why there is no status code, or why it is no success
    seconds: Mapped[float]


class Cursor(Base):
    """How far a reader of the sealed log has come."""

    __tablename__ = "cursors"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
