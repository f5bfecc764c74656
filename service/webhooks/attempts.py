"""What one attempt to deliver a message leads to: delivered, tried again later, given up, or the webhook disabled."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from models.moves import advance
from models.records import DeliveryStatus, Webhook, WebhookAttempt, WebhookDelivery, record_event
from models.session import current_time
from service.webhooks.claiming import Claim

ACTOR = "dispatcher"
MINUTE, HOUR = 60.0, 3600.0
# Seconds after each failed attempt; after the last of them the delivery has failed.
SCHEDULE = (5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
JITTER = 0.1  # of the wait, up or down: what failed together does not come back together
LONGEST_WAIT = 24 * HOUR  # that a receiver may ask for
GONE = 410
MAY_ASK_FOR_TIME = (429, 503)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: ``error`` is None for a delivery."""

    seconds: float
    status_code: int | None = None
    error: str | None = None
    retry_after: float | None = None


def record(session: Session, claim: Claim, outcome: Outcome, schedule: Sequence[float]) -> None:
    """Write the attempt down and move its delivery.

    Rows are locked in one order, the webhook before its deliveries, here and wherever a webhook is changed.
    """
    at = current_time(session)
    if outcome.error is None:
        _delivered(session, claim, at)
    elif outcome.status_code == GONE:
        _gone(session, claim, at)
    else:
        _failed(session, claim, outcome, schedule, at)
    session.add(
        WebhookAttempt(
            webhook_id=claim.webhook_id,
            delivery_number=claim.number,
            at=at - timedelta(seconds=outcome.seconds),
            status_code=outcome.status_code,
            error=outcome.error,
            seconds=round(outcome.seconds, 3),
        )
    )


def wait_after(attempts: int, outcome: Outcome, schedule: Sequence[float]) -> timedelta | None:
    """How long to wait once ``attempts`` (at least 1) have failed; None: no further one."""
    if attempts > len(schedule):
        return None
    seconds = schedule[attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
    if outcome.retry_after is not None and outcome.status_code in MAY_ASK_FOR_TIME:
        seconds = max(seconds, min(outcome.retry_after, LONGEST_WAIT))
    return timedelta(seconds=seconds)


def end_pending(session: Session, webhook: uuid.UUID, status: DeliveryStatus) -> int:
    """Move every delivery of a webhook that waits to a final status; returns how many."""
    return advance(
        session,
        WebhookDelivery,
        WebhookDelivery.webhook_id == webhook,
        status,
        next_attempt_at=None,
        claimed_until=None,
        finished_at=current_time(session),
    )


def _delivered(session: Session, claim: Claim, at: datetime) -> None:
    session.execute(
        update(Webhook)
        .where(Webhook.id == claim.webhook_id, Webhook.failing_since.is_not(None))
        .values(failing_since=None)
    )
    advance(
        session,
        WebhookDelivery,
        (WebhookDelivery.webhook_id == claim.webhook_id) & (WebhookDelivery.number == claim.number),
        DeliveryStatus.DELIVERED,
        attempts=claim.attempts + 1,
        next_attempt_at=None,
        claimed_until=None,
        finished_at=at,
    )


def _failed(session: Session, claim: Claim, outcome: Outcome, schedule: Sequence[float], at: datetime) -> None:
    _note_failing(session, claim, at)
    # Where the claim ran out and another process has tried since, its attempt is the one that counts.
    current = (
        (WebhookDelivery.webhook_id == claim.webhook_id)
        & (WebhookDelivery.number == claim.number)
        & (WebhookDelivery.attempts == claim.attempts)
    )
    wait = wait_after(claim.attempts + 1, outcome, schedule)
    if wait is None:
        advance(
            session,
            WebhookDelivery,
            current,
            DeliveryStatus.FAILED,
            attempts=claim.attempts + 1,
            next_attempt_at=None,
            claimed_until=None,
            finished_at=at,
        )
        return
    session.execute(
        update(WebhookDelivery)
        .where(current, WebhookDelivery.status == DeliveryStatus.PENDING)
        .values(attempts=claim.attempts + 1, next_attempt_at=at + wait, claimed_until=None)
    )


def _gone(session: Session, claim: Claim, at: datetime) -> None:
    reason = "the receiver answered 410 Gone"
    _note_failing(session, claim, at)
    disabled = session.execute(
        update(Webhook)
        .where(Webhook.id == claim.webhook_id, Webhook.disabled_at.is_(None), Webhook.deleted_at.is_(None))
        .values(disabled_at=at, disabled_reason=reason)
    )
    if disabled.rowcount:  # type: ignore[attr-defined]
        record_event(session, "webhook.disabled", "webhook", claim.webhook_id, ACTOR, reason=reason)
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == claim.webhook_id, WebhookDelivery.number == claim.number)
        .values(attempts=claim.attempts + 1)
    )
    end_pending(session, claim.webhook_id, DeliveryStatus.FAILED)


def _note_failing(session: Session, claim: Claim, at: datetime) -> None:
    session.execute(
        update(Webhook).where(Webhook.id == claim.webhook_id, Webhook.failing_since.is_(None)).values(failing_since=at)
    )
