"""/v1/webhooks: what an application sees and decides; others see nothing."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from starlette.testclient import TestClient

from models.base import now
from models.records import Base, DeliveryStatus, Event, Role, Webhook, WebhookAttempt, WebhookDelivery
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.schemas.webhooks import MessageType
from service.webhooks.registering import MOST_WEBHOOKS
from service.webhooks.targets import Targets
from tests.service.conftest import Headers, World

URL = "/v1/webhooks"
HOOK = "https://hooks.example/in?token=only-theirs"


@pytest.fixture
def client(client: TestClient) -> TestClient:
    """The application, for which every name is at a public address."""
    client.app.state.targets = Targets(resolve=lambda host, port: ["93.184.215.14"])  # type: ignore[attr-defined]
    return client


def made(client: TestClient, key: Headers, **body: Any) -> dict[str, Any]:
    answer = client.post(URL, json={"url": HOOK} | body, headers=key)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_a_webhook_is_made_and_its_secret_is_shown_once(client: TestClient, database: Database, shop: Headers) -> None:
    answer = client.post(URL, json={"url": HOOK, "events": ["version.released", "version.released"]}, headers=shop)
    webhook = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == webhook["links"]["self"] == f"{URL}/{webhook['id']}"
    assert (webhook["url"], webhook["events"]) == (HOOK, ["version.released"])
    assert webhook["secret"].startswith("whsec_")
    assert len(base64.b64decode(webhook["secret"].removeprefix("whsec_"))) == 32
    shown = client.get(f"{URL}/{webhook['id']}", headers=shop).json()
    assert shown == {name: value for name, value in webhook.items() if name != "secret"}
    assert client.get(URL, headers=shop).json() == {"data": [shown], "next_cursor": None}
    assert made(client, shop)["secret"] != webhook["secret"]
    with database.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            rows = str(connection.execute(select(table)).all())
            assert webhook["secret"].removeprefix("whsec_") not in rows


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/url"),
        ({"url": ""}, "#/url"),
        ({"url": "http://hooks.example/"}, "#/url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "#/url"),
        ({"url": "https://[::1]/"}, "#/url"),
        ({"url": "https://user:word@hooks.example/"}, "#/url"),
        ({"url": "https://hooks.example/#x"}, "#/url"),
        ({"url": "https://hooks.example/\0"}, "#/url"),
        ({"url": "https://hooks.example/" + "x" * 2000}, "#/url"),
        ({"url": HOOK, "events": ["deletion_request.exploded"]}, "#/events/0"),
        ({"url": HOOK, "events": "all"}, "#/events"),
        ({"url": HOOK, "secret": "mine"}, "#/secret"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_where_it_is_wrong(
    body: dict[str, Any], pointer: str, client: TestClient, shop: Headers
) -> None:
    answer = client.post(URL, json=body, headers=shop)
    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert client.get(URL, headers=shop).json()["data"] == []


def test_an_application_has_so_many_webhooks_and_no_more(client: TestClient, shop: Headers, rival: Headers) -> None:
    webhooks = [made(client, shop) for _ in range(MOST_WEBHOOKS)]
    refused = client.post(URL, json={"url": HOOK}, headers=shop)
    assert refused.status_code == 409
    assert "delete one first" in refused.json()["detail"]
    made(client, rival)
    assert client.delete(f"{URL}/{webhooks[0]['id']}", headers=shop).status_code == 204
    made(client, shop)
    page = client.get(URL, params={"limit": 15}, headers=shop).json()
    rest = client.get(URL, params={"cursor": page["next_cursor"]}, headers=shop).json()
    listed = [webhook["id"] for webhook in page["data"] + rest["data"]]
    assert len(set(listed)) == MOST_WEBHOOKS
    assert webhooks[0]["id"] not in listed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/enable"),
        ("POST", "/rotate-secret"),
        ("POST", "/test"),
        ("GET", "/deliveries"),
        ("GET", "/deliveries/1"),
        ("POST", "/deliveries/1/redeliver"),
    ],
)
def test_the_webhook_of_another_application_is_answered_like_none(
    method: str, path: str, client: TestClient, world: World, shop: Headers, rival: Headers
) -> None:
    theirs, deleted = made(client, shop), made(client, rival)
    client.post(f"{URL}/{theirs['id']}/test", headers=shop)
    client.delete(f"{URL}/{deleted['id']}", headers=rival)

    def answer(webhook: object) -> dict[str, Any]:
        found = client.request(method, f"{URL}/{webhook}{path}", headers=rival)
        assert found.status_code == 404
        return {name: value for name, value in found.json().items() if name != "trace_id"}

    assert answer(theirs["id"]) == answer(deleted["id"]) == answer(uuid.uuid4())
    assert client.get(URL, headers=rival).json()["data"] == []
    second_key = world.key(Role.APPLICATION, "shop")
    assert client.get(f"{URL}/{theirs['id']}", headers=second_key).status_code == 200


def test_a_test_message_is_a_delivery_that_can_be_looked_at(client: TestClient, shop: Headers) -> None:
    webhook = made(client, shop, events=["version.released"])
    answer = client.post(f"{URL}/{webhook['id']}/test", headers=shop)
    delivery = answer.json()
    assert answer.status_code == 202
    assert (delivery["number"], delivery["type"], delivery["status"]) == (1, "webhook.test", "pending")
    assert (delivery["attempts"], delivery["last_attempt"]) == (0, None)
    found = client.get(delivery["links"]["self"], headers=shop).json()
    assert found["log"] == []
    assert found["payload"].keys() == {"type", "timestamp", "data"}
    assert found["payload"]["type"] == "webhook.test"
    assert found["payload"]["data"] == {"webhook": webhook["id"]}
    assert client.get(f"{URL}/{webhook['id']}/deliveries/2", headers=shop).status_code == 404
    assert client.get(f"{URL}/{webhook['id']}/deliveries/0", headers=shop).status_code == 422


def test_a_message_is_sent_again_under_the_same_id(client: TestClient, shop: Headers) -> None:
    webhook = made(client, shop)
    first = client.post(f"{URL}/{webhook['id']}/test", headers=shop).json()
    answer = client.post(f"{first['links']['self']}/redeliver", headers=shop)
    again = answer.json()
    assert answer.status_code == 202
    assert (again["number"], again["message_id"]) == (2, first["message_id"])
    payloads = [client.get(each["links"]["self"], headers=shop).json()["payload"] for each in (first, again)]
    assert payloads[0] == payloads[1]
    assert client.post(f"{URL}/{webhook['id']}/deliveries/9/redeliver", headers=shop).status_code == 404


def test_deliveries_are_paged_newest_first_with_their_last_attempts(
    client: TestClient, database: Database, shop: Headers
) -> None:
    webhook = made(client, shop)
    for _ in range(5):
        client.post(f"{URL}/{webhook['id']}/test", headers=shop)
    with database.write() as session:
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.number == 2)
            .values(status=DeliveryStatus.DELIVERED, attempts=2, next_attempt_at=None, finished_at=now())
        )
        for code, error in ((500, "not a status of success"), (200, None)):
            session.add(
                WebhookAttempt(
                    webhook_id=uuid.UUID(webhook["id"]), delivery_number=2, status_code=code, error=error, seconds=0.25
                )
            )
            session.flush()
    page = client.get(f"{URL}/{webhook['id']}/deliveries", params={"limit": 3}, headers=shop)
    rest = client.get(
        f"{URL}/{webhook['id']}/deliveries", params={"limit": 3, "cursor": page.json()["next_cursor"]}, headers=shop
    ).json()
    assert [each["number"] for each in page.json()["data"] + rest["data"]] == [5, 4, 3, 2, 1]
    assert 'rel="next"' in page.headers["Link"]
    delivered = client.get(f"{URL}/{webhook['id']}/deliveries", params={"status": "delivered"}, headers=shop).json()
    (only,) = delivered["data"]
    assert only["number"] == 2
    assert (only["last_attempt"]["status_code"], only["last_attempt"]["error"]) == (200, None)
    log = client.get(only["links"]["self"], headers=shop).json()["log"]
    assert [each["status_code"] for each in log] == [500, 200]
    assert client.get(f"{URL}/{webhook['id']}/deliveries?status=lost", headers=shop).status_code == 422
    assert client.get(f"{URL}/{webhook['id']}/deliveries?cursor=lost", headers=shop).status_code == 422


def test_a_deleted_webhook_is_sent_nothing_of_what_was_waiting(
    client: TestClient, database: Database, shop: Headers
) -> None:
    webhook = made(client, shop)
    client.post(f"{URL}/{webhook['id']}/test", headers=shop)
    answer = client.delete(f"{URL}/{webhook['id']}", headers=shop)
    assert (answer.status_code, answer.content) == (204, b"")
    with database.read() as session:
        delivery = session.scalars(select(WebhookDelivery)).one()
        assert (delivery.status, delivery.next_attempt_at) == (DeliveryStatus.DISCARDED, None)
        assert delivery.finished_at is not None
        assert session.scalars(select(Webhook)).one().deleted_at is not None


def test_a_disabled_webhook_takes_no_messages_until_it_is_enabled(
    client: TestClient, database: Database, shop: Headers
) -> None:
    webhook = made(client, shop)
    client.post(f"{URL}/{webhook['id']}/test", headers=shop)
    with database.write() as session:
        session.execute(update(Webhook).values(disabled_at=now(), disabled_reason="gone", failing_since=now()))
    for path in ("/test", "/deliveries/1/redeliver"):
        refused = client.post(f"{URL}/{webhook['id']}{path}", headers=shop)
        assert refused.status_code == 409
        assert "enable it first" in refused.json()["detail"]
    for _ in range(2):
        enabled = client.post(f"{URL}/{webhook['id']}/enable", headers=shop)
        assert enabled.status_code == 200
        assert [enabled.json()[name] for name in ("disabled_at", "disabled_reason", "failing_since")] == [None] * 3
    assert client.post(f"{URL}/{webhook['id']}/test", headers=shop).status_code == 202
    with database.read() as session:
        enabled_events = session.scalar(select(func.count()).where(Event.name == "webhook.enabled"))
        assert enabled_events == 1


def test_a_rotated_secret_is_another_and_the_one_before_goes_on_for_a_day(client: TestClient, shop: Headers) -> None:
    webhook = made(client, shop)
    assert webhook["previous_secret_until"] is None
    rotated = client.post(f"{URL}/{webhook['id']}/rotate-secret", headers=shop)
    assert rotated.status_code == 200
    assert rotated.json()["secret"] != webhook["secret"]
    assert rotated.json()["previous_secret_until"] > webhook["created_at"]


def test_what_is_decided_about_a_webhook_is_in_the_log_and_its_url_is_not(
    client: TestClient, database: Database, shop: Headers
) -> None:
    webhook = made(client, shop)
    client.post(f"{URL}/{webhook['id']}/rotate-secret", headers=shop)
    client.delete(f"{URL}/{webhook['id']}", headers=shop)
    with database.read() as session:
        events = session.scalars(select(Event).where(Event.record == "webhook").order_by(Event.id)).all()
        assert [event.name for event in events] == ["webhook.created", "webhook.secret_rotated", "webhook.deleted"]
        assert {event.record_id for event in events} == {webhook["id"]}
        assert all(event.actor.startswith("key:") for event in events)
        everything = str(session.execute(text("SELECT * FROM events")).all())
    for hidden in ("hooks.example", "only-theirs", webhook["secret"]):
        assert hidden not in everything


def test_the_documentation_says_what_a_receiver_is_posted(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["webhooks"]["message"]["post"]
    assert {each["name"] for each in operation["parameters"]} == {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
    schemas = document["components"]["schemas"]
    assert schemas["Message"].keys() >= {"properties", "required"}
    assert set(schemas["MessageType"]["enum"]) == {each.value for each in MessageType}
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(schemas)


def test_names_that_take_long_to_resolve_leave_threads_to_others(settings: Settings, shop: Headers) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow(*_: object) -> list[str]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.2)
        with lock:
            running -= 1
        return []

    with TestClient(create_app(settings, dispatch=False)) as client, ThreadPoolExecutor(12) as pool:
        client.app.state.targets = Targets((), slow)  # type: ignore[attr-defined]
        body = {"url": "https://hooks.example/"}
        answers = list(pool.map(lambda _: client.post("/v1/webhooks", json=body, headers=shop), range(12)))
    assert {answer.status_code for answer in answers} == {422}
    assert most <= 4
