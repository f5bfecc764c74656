"""/v1/webhooks"""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response, status
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.records import DeliveryStatus, Webhook, WebhookAttempt, WebhookDelivery
from service.deps import ReadSession, WebhookKey, WriteSession
from service.errors import Conflict, NotFound, Unprocessable, responses
from service.lists.paging import Page, Paged
from service.schemas.webhooks import (
    AttemptAnswer,
    DeliveryAnswer,
    DeliverySummary,
    Message,
    MessageType,
    WebhookAnswer,
    WebhookWithSecret,
)
from service.security import AsApplication
from service.webhooks import registering as webhooks
from service.webhooks import signatures
from service.webhooks.registering import CheckedWebhook, DeliveryNumber, LoadedWebhook, LockedWebhook, delivery_numbered

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
messages = APIRouter(tags=["webhooks"])  # for the documentation alone: what a receiver is posted


@router.post("", status_code=status.HTTP_201_CREATED, responses=responses(Conflict, Unprocessable))
def create_webhook(
    principal: AsApplication, body: CheckedWebhook, key: WebhookKey, session: WriteSession, response: Response
) -> WebhookWithSecret:
    """Be told of what happens from now on. The answer holds the secret that messages are signed with, this once."""
    webhook = webhooks.register(session, principal, body)
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    return _with_secret(webhook, key)


@router.get("")
def list_webhooks(principal: AsApplication, session: ReadSession, paging: Paged) -> Page[WebhookAnswer]:
    """The application's webhooks, newest first."""
    rows, cursor = paging.cut(session, webhooks.own(principal), Webhook.id)
    return Page(data=[WebhookAnswer(**_webhook(row[0])) for row in rows], next_cursor=cursor)


@router.get("/{webhook_id}", responses=responses(NotFound))
def get_webhook(_: AsApplication, webhook: LoadedWebhook) -> WebhookAnswer:
    """One webhook."""
    return WebhookAnswer(**_webhook(webhook))


@router.delete("/{webhook_id}", status_code=status.HTTP_204_NO_CONTENT, responses=responses(NotFound))
def delete_webhook(principal: AsApplication, webhook: LockedWebhook, session: WriteSession) -> None:
    """Send nothing to it any more: what has not been delivered is discarded."""
    webhooks.remove(session, principal, webhook)


@router.post("/{webhook_id}/enable", responses=responses(NotFound))
def enable_webhook(principal: AsApplication, webhook: LockedWebhook, session: WriteSession) -> WebhookAnswer:
    """Send to a disabled webhook again. Nothing is sent of what happened in between: fetch what you need."""
    webhooks.enable(session, principal, webhook)
    return WebhookAnswer(**_webhook(webhook))


@router.post("/{webhook_id}/rotate-secret", responses=responses(NotFound))
def rotate_secret(
    principal: AsApplication, webhook: LockedWebhook, key: WebhookKey, session: WriteSession
) -> WebhookWithSecret:
    """A new secret. For a day messages carry a second signature by the one before it; older ones count no more."""
    webhooks.rotate(session, principal, webhook)
    return _with_secret(webhook, key)


@router.post("/{webhook_id}/test", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict))
def send_test_message(_: AsApplication, webhook: LockedWebhook, session: WriteSession) -> DeliverySummary:
    """Send a message of type `webhook.test`; the delivery tells what came of it."""
    return DeliverySummary(**_delivery(webhooks.send_test(session, webhook), []))


@router.get("/{webhook_id}/deliveries", responses=responses(NotFound))
def list_deliveries(
    _: AsApplication,
    webhook: LoadedWebhook,
    session: ReadSession,
    paging: Paged,
    status: Annotated[DeliveryStatus | None, Query()] = None,
) -> Page[DeliverySummary]:
    """What was sent, and what waits to be, newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    rows, cursor = paging.cut(session, query, WebhookDelivery.number)
    attempts = _attempts(session, webhook, [row[0].number for row in rows])
    data = [DeliverySummary(**_delivery(row[0], attempts[row[0].number])) for row in rows]
    return Page(data=data, next_cursor=cursor)


@router.get("/{webhook_id}/deliveries/{number}", responses=responses(NotFound))
def get_delivery(
    _: AsApplication, webhook: LoadedWebhook, number: DeliveryNumber, session: ReadSession
) -> DeliveryAnswer:
    """One delivery, with its payload and every attempt."""
    delivery = delivery_numbered(session, webhook, number)
    attempts = _attempts(session, webhook, [number])[number]
    return DeliveryAnswer(**_delivery(delivery, attempts), payload=delivery.payload, log=attempts)


@router.post(
    "/{webhook_id}/deliveries/{number}/redeliver",
    status_code=status.HTTP_202_ACCEPTED,
    responses=responses(NotFound, Conflict),
)
def redeliver(
    _: AsApplication, webhook: LockedWebhook, number: DeliveryNumber, session: WriteSession
) -> DeliverySummary:
    """Send a message once more, under the same `webhook-id`, as a new delivery."""
    earlier = delivery_numbered(session, webhook, number)
    return DeliverySummary(**_delivery(webhooks.send_again(session, webhook, earlier), []))


@messages.post("message", status_code=status.HTTP_204_NO_CONTENT)
def receive_message(
    body: Message,
    webhook_id: Annotated[str, Header(description="The same in every attempt: a message seen before is a repetition.")],
    webhook_timestamp: Annotated[str, Header(description="Seconds since 1970 of the attempt.")],
    webhook_signature: Annotated[
        str, Header(description="`v1,…` over id, timestamp and body (standardwebhooks.com); two during a rotation.")
    ],
) -> None:
    """Answer with any 2xx within 10 seconds. Else it is tried again over three days; 410 disables the webhook.

    Messages come at least once, in no certain order, and hold ids and paths: fetch what you need to know.
    """


def _webhook(webhook: Webhook) -> dict[str, Any]:
    path = f"/v1/webhooks/{webhook.id}"
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "created_at": webhook.created_at,
        "disabled_at": webhook.disabled_at,
        "disabled_reason": webhook.disabled_reason,
        "failing_since": webhook.failing_since,
        "previous_secret_until": webhook.previous_secret_until,
        "links": {"self": path, "deliveries": f"{path}/deliveries"},
    }


def _with_secret(webhook: Webhook, key: bytes) -> WebhookWithSecret:
    secret = signatures.secret(key, webhook.id, webhook.secret_generation)
    return WebhookWithSecret(**_webhook(webhook), secret=secret)


def _attempts(session: Session, webhook: Webhook, numbers: list[int]) -> dict[int, list[AttemptAnswer]]:
    query = (
        select(WebhookAttempt)
        .where(WebhookAttempt.webhook_id == webhook.id, WebhookAttempt.delivery_number.in_(numbers))
        .order_by(WebhookAttempt.id)
    )
    attempts: defaultdict[int, list[AttemptAnswer]] = defaultdict(list)
    for attempt in session.scalars(query):
        attempts[attempt.delivery_number].append(AttemptAnswer.model_validate(attempt))
    return attempts


def _delivery(delivery: WebhookDelivery, attempts: list[AttemptAnswer]) -> dict[str, Any]:
    path = f"/v1/webhooks/{delivery.webhook_id}"
    return {
        "number": delivery.number,
        "type": MessageType(delivery.type),
        "message_id": delivery.message_id,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "next_attempt_at": delivery.next_attempt_at,
        "last_attempt": attempts[-1] if attempts else None,
        "created_at": delivery.created_at,
        "finished_at": delivery.finished_at,
        "links": {"self": f"{path}/deliveries/{delivery.number}", "webhook": path},
    }
