"""What the sealed log tells applications: to whom, what, and exactly once."""

from __future__ import annotations

import json
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models.base import now
from models.records import (
    Application,
    Cursor,
    DeletionRequest,
    DeliveryStatus,
    Erasure,
    ErasureStatus,
    Event,
    EventSeal,
    Model,
    VersionStatus,
    Webhook,
    WebhookDelivery,
    record_event,
)
from models.session import Database
from models.settings import Settings
from service.dispatcher import Dispatcher
from service.duties.sealing import seal_events
from service.webhooks import outbox
from service.webhooks.outbox import fan_out
from tests.service.conftest import Headers, World, digest
from tests.settled import settle_all

Sent = list[tuple[str, dict[str, Any]]]


def webhook(database: Database, application: str, *events: str, **values: Any) -> uuid.UUID:
    with database.write() as session:
        owner = session.scalars(select(Application).where(Application.name == application)).one()
        made = Webhook(application_id=owner.id, url="https://hooks.example/", events=list(events), **values)
        session.add(made)
    return made.id


def told(database: Database, webhook: uuid.UUID) -> Sent:
    """Types and data of the messages for a webhook, in the order of their numbers."""
    with database.read() as session:
        query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook).order_by(WebhookDelivery.number)
        deliveries = list(session.scalars(query))
    assert [each.number for each in deliveries] == list(range(1, len(deliveries) + 1))
    assert all(each.status is DeliveryStatus.PENDING for each in deliveries)
    assert all(each.payload.keys() == {"type", "timestamp", "data"} for each in deliveries)
    assert all(each.payload["type"] == each.type for each in deliveries)
    assert len({each.message_id for each in deliveries}) == len(deliveries)
    return [(each.type, each.payload["data"]) for each in deliveries]


def types(database: Database, webhook: uuid.UUID) -> list[str]:
    return [kind for kind, _ in told(database, webhook)]


def tell(database: Database) -> int:
    seal_events(database)
    return fan_out(database)


def posted(client: TestClient, key: Headers, *samples: dict[str, Any], **more: Any) -> str:
    body = {"training_set": "digits", "samples": list(samples)} | more
    answer = client.post("/v1/deletion-requests", json=body, headers=key)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def move(database: Database, status: ErasureStatus) -> None:
    with database.write() as session:
        session.execute(update(Erasure).values(status=status))
        settle_all(session)


@pytest.mark.usefixtures("digits")
def test_an_application_is_told_of_every_status_that_its_request_enters(
    client: TestClient, database: Database, shop: Headers, rival: Headers
) -> None:
    own, others = webhook(database, "shop"), webhook(database, "rival")
    request = posted(client, shop, {"index": 1})
    move(database, ErasureStatus.RUNNING)
    move(database, ErasureStatus.DONE)
    assert tell(database) == 4
    messages = told(database, own)
    assert [kind for kind, _ in messages] == [
        "deletion_request.accepted",
        "deletion_request.queued",
        "deletion_request.running",
        "deletion_request.completed",
    ]
    assert [data["status"] for _, data in messages] == ["queued", "queued", "running", "completed"]
    due = client.get(f"/v1/deletion-requests/{request}", headers=shop).json()["due_at"]
    assert messages[-1][1] == {
        "deletion_request": request,
        "status": "completed",
        "was": "running",
        "due_at": due,
        "links": {"self": f"/v1/deletion-requests/{request}"},
    }
    assert told(database, others) == []


@pytest.mark.usefixtures("digits")
def test_a_message_names_nobody_and_no_sample(client: TestClient, database: Database, shop: Headers) -> None:
    own = webhook(database, "shop")
    posted(
        client,
        shop,
        {"subject": "user-42"},
        {"key": "train/00007"},
        {"sha256": digest("pixels 9")},
        external_id="crm-9911",
    )
    move(database, ErasureStatus.RUNNING)
    tell(database)
    everything = json.dumps(told(database, own))
    assert "running" in everything
    for hidden in ("user-42", "train/00007", digest("pixels 9"), "crm-9911"):
        assert hidden not in everything


@pytest.mark.usefixtures("digits")
def test_a_webhook_is_sent_the_types_that_it_asks_for(client: TestClient, database: Database, shop: Headers) -> None:
    some = webhook(database, "shop", "deletion_request.running", "certificate.issued")
    posted(client, shop, {"index": 1})
    move(database, ErasureStatus.RUNNING)
    tell(database)
    assert types(database, some) == ["deletion_request.running"]


@pytest.mark.parametrize("status", ["held", "approval"])
@pytest.mark.usefixtures("digits")
def test_a_request_that_waits_for_a_person_says_so(
    status: str, client: TestClient, database: Database, shop: Headers
) -> None:
    own = webhook(database, "shop", "deletion_request.awaiting_approval", "deletion_request.on_hold")
    posted(client, shop, *({"index": index} for index in range(30 if status == "approval" else 1)))
    if status == "held":
        move(database, ErasureStatus.ON_HOLD)
    tell(database)
    expected = "deletion_request.on_hold" if status == "held" else "deletion_request.awaiting_approval"
    assert types(database, own) == [expected]


@pytest.mark.parametrize(
    "name", ["deletion_request.extended", "deletion_request.due_soon", "deletion_request.overdue", "certificate.issued"]
)
@pytest.mark.usefixtures("digits")
def test_what_happens_to_a_request_beside_its_status_is_told_too(
    name: str, client: TestClient, database: Database, shop: Headers
) -> None:
    own = webhook(database, "shop", name)
    request = posted(client, shop, {"index": 1})
    moved = now() + timedelta(days=60)
    with database.write() as session:
        session.execute(update(DeletionRequest).values(due_at=moved))
        record_event(session, name, "deletion_request", request, "test", reason="for nobody else", document="x")
    tell(database)
    ((kind, data),) = told(database, own)
    assert (kind, data["deletion_request"], data["status"]) == (name, request, "queued")
    assert data["due_at"] == moved.isoformat().replace("+00:00", "Z")
    links = {"self": f"/v1/deletion-requests/{request}"}
    if name == "certificate.issued":
        links["certificate"] = f"/v1/deletion-requests/{request}/certificate"
    assert data["links"] == links
    assert "for nobody else" not in json.dumps(data)


@pytest.mark.usefixtures("digits", "rival")
def test_a_released_version_is_told_to_whoever_may_erase_from_its_training_set(
    client: TestClient, database: Database, world: World, shop: Headers, operator: Headers
) -> None:
    own, others = webhook(database, "shop"), webhook(database, "rival")
    version = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    answer = client.post("/v1/models/digits-cnn/versions/2/release", json={"reason": "between us"}, headers=operator)
    assert answer.status_code == 202
    assert tell(database) == 1
    assert told(database, own) == [
        (
            "version.released",
            {
                "model": "digits-cnn",
                "version": 2,
                "sha256": version.sha256,
                "links": {"checkpoint": "/v1/models/digits-cnn/checkpoint"},
            },
        )
    ]
    assert client.get("/v1/models/digits-cnn/checkpoint", headers=shop).headers["ETag"] == f'"{version.sha256}"'
    assert told(database, others) == []


@pytest.mark.usefixtures("digits")
def test_who_may_erase_from_the_set_is_told_to_stop_using_what_was_taken_out_of_service(
    client: TestClient, database: Database, shop: Headers, rival: Headers, operator: Headers
) -> None:
    own, others = webhook(database, "shop"), webhook(database, "rival")
    served = client.get("/v1/models/digits-cnn/checkpoint", headers=shop).headers["ETag"].strip('"')
    answer = client.post(
        "/v1/models/digits-cnn/versions/1/quarantine", json={"reason": "crm-9911 complained"}, headers=operator
    )
    assert answer.status_code == 202, answer.text
    assert tell(database) == 2
    links = {"checkpoint": "/v1/models/digits-cnn/checkpoint"}
    assert told(database, own) == [
        ("version.quarantined", {"model": "digits-cnn", "version": 1, "sha256": served, "links": links}),
        ("model.withdrawn", {"model": "digits-cnn", "links": links}),
    ]
    assert told(database, others) == []


def test_an_event_that_an_older_release_wrote_stops_no_messages(
    client: TestClient, database: Database, digits: uuid.UUID, shop: Headers
) -> None:
    own = webhook(database, "shop")
    with database.write() as session:
        model = session.scalars(select(Model.id)).one()
        record_event(session, "version.quarantined", "model", model, "key:0123456789ab", version=1, reason="old")
    posted(client, shop, {"index": 1})
    tell(database)
    assert types(database, own) == ["deletion_request.accepted", "deletion_request.queued"]


@pytest.mark.usefixtures("digits")
def test_nothing_is_told_of_what_was_before_the_webhook_or_after_its_end(
    client: TestClient, database: Database, shop: Headers
) -> None:
    tell(database)
    posted(client, shop, {"index": 1})
    late = webhook(database, "shop")
    deleted = webhook(database, "shop", deleted_at=now())
    disabled = webhook(database, "shop", disabled_at=now())
    assert tell(database) == 0
    posted(client, shop, {"index": 7})
    assert tell(database) == 2
    assert len(told(database, late)) == 2
    assert told(database, deleted) == told(database, disabled) == []


@pytest.mark.usefixtures("digits")
def test_an_old_log_is_told_from_its_head(client: TestClient, database: Database, shop: Headers) -> None:
    posted(client, shop, {"index": 1})
    seal_events(database)
    assert fan_out(database) == 0
    with database.read() as session:
        head = session.scalars(select(EventSeal.position).order_by(EventSeal.position.desc()).limit(1)).one()
        assert session.scalars(select(Cursor.position)).one() == head
    own = webhook(database, "shop")
    posted(client, shop, {"index": 7})
    assert tell(database) == 2
    assert len(told(database, own)) == 2


@pytest.mark.usefixtures("digits")
def test_a_webhook_that_is_there_before_the_first_round_misses_nothing(
    client: TestClient, database: Database, shop: Headers
) -> None:
    posted(client, shop, {"index": 1})
    own = webhook(database, "shop")
    posted(client, shop, {"index": 7})
    seal_events(database)
    assert fan_out(database) == 2
    assert len(told(database, own)) == 2


@pytest.mark.usefixtures("digits")
def test_a_long_log_is_told_in_rounds_without_a_gap(
    client: TestClient, database: Database, shop: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "AT_ONCE", 2)
    monkeypatch.setattr(outbox, "MOST_A_ROUND", 1)
    own = webhook(database, "shop")
    requests = [posted(client, shop, {"index": index}) for index in (1, 7, 8, 9, 10)]
    seal_events(database)
    rounds = 0
    with database.read() as session:
        head = len(list(session.scalars(select(EventSeal))))
    while rounds < head:
        fan_out(database)
        rounds += 1
    accepted = [data["deletion_request"] for kind, data in told(database, own) if kind.endswith("accepted")]
    assert accepted == requests


@pytest.mark.usefixtures("digits")
def test_a_round_that_dies_before_its_commit_is_told_once_by_the_next(
    client: TestClient, database: Database, shop: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, second = webhook(database, "shop"), webhook(database, "shop")
    posted(client, shop, {"index": 1})
    seal_events(database)
    real, calls = outbox.enqueue, []

    def dies_at_the_second(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise RuntimeError("killed here")
        return real(*given)

    monkeypatch.setattr(outbox, "enqueue", dies_at_the_second)
    with pytest.raises(RuntimeError):
        fan_out(database)
    assert told(database, own) == told(database, second) == []
    monkeypatch.undo()
    assert fan_out(database) == 4
    assert fan_out(database) == 0
    assert len(told(database, own)) == len(told(database, second)) == 2


@pytest.mark.fault(25)
@pytest.mark.usefixtures("digits")
def test_dispatchers_at_the_same_moment_tell_it_once(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    own, second = webhook(database, "shop"), webhook(database, "shop")
    tell(database)
    for index in (1, 7, 8, 9):
        posted(client, shop, {"index": index})
    seal_events(database)
    processes = [Database(settings.database) for _ in range(4)]
    barrier = threading.Barrier(len(processes))
    counts: list[int] = []

    def dispatch(process: Database) -> None:
        barrier.wait()
        counts.append(fan_out(process))

    threads = [threading.Thread(target=dispatch, args=(each,)) for each in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.dispose()
    assert sorted(counts) == [0, 0, 0, 16]
    assert len(told(database, own)) == len(told(database, second)) == 8


@pytest.mark.fault(25)
def test_the_first_round_of_two_dispatchers_makes_one_cursor(database: Database, settings: Settings) -> None:
    with database.write() as session:
        record_event(session, "one", "job", 1, "test")
    seal_events(database)
    processes = [Database(settings.database) for _ in range(4)]
    threads = [threading.Thread(target=fan_out, args=(each,)) for each in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.dispose()
    with database.read() as session:
        assert session.scalars(select(Cursor.position)).all() == [1]


@pytest.mark.usefixtures("digits")
def test_it_is_a_duty_of_the_dispatcher(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    own = webhook(database, "shop", "deletion_request.accepted")
    posted(client, shop, {"index": 1})
    Dispatcher(database, settings).round()
    assert types(database, own) == ["deletion_request.accepted"]
    with database.read() as session:
        event = session.scalars(select(Event).where(Event.name == "deletion_request.accepted")).one()
        delivery = session.scalars(select(WebhookDelivery)).one()
    assert delivery.event_id == event.id
    assert delivery.payload["timestamp"] == event.at.isoformat().replace("+00:00", "Z")
