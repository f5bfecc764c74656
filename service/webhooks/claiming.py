"""Which deliveries a process sends next: claimed by a conditional UPDATE, and shared so that nobody waits for a slow receiver."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Row, exists, or_, select, update
from sqlalchemy.orm import Session

from models.records import DeliveryStatus, Webhook, WebhookDelivery
from models.session import Database, current_time
from service.webhooks import signatures

WORKERS = 32
# A receiver that does not answer holds a slot for as long as an attempt may take: it, its application, and all that are
# failing together hold some of the slots and never all.
MOST_A_WEBHOOK = 4
MOST_AN_APPLICATION = 8
MOST_FAILING = WORKERS // 2
CLAIM = timedelta(seconds=60)  # far longer than an attempt may take


@dataclass(frozen=True)
class Claim:
    """A delivery that this process is sending, with what it needs to."""

    webhook_id: uuid.UUID
    application_id: uuid.UUID
    number: int
    attempts: int  # before this one
    message_id: str
    body: str
    url: str
    secrets: tuple[str, ...]
    failing: bool


def take(database: Database, key: bytes, in_flight: Sequence[Claim]) -> list[Claim]:
    """Claim deliveries that are due, as many as there are slots beside those ``in_flight``."""
    with database.read() as session:
        shares = _shares(_waiting(session), in_flight) if len(in_flight) < WORKERS else []
    if not shares:
        return []
    with database.write() as session:
        return [claim for webhook, most in shares for claim in _claimed(session, key, webhook, most)]


def give_back(session: Session, claim: Claim) -> None:
    """Let another process send it at once."""
    session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.webhook_id == claim.webhook_id,
            WebhookDelivery.number == claim.number,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.attempts == claim.attempts,
        )
        .values(claimed_until=None)
    )


def _claimed(session: Session, key: bytes, webhook_id: uuid.UUID, most: int) -> list[Claim]:
    at = current_time(session)
    webhook = session.get_one(Webhook, webhook_id)
    due = (
        select(WebhookDelivery.number)
        .where(WebhookDelivery.webhook_id == webhook_id, *_due(at))
        .order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.number)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    claimed = (
        update(WebhookDelivery)
        .where(
            WebhookDelivery.webhook_id == webhook_id,
            WebhookDelivery.number.in_(session.scalars(due).all()),
            *_due(at),
        )
        .values(claimed_until=at + CLAIM)
        .returning(WebhookDelivery)
        .execution_options(synchronize_session=False)
    )
    return [_ready(key, webhook, delivery, at) for delivery in session.scalars(claimed)]


def _ready(key: bytes, webhook: Webhook, delivery: WebhookDelivery, at: datetime) -> Claim:
    generations = [webhook.secret_generation]
    if webhook.previous_secret_until is not None and webhook.previous_secret_until > at:
        generations.append(webhook.secret_generation - 1)
    return Claim(
        webhook_id=webhook.id,
        application_id=webhook.application_id,
        number=delivery.number,
        attempts=delivery.attempts,
        message_id=delivery.message_id,
        body=json.dumps(delivery.payload, separators=(",", ":")),
        url=webhook.url,
        secrets=tuple(signatures.secret(key, webhook.id, each) for each in generations),
        failing=webhook.failing_since is not None,
    )


def _due(at: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        WebhookDelivery.status == DeliveryStatus.PENDING,
        WebhookDelivery.next_attempt_at <= at,
        or_(WebhookDelivery.claimed_until.is_(None), WebhookDelivery.claimed_until <= at),
    )


def _waiting(session: Session) -> list[Row[uuid.UUID, uuid.UUID, datetime | None]]:
    """Webhooks with a delivery that is due."""
    some = exists().where(WebhookDelivery.webhook_id == Webhook.id, *_due(current_time(session)))
    query = select(Webhook.id, Webhook.application_id, Webhook.failing_since)
    return list(session.execute(query.where(Webhook.deleted_at.is_(None), Webhook.disabled_at.is_(None), some)))


def _shares(
    waiting: Sequence[Row[uuid.UUID, uuid.UUID, datetime | None]], in_flight: Sequence[Claim]
) -> list[tuple[uuid.UUID, int]]:
    """How many deliveries of which webhook to claim: those that answer first, in an order that favours nobody."""
    free = WORKERS - len(in_flight)
    free_for_failing = MOST_FAILING - sum(claim.failing for claim in in_flight)
    of_webhook = Counter(claim.webhook_id for claim in in_flight)
    of_application = Counter(claim.application_id for claim in in_flight)
    shares = []
    for webhook, application, failing_since in sorted(
        waiting,
        key=lambda each: (each[2] is not None, random.random()),  # noqa: S311 - no secret
    ):
        most = min(MOST_A_WEBHOOK - of_webhook[webhook], MOST_AN_APPLICATION - of_application[application], free)
        if failing_since is not None:
            most = min(most, free_for_failing)
            free_for_failing -= max(most, 0)
        if most > 0:
            shares.append((webhook, most))
            of_application[application] += most
            free -= most
    return shares
