"""PRUNE: finished deliveries of webhooks are kept for a while, not for ever; so are deleted webhooks."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, exists, select, tuple_

from models.crashes import crash_point
from models.records import Webhook, WebhookAttempt, WebhookDelivery
from models.session import Database, current_time
from models.settings import Settings

MOST_A_ROUND = 1000  # rows of a kind: their transaction must not keep requests waiting


def prune_webhooks(database: Database, settings: Settings) -> int:
    """Remove deliveries that were finished `webhook_retention_days` ago with their attempts; returns how many.

    A webhook that was deleted so long ago goes with the last of its deliveries: the log goes on telling of it.
    """
    with database.read() as session:
        before = current_time(session) - timedelta(days=settings.webhook_retention_days)
        query = select(WebhookDelivery.webhook_id, WebhookDelivery.number)
        old = WebhookDelivery.finished_at < before
        due = [
            tuple(row)
            for row in session.execute(query.where(old).order_by(WebhookDelivery.finished_at).limit(MOST_A_ROUND))
        ]
        unused = ~exists().where(WebhookDelivery.webhook_id == Webhook.id)
        ended = list(session.scalars(select(Webhook.id).where(Webhook.deleted_at < before, unused).limit(MOST_A_ROUND)))
    if not due and not ended:
        return 0
    with database.write() as session:
        if due:
            of_attempts = tuple_(WebhookAttempt.webhook_id, WebhookAttempt.delivery_number)
            session.execute(delete(WebhookAttempt).where(of_attempts.in_(due)))
            of_deliveries = tuple_(WebhookDelivery.webhook_id, WebhookDelivery.number)
            session.execute(delete(WebhookDelivery).where(of_deliveries.in_(due)))
        if ended:
            session.execute(delete(Webhook).where(Webhook.id.in_(ended)))
    crash_point("prune.after_commit")
    return len(due)
