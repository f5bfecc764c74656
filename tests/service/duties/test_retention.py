"""What was delivered is kept for a while, and not for ever."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from models.base import now
from models.records import Application, DeliveryStatus, Webhook, WebhookAttempt, WebhookDelivery
from models.session import Database
from models.settings import Settings
from service import security
from service.duties import retention

OLD, YOUNG = timedelta(days=31), timedelta(days=29)


def made(database: Database, *finished: datetime | None, deleted_at: datetime | None = None) -> uuid.UUID:
    """A webhook with deliveries, of one attempt each, that finished then; None: it waits."""
    with database.write() as session:
        owner = security.application_named(session, "shop")
        webhook = Webhook(application_id=owner.id, url="https://hooks.example/", events=[], deleted_at=deleted_at)
        session.add(webhook)
        session.flush()
        for number, at in enumerate(finished, start=1):
            session.add(
                WebhookDelivery(
                    webhook_id=webhook.id,
                    number=number,
                    message_id=f"msg_{number}",
                    type="webhook.test",
                    payload={},
                    status=DeliveryStatus.PENDING if at is None else DeliveryStatus.DELIVERED,
                    created_at=now() - OLD,
                    finished_at=at,
                )
            )
            session.flush()
            session.add(WebhookAttempt(webhook_id=webhook.id, delivery_number=number, seconds=0.1))
    return webhook.id


def kept(database: Database, webhook: uuid.UUID) -> list[int]:
    with database.read() as session:
        of_deliveries = select(WebhookDelivery.number).where(WebhookDelivery.webhook_id == webhook)
        of_attempts = select(WebhookAttempt.delivery_number).where(WebhookAttempt.webhook_id == webhook)
        numbers = list(session.scalars(of_deliveries.order_by(WebhookDelivery.number)))
        assert sorted(session.scalars(of_attempts)) == numbers
    return numbers


def test_deliveries_go_with_their_attempts_once_they_were_finished_long_ago(
    database: Database, settings: Settings
) -> None:
    webhook = made(database, now() - OLD, now() - YOUNG, None)
    assert retention.prune_webhooks(database, settings) == 1
    assert kept(database, webhook) == [2, 3]
    assert retention.prune_webhooks(database, settings) == 0


def test_a_round_takes_so_many_and_the_next_one_the_rest(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_A_ROUND", 2)
    webhook = made(database, *[now() - OLD] * 3)
    assert [retention.prune_webhooks(database, settings) for _ in range(3)] == [2, 1, 0]
    assert kept(database, webhook) == []


def test_a_deleted_webhook_goes_after_the_last_of_its_deliveries(database: Database, settings: Settings) -> None:
    made(database, now() - OLD, deleted_at=now() - OLD)
    waits = made(database, deleted_at=now() - YOUNG)
    live = made(database)
    for _ in range(2):
        retention.prune_webhooks(database, settings)
    with database.read() as session:
        assert set(session.scalars(select(Webhook.id))) == {waits, live}
        assert session.scalars(select(Application.name)).all() == ["shop"]
