"""Messages on their way: signed, tried again, given up; whatever one receiver does, the others get theirs."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import standardwebhooks
from sqlalchemy import select, text, update
from starlette.testclient import TestClient

from models.base import now
from models.records import DeliveryStatus, Event, Role, Webhook, WebhookAttempt, WebhookDelivery
from models.secrets import WEBHOOK_KEY, load_or_create
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.webhooks import claiming, sending
from service.webhooks.attempts import JITTER, SCHEDULE, Outcome, wait_after
from service.webhooks.outbox import enqueue
from service.webhooks.sending import Sender
from service.webhooks.targets import Targets
from tests.service.conftest import Headers, World
from tests.service.webhooks.receiver import Received, Receiver, receiver

URL = "/v1/webhooks"
LOOPBACK = "127.0.0.0/8"
AT_ONCE = (0.0,) * 3  # waits after failures, of a test that does not wait


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_networks": LOOPBACK})


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


@contextmanager
def sender(settings: Settings, **options: Any) -> Iterator[Sender]:
    """One with a database of its own, as another process has it."""
    database = Database(settings.database)
    targets = options.pop("targets", Targets(settings.allowed_networks))
    made = Sender(database, load_or_create(settings.secrets, WEBHOOK_KEY), targets, **({"schedule": AT_ONCE} | options))
    try:
        yield made
    finally:
        made.stop()
        database.dispose()


def send(sender: Sender) -> int:
    """One round, until all of it is done; returns how many attempts it was."""
    attempts = sender.round()
    assert not wait(attempts, timeout=30).not_done
    return len(attempts)


def made(client: TestClient, key: Headers, server: Receiver, **body: Any) -> dict[str, Any]:
    answer = client.post(URL, json={"url": f"http://127.0.0.1:{server.port}/in"} | body, headers=key)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def trial(client: TestClient, key: Headers, webhook: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"{URL}/{webhook['id']}/test", headers=key)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def delivery(client: TestClient, key: Headers, webhook: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return dict(client.get(f"{URL}/{webhook['id']}/deliveries/{number}", headers=key).json())


def verified(secret: str, received: Received) -> Any:
    return standardwebhooks.Webhook(secret).verify(received.body, received.headers)


def test_a_message_arrives_signed_and_is_delivered(
    client: TestClient, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    sent = trial(client, shop, webhook)
    with sender(settings) as process:
        assert send(process) == 1
        assert send(process) == 0
    (received,) = there.received
    found = delivery(client, shop, webhook)
    assert verified(webhook["secret"], received) == found["payload"]
    assert received.headers["webhook-id"] == sent["message_id"]
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"] == sending.USER_AGENT
    assert (found["status"], found["attempts"], found["next_attempt_at"]) == ("delivered", 1, None)
    assert found["finished_at"] is not None
    (attempt,) = found["log"]
    assert (attempt["status_code"], attempt["error"]) == (204, None)
    assert 0 <= attempt["seconds"] < 10
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified("whsec_" + "A" * 43, received)


def test_a_rotated_secret_signs_beside_the_one_before_it_for_a_day(
    client: TestClient, database: Database, settings: Settings, shop: Headers, there: Receiver
) -> None:
    first = made(client, shop, there)
    second = client.post(f"{URL}/{first['id']}/rotate-secret", headers=shop).json()
    with sender(settings) as process:
        trial(client, shop, first)
        send(process)
        with database.write() as session:
            session.execute(update(Webhook).values(previous_secret_until=now() - timedelta(seconds=1)))
        trial(client, shop, first)
        send(process)
    during, after = there.received
    for secret in (first["secret"], second["secret"]):
        assert verified(secret, during)["type"] == "webhook.test"
    assert verified(second["secret"], after)["type"] == "webhook.test"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(first["secret"], after)


def test_a_message_that_fails_is_tried_again_and_every_attempt_is_kept(
    client: TestClient, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    trial(client, shop, webhook)
    statuses = iter([500, 302, 200])
    there.answer = lambda _: (next(statuses), {"Location": f"http://127.0.0.1:{there.port}/elsewhere"})
    with sender(settings) as process:
        send(process)
        assert client.get(f"{URL}/{webhook['id']}", headers=shop).json()["failing_since"] is not None
        waiting = delivery(client, shop, webhook)
        assert (waiting["status"], waiting["attempts"]) == ("pending", 1)
        assert waiting["next_attempt_at"] is not None
        send(process)
        send(process)
    found = delivery(client, shop, webhook)
    assert (found["status"], found["attempts"]) == ("delivered", 3)
    assert [each["status_code"] for each in found["log"]] == [500, 302, 200]
    assert [each["error"] for each in found["log"]] == ["not a status of success", "redirects are not followed", None]
    assert found["last_attempt"] == found["log"][-1]
    assert client.get(f"{URL}/{webhook['id']}", headers=shop).json()["failing_since"] is None
    assert {received.path for received in there.received} == {"/in"}
    assert len({received.headers["webhook-id"] for received in there.received}) == 1


def test_a_message_that_never_gets_through_has_failed_in_the_end_and_can_be_sent_again(
    client: TestClient, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    trial(client, shop, webhook)
    there.answer = lambda _: (500, {})
    with sender(settings) as process:
        assert [send(process) for _ in range(len(AT_ONCE) + 2)] == [1] * (len(AT_ONCE) + 1) + [0]
        failed = delivery(client, shop, webhook)
        assert (failed["status"], failed["attempts"], failed["next_attempt_at"]) == ("failed", 4, None)
        assert len(failed["log"]) == 4
        there.answer = lambda _: (204, {})
        client.post(f"{failed['links']['self']}/redeliver", headers=shop)
        assert send(process) == 1
    assert delivery(client, shop, webhook, 2)["status"] == "delivered"
    assert len({received.headers["webhook-id"] for received in there.received}) == 1


def test_the_waits_grow_to_a_day_and_are_spread() -> None:
    failed = Outcome(0.1, 500, "not a status of success")
    for attempts, seconds in enumerate(SCHEDULE, start=1):
        waits = {wait_after(attempts, failed, SCHEDULE) for _ in range(20)}
        assert len(waits) > 1
        assert all(
            each is not None and seconds * (1 - JITTER) <= each.total_seconds() <= seconds * (1 + JITTER)
            for each in waits
        )
    assert wait_after(len(SCHEDULE) + 1, failed, SCHEDULE) is None
    assert SCHEDULE == (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


@pytest.mark.parametrize(
    ("status", "asked", "least", "most"),
    [
        (503, 600, 600, 600),
        (429, 600, 600, 600),
        (503, 10**8, 86400, 86400),
        (503, 1, 4, 6),
        (500, 600, 4, 6),
    ],
)
def test_a_receiver_that_asks_for_time_gets_it_up_to_a_day(status: int, asked: float, least: int, most: int) -> None:
    wait = wait_after(1, Outcome(0.1, status, "not a status of success", asked), SCHEDULE)
    assert wait is not None
    assert least <= wait.total_seconds() <= most


def test_what_a_receiver_asks_for_is_kept_to(
    client: TestClient, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    trial(client, shop, webhook)
    there.answer = lambda _: (429, {"Retry-After": "3600"})
    with sender(settings) as process:
        assert send(process) == 1
        assert send(process) == 0
    with_wait = delivery(client, shop, webhook)
    assert with_wait["status"] == "pending"
    assert with_wait["next_attempt_at"] > (now() + timedelta(minutes=50)).isoformat()


def test_a_receiver_that_is_gone_is_sent_nothing_more(
    client: TestClient, database: Database, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    trial(client, shop, webhook)
    there.answer = lambda _: (410, {})
    with sender(settings) as process:
        send(process)
        with database.write() as session:  # one that was on its way to the table at that moment
            assert enqueue(session, uuid.UUID(webhook["id"]), [{"type": "webhook.test", "payload": {}}]) == []
        assert send(process) == 0
        shown = client.get(f"{URL}/{webhook['id']}", headers=shop).json()
        assert shown["disabled_at"] is not None
        assert shown["disabled_reason"] == "the receiver answered 410 Gone"
        found = delivery(client, shop, webhook)
        assert (found["status"], found["attempts"], found["log"][0]["status_code"]) == ("failed", 1, 410)
        with database.read() as session:
            event = session.scalars(select(Event).where(Event.name == "webhook.disabled")).one()
            assert (event.record, event.record_id) == ("webhook", webhook["id"])
        there.answer = lambda _: (204, {})
        client.post(f"{URL}/{webhook['id']}/enable", headers=shop)
        trial(client, shop, webhook)
        assert send(process) == 1
    assert delivery(client, shop, webhook, 2)["status"] == "delivered"


def test_what_waits_beside_the_answer_that_says_gone_has_failed_with_it(
    client: TestClient, database: Database, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    for _ in range(10):
        trial(client, shop, webhook)
    there.answer = lambda _: (410, {})
    with sender(settings) as process:
        send(process)
        assert send(process) == 0
    with database.read() as session:
        statuses = session.scalars(select(WebhookDelivery.status)).all()
        assert statuses == [DeliveryStatus.FAILED] * 10
        assert len(session.scalars(select(Event).where(Event.name == "webhook.disabled")).all()) == 1
        assert len(session.scalars(select(WebhookAttempt)).all()) == len(there.received)


def test_a_receivers_body_is_kept_nowhere(
    client: TestClient, database: Database, settings: Settings, shop: Headers, there: Receiver
) -> None:
    trial(client, shop, made(client, shop, there))

    def chatty(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 500 inner-phrase\r\nX-Inner: header\r\nContent-Length: 11\r\n\r\ninner-body\n")

    there.raw = chatty
    with sender(settings) as process:
        send(process)
    with database.read() as session:
        everything = str(session.execute(text("SELECT * FROM webhook_attempts")).all())
    assert "not a status of success" in everything
    assert "inner" not in everything
    assert "header" not in everything


def test_a_name_that_has_moved_inside_since_it_was_registered_is_not_connected_to(
    client: TestClient, settings: Settings, shop: Headers, there: Receiver
) -> None:
    addresses = ["93.184.215.14"]
    targets = Targets(resolve=lambda host, port: addresses)
    client.app.state.targets = targets  # type: ignore[attr-defined]
    webhook = made(client, shop, there, url=f"https://hooks.example:{there.port}/")
    trial(client, shop, webhook)
    addresses[:] = ["127.0.0.1"]
    with sender(settings, targets=targets) as process:
        send(process)
    attempt = delivery(client, shop, webhook)["last_attempt"]
    assert attempt["status_code"] is None
    assert "public addresses only" in attempt["error"]
    assert there.received == []


def test_two_processes_send_a_message_once(
    client: TestClient, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    for _ in range(4):
        trial(client, shop, webhook)
    with sender(settings) as first, sender(settings) as second:
        barrier = threading.Barrier(2)

        def go(process: Sender) -> None:
            barrier.wait()
            send(process)

        threads = [threading.Thread(target=go, args=(each,)) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(there.received) == len({received.headers["webhook-id"] for received in there.received}) == 4


def test_a_message_whose_sender_died_is_sent_by_another_once_its_claim_has_run_out(
    client: TestClient, database: Database, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    trial(client, shop, webhook)
    (claim,) = claiming.take(database, b"k" * 32, [])
    assert claim.number == 1
    with sender(settings) as other:
        assert send(other) == 0
        with database.write() as session:
            session.execute(update(WebhookDelivery).values(claimed_until=now() - timedelta(seconds=1)))
        assert send(other) == 1
    assert delivery(client, shop, webhook)["status"] == "delivered"


def test_a_deleted_webhook_is_not_sent_to_and_an_answer_that_comes_late_changes_nothing(
    client: TestClient, database: Database, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    trial(client, shop, webhook)
    there.answer = there.hang
    with sender(settings) as process:
        attempts = process.round()
        there.wait_for(1)
        assert client.delete(f"{URL}/{webhook['id']}", headers=shop).status_code == 204
        there.released.set()
        wait(attempts, timeout=30)
        assert send(process) == 0
    with database.read() as session:
        found = session.scalars(select(WebhookDelivery)).one()
        assert found.status is DeliveryStatus.DISCARDED
        assert session.scalars(select(WebhookAttempt)).one().status_code == 204


def test_receivers_that_hang_hold_up_nobody_else(
    client: TestClient, settings: Settings, world: World, shop: Headers, there: Receiver
) -> None:
    with receiver() as slow:
        slow.answer = slow.hang
        hanging = [made(client, shop, slow) for _ in range(3)]
        for webhook in hanging:
            for _ in range(10):
                trial(client, shop, webhook)
        neighbour = made(client, world.key(Role.APPLICATION, "neighbour"), there)
        key = world.key(Role.APPLICATION, "neighbour")
        with sender(settings) as process:
            process.start()
            slow.wait_for(claiming.MOST_AN_APPLICATION)
            trial(client, key, neighbour)
            begun = time.monotonic()
            there.wait_for(1, seconds=5)
            assert time.monotonic() - begun < 5
            assert len(slow.received) == claiming.MOST_AN_APPLICATION
            stopping = time.monotonic()
            process.stop()
            assert time.monotonic() - stopping < 5


def test_shares_leave_slots_for_receivers_that_answer() -> None:
    failing = [(uuid.uuid4(), uuid.uuid4(), now()) for _ in range(50)]
    well = [(uuid.uuid4(), uuid.uuid4(), None) for _ in range(3)]
    shares: list[tuple[uuid.UUID, int]] = claiming._shares([*failing, *well], [])  # type: ignore[list-item]
    given = dict(shares)
    assert [given[each[0]] for each in well] == [claiming.MOST_A_WEBHOOK] * 3
    assert sum(given.get(each[0], 0) for each in failing) == claiming.MOST_FAILING
    one = uuid.uuid4()
    many = [(uuid.uuid4(), one, None) for _ in range(20)]
    assert sum(most for _, most in claiming._shares(many, [])) == claiming.MOST_AN_APPLICATION  # type: ignore[arg-type]


def test_a_process_that_stops_gives_its_messages_to_the_next(
    client: TestClient, settings: Settings, shop: Headers, there: Receiver
) -> None:
    webhook = made(client, shop, there)
    trial(client, shop, webhook)
    there.answer = there.hang
    with sender(settings) as stopped:
        stopped.start()
        there.wait_for(1)
        begun = time.monotonic()
        stopped.stop()
        assert time.monotonic() - begun < 3
    waiting = delivery(client, shop, webhook)
    assert (waiting["status"], waiting["attempts"], waiting["log"]) == ("pending", 0, [])
    there.answer = lambda _: (204, {})
    with sender(settings) as heir:
        assert send(heir) == 1
    assert delivery(client, shop, webhook)["status"] == "delivered"


@pytest.mark.usefixtures("digits")
def test_the_application_tells_of_a_request_and_ends_while_a_receiver_hangs(
    settings: Settings, shop: Headers, there: Receiver
) -> None:
    with TestClient(create_app(settings.model_copy(update={"dispatch_seconds": 0.1}))) as client:
        webhook = made(client, shop, there, events=["deletion_request.accepted", "webhook.test"])
        body = {"training_set": "digits", "samples": [{"index": 1}]}
        request = client.post("/v1/deletion-requests", json=body, headers=shop).json()
        there.wait_for(1)
        message = verified(webhook["secret"], there.received[0])
        assert (message["type"], message["data"]["deletion_request"]) == ("deletion_request.accepted", request["id"])
        there.answer = there.hang
        trial(client, shop, webhook)
        there.wait_for(2)
        assert json.loads(there.received[1].body)["type"] == "webhook.test"
        begun = time.monotonic()
    assert time.monotonic() - begun < 6
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("webhook")]
