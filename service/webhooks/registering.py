"""What an application decides about its webhooks: make, delete, enable, rotate the secret, send a message once more."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from models.records import Application, DeliveryStatus, Webhook, WebhookDelivery, record_event
from models.session import current_time
from service.deps import ReadSession, WriteSession
from service.errors import Conflict, NotFound, Unprocessable, pointer
from service.schemas.webhooks import MessageType, NewWebhook
from service.security import Authenticated, Principal
from service.webhooks import signatures
from service.webhooks.attempts import end_pending
from service.webhooks.messages import payload, trial
from service.webhooks.outbox import enqueue
from service.webhooks.targets import RefusedTarget, Targets

MOST_WEBHOOKS = 20  # of one application


def own(principal: Principal) -> Select[Webhook]:
    """The webhooks that this principal's application has."""
    return select(Webhook).where(Webhook.application_id == principal.application_id, Webhook.deleted_at.is_(None))


def _found(session: Session, query: Select[Webhook]) -> Webhook:
    webhook = session.scalars(query).one_or_none()
    if webhook is None:
        raise NotFound("There is no webhook of this id that belongs to this key's application.")
    return webhook


def _checked(request: Request, body: NewWebhook) -> NewWebhook:
    """The body, once its URL was resolved and found to be allowed."""
    targets: Targets = request.app.state.targets
    try:
        targets.check(body.url)
    except RefusedTarget as error:
        raise Unprocessable(str(error), at=pointer("url")) from None
    return body


def _loaded(webhook_id: uuid.UUID, principal: Authenticated, session: ReadSession) -> Webhook:
    return _found(session, own(principal).where(Webhook.id == webhook_id))


def _locked(webhook_id: uuid.UUID, principal: Authenticated, session: WriteSession) -> Webhook:
    return _found(session, own(principal).where(Webhook.id == webhook_id).with_for_update())


DeliveryNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the delivery.")]
# Resolving a name may take seconds: ask for it before the session, whose lock others wait for.
# Few at a time: names whose servers never answer must not take every thread.
CheckedWebhook = Annotated[NewWebhook, Depends(_checked, max_concurrency=4)]
LoadedWebhook = Annotated[Webhook, Depends(_loaded)]
LockedWebhook = Annotated[Webhook, Depends(_locked)]


def delivery_numbered(session: Session, webhook: Webhook, number: int) -> WebhookDelivery:
    """Raises NotFound."""
    found = session.get(WebhookDelivery, (webhook.id, number))
    if found is None:
        raise NotFound(f"This webhook has no delivery {number}.")
    return found


def register(session: Session, principal: Principal, body: NewWebhook) -> Webhook:
    """Raises Conflict where the application has as many as it may."""
    application = session.scalars(
        select(Application).where(Application.id == principal.application_id).with_for_update()
    ).one()
    there = session.scalar(select(func.count()).select_from(own(principal).subquery())) or 0
    if there >= MOST_WEBHOOKS:
        raise Conflict(f"This application has {there} webhooks, as many as it may have: delete one first.")
    webhook = Webhook(application_id=application.id, url=body.url, events=[each.value for each in body.events])
    session.add(webhook)
    session.flush()
    record_event(
        session,
        "webhook.created",
        "webhook",
        webhook.id,
        principal.actor,
        application=application.name,
        events=webhook.events,
    )
    return webhook


def remove(session: Session, principal: Principal, webhook: Webhook) -> None:
    """Delete it; what has not been delivered is discarded."""
    webhook.deleted_at = current_time(session)
    session.flush()
    discarded = end_pending(session, webhook.id, DeliveryStatus.DISCARDED)
    record_event(session, "webhook.deleted", "webhook", webhook.id, principal.actor, discarded=discarded)


def enable(session: Session, principal: Principal, webhook: Webhook) -> None:
    """Send to it again from now on; one that is enabled stays as it is."""
    if webhook.disabled_at is None:
        return
    webhook.disabled_at = webhook.disabled_reason = webhook.failing_since = None
    record_event(session, "webhook.enabled", "webhook", webhook.id, principal.actor)


def rotate(session: Session, principal: Principal, webhook: Webhook) -> None:
    """Sign with a new secret from now on, and with the one before for another day."""
    webhook.secret_generation += 1
    webhook.previous_secret_until = current_time(session) + signatures.OVERLAP
    record_event(
        session,
        "webhook.secret_rotated",
        "webhook",
        webhook.id,
        principal.actor,
        previous_until=webhook.previous_secret_until.isoformat(),
    )


def send_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Raises Conflict where the webhook is disabled."""
    message = trial(webhook.id, current_time(session))
    return _send(session, webhook, {"type": MessageType.TEST.value, "payload": payload(message)})


def send_again(session: Session, webhook: Webhook, earlier: WebhookDelivery) -> WebhookDelivery:
    """A new delivery of the same message. Raises Conflict where the webhook is disabled."""
    same = {"message_id": earlier.message_id, "type": earlier.type, "payload": earlier.payload}
    return _send(session, webhook, same)


def _send(session: Session, webhook: Webhook, message: dict[str, Any]) -> WebhookDelivery:
    made = enqueue(session, webhook.id, [message])
    if not made:
        raise Conflict("This webhook is disabled: enable it first.")
    return made[0]
