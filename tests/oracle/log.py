"""What must hold of the log and of what was told from it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.chain import head_of_log, verify_chain
from models.records import Cursor, DeliveryStatus, Event, EventSeal, Webhook, WebhookAttempt, WebhookDelivery
from service.webhooks.messages import TOLD, notices
from service.webhooks.outbox import CURSOR


def chain(session: Session) -> Iterator[str]:
    bad = verify_chain(session).first_bad
    if bad is not None:
        yield f"the log is broken at {bad.position}: {bad.why}"


def untold(session: Session) -> Iterator[str]:
    """Events that no round has sealed, or told of."""
    unsealed = verify_chain(session).unsealed
    if unsealed:
        yield f"{unsealed} events are not sealed"
    head, cursor = head_of_log(session), _cursor(session)
    if head is not None and session.scalar(select(Webhook.id).limit(1)) is not None and cursor < head.position:
        yield f"webhooks were told of the log up to {cursor}, and it goes to {head.position}"


def deliveries(session: Session) -> Iterator[str]:
    """One delivery for each webhook and message that follows from the log; each says what became of it."""
    made: defaultdict[object, Counter[tuple[object, str]]] = defaultdict(Counter)
    numbered: defaultdict[object, list[int]] = defaultdict(list)
    answered = Counter(
        (attempt.webhook_id, attempt.delivery_number)
        for attempt in session.scalars(select(WebhookAttempt).where(WebhookAttempt.error.is_(None)))
    )
    for delivery in session.scalars(select(WebhookDelivery)):
        numbered[delivery.webhook_id].append(delivery.number)
        name = f"delivery {delivery.number} of webhook {delivery.webhook_id}"
        if delivery.event_id is not None:
            made[delivery.webhook_id][delivery.event_id, delivery.type] += 1
        if delivery.status is DeliveryStatus.PENDING and delivery.next_attempt_at is None:
            yield f"{name} is pending, and nobody tries it"
        if delivery.status is DeliveryStatus.DELIVERED and not answered[delivery.webhook_id, delivery.number]:
            yield f"{name} is delivered without an attempt that was answered"
    expected = _expected(session)
    for webhook in session.scalars(select(Webhook)):
        for (event, kind), number in made[webhook.id].items():
            if number > 1:
                yield f"webhook {webhook.id} has {number} deliveries of {kind} for event {event}"
        numbers = sorted(numbered[webhook.id])
        first = numbers[0] if numbers else webhook.deliveries + 1
        if numbers != list(range(first, webhook.deliveries + 1)):
            yield f"webhook {webhook.id} has given {webhook.deliveries} numbers, and some of them are of no delivery"
        untold = sorted(expected.get(webhook.id, set()) - set(made[webhook.id]), key=str)
        if len(untold) > first - 1:  # those before the first were old, and are pruned
            yield f"webhook {webhook.id} has no delivery for {len(untold)} messages, such as {untold[-1]}"


def _expected(session: Session) -> dict[object, set[tuple[object, str]]]:
    """What was told by now to webhooks that were never disabled: the log is read anew, up to the cursor."""
    told = (
        select(Event)
        .join(EventSeal, EventSeal.event_id == Event.id)
        .where(Event.name.in_(TOLD), EventSeal.position <= _cursor(session))
    )
    disabled = set(session.scalars(select(Event.record_id).where(Event.name == "webhook.disabled")))
    webhooks = [
        webhook
        for webhook in session.scalars(select(Webhook).where(Webhook.deleted_at.is_(None)))
        if webhook.disabled_at is None and str(webhook.id) not in disabled
    ]
    found: dict[object, set[tuple[object, str]]] = {webhook.id: set() for webhook in webhooks}
    for notice in notices(session, list(session.scalars(told))) if webhooks else ():
        for webhook in webhooks:
            wanted = not webhook.events or notice.message.type in webhook.events
            if webhook.application_id in notice.applications and wanted and notice.event.at >= webhook.created_at:
                found[webhook.id].add((notice.event.id, notice.message.type.value))
    return found


def _cursor(session: Session) -> int:
    return session.scalar(select(Cursor.position).where(Cursor.name == CURSOR)) or 0
