"""OUTBOX: sealed events become deliveries, once for each webhook and event, whatever dies in between.

A cursor says how far the log has been told. It moves in the transaction that inserts the deliveries, and whoever moves it
holds its row: a second dispatcher waits, and then finds nothing left to tell.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.base import new_id
from models.crashes import crash_point
from models.records import Cursor, Event, EventSeal, Webhook, WebhookDelivery
from models.session import Database, current_time
from service.webhooks.messages import TOLD, Notice, notices

CURSOR = "webhooks"
AT_ONCE = 500  # events in one transaction
MOST_A_ROUND = 10  # of these transactions


def fan_out(database: Database) -> int:
    """Insert a delivery for every webhook that a sealed event concerns; returns how many."""
    told = 0
    for _ in range(MOST_A_ROUND):
        some = _fan_out_some(database)
        if some is None:
            break
        told += some
    return told


def _fan_out_some(database: Database) -> int | None:
    """None: everything that is sealed is told."""
    with database.read() as session:
        position = session.scalar(select(Cursor.position).where(Cursor.name == CURSOR))
        if position is not None and position >= _head(session):
            return None
    try:
        with database.write() as session:
            told = _tell_next(session)
            crash_point("fan_out.before_commit")
    except IntegrityError:  # another dispatcher made the cursor at this moment
        return 0
    crash_point("fan_out.after_commit")
    return told


def enqueue(session: Session, webhook: uuid.UUID, messages: list[dict[str, Any]]) -> list[WebhookDelivery]:
    """Insert one delivery a message, due at once; none where the webhook is deleted or disabled.

    A message holds ``type`` and ``payload``, and may hold ``event_id`` and ``message_id``.
    """
    numbered = (
        update(Webhook)
        .where(Webhook.id == webhook, Webhook.deleted_at.is_(None), Webhook.disabled_at.is_(None))
        .values(deliveries=Webhook.deliveries + len(messages))
        .returning(Webhook.deliveries)
        .execution_options(synchronize_session=False)
    )
    last = session.scalar(numbered)
    if last is None:
        return []
    at = current_time(session)
    deliveries = [
        WebhookDelivery(
            webhook_id=webhook,
            number=number,
            created_at=at,
            next_attempt_at=at,
            **({"message_id": f"msg_{new_id().hex}"} | message),
        )
        for number, message in enumerate(messages, start=last - len(messages) + 1)
    ]
    session.add_all(deliveries)
    session.flush()
    return deliveries


def _tell_next(session: Session) -> int:
    cursor = session.scalars(select(Cursor).where(Cursor.name == CURSOR).with_for_update()).one_or_none()
    if cursor is None:
        cursor = Cursor(name=CURSOR, position=_beginning(session))
        session.add(cursor)
        session.flush()
    until = min(_head(session), cursor.position + AT_ONCE)
    query = (
        select(Event)
        .join(EventSeal, EventSeal.event_id == Event.id)
        .where(EventSeal.position > cursor.position, EventSeal.position <= until, Event.name.in_(TOLD))
        .order_by(EventSeal.position)
    )
    planned = _planned(session, query)
    told = sum(len(enqueue(session, webhook, planned[webhook])) for webhook in sorted(planned))
    cursor.position = max(cursor.position, until)
    return told


def _planned(session: Session, query: Select[Event]) -> dict[uuid.UUID, list[dict[str, Any]]]:
    """The messages of each webhook: of its application, of the types it asks for, and of what happened since it is there."""
    planned: defaultdict[uuid.UUID, list[dict[str, Any]]] = defaultdict(list)
    webhooks: defaultdict[uuid.UUID, list[Webhook]] = defaultdict(list)
    for webhook in session.scalars(select(Webhook).where(Webhook.deleted_at.is_(None), Webhook.disabled_at.is_(None))):
        webhooks[webhook.application_id].append(webhook)
    if not webhooks:
        return planned
    for notice in notices(session, list(session.scalars(query))):
        for application in notice.applications:
            for webhook in webhooks[application]:
                if _wants(webhook, notice):
                    planned[webhook.id].append(
                        {
                            "event_id": notice.event.id,
                            "type": notice.message.type.value,
                            "payload": notice.payload,
                        }
                    )
    return planned


def _wants(webhook: Webhook, notice: Notice) -> bool:
    return notice.event.at >= webhook.created_at and (not webhook.events or notice.message.type in webhook.events)


def _head(session: Session) -> int:
    return session.scalar(select(func.max(EventSeal.position))) or 0


def _beginning(session: Session) -> int:
    """Where a log that is older than the cursor is told from: nobody is told of what was before the first webhook."""
    oldest = session.scalar(select(func.min(Webhook.created_at)))
    if oldest is None:
        return _head(session)
    first = session.scalar(
        select(func.min(EventSeal.position)).join(Event, Event.id == EventSeal.event_id).where(Event.at >= oldest)
    )
    return first - 1 if first is not None else _head(session)
