"""Cancel, hold, resume, extend, approve and reject a deletion request."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models.base import now
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Job,
    JobStatus,
    Sample,
    VersionStatus,
)
from models.session import Database
from models.settings import Settings
from service.duties import certifying, erasing, planning
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import events, forget, posted, request_of
from tests.settled import settle_all

URL = "/v1/deletion-requests"
DECISIONS = ("cancel", "hold", "resume", "extend", "approve", "reject")
WHY = {"reason": "as agreed by telephone"}


def decide(client: TestClient, headers: Headers, request: str, decision: str, body: Any = WHY) -> Any:
    return client.post(f"{URL}/{request}/{decision}", headers=headers, json=body)


def decided(client: TestClient, headers: Headers, request: str, decision: str, body: Any = WHY) -> dict[str, Any]:
    answer = decide(client, headers, request, decision, body)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert found == client.get(f"{URL}/{request}", headers=headers).json()
    return found


def refused(client: TestClient, headers: Headers, request: str, decision: str) -> str:
    before = client.get(f"{URL}/{request}", headers=headers).json()
    answer = decide(client, headers, request, decision)
    assert answer.status_code == 409, answer.text
    assert client.get(f"{URL}/{request}", headers=headers).json() == before
    return str(answer.json()["detail"])


def statuses(answer: dict[str, Any]) -> list[str]:
    return [erasure["status"] for erasure in answer["erasures"]]


def erasure_becomes(database: Database, request: str, status: ErasureStatus, **values: Any) -> None:
    """What a job or another decision would have made of it."""
    with database.write() as session:
        of_request = Erasure.request_id == uuid.UUID(request)
        session.execute(update(Erasure).where(of_request).values(status=status, **values))
        settle_all(session)


def large(client: TestClient, shop: Headers, **more: Any) -> str:
    """A request that takes three quarters of the training images, and so waits for approval."""
    return posted(client, shop, *({"index": index} for index in range(30)), **more)


# Cancel


@pytest.mark.usefixtures("digits")
def test_an_application_cancels_its_own_request_and_needs_no_body(client: TestClient, shop: Headers) -> None:
    request = posted(client, shop, {"index": 1})
    answer = client.post(f"{URL}/{request}/cancel", headers=shop)
    assert answer.status_code == 202
    assert (answer.json()["status"], statuses(answer.json())) == ("cancelled", ["cancelled"])
    assert answer.json()["cancelled_at"] is not None
    assert answer.json()["days_left"] is None


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("decision", DECISIONS)
def test_anothers_request_is_not_found(
    decision: str, client: TestClient, shop: Headers, rival: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    allowed = rival if decision == "cancel" else operator
    others, unknown = (decide(client, rival, each, decision) for each in (request, str(uuid.uuid4())))
    assert others.status_code == unknown.status_code == (404 if decision == "cancel" else 403)
    assert others.json()["detail"] == unknown.json()["detail"]
    assert decide(client, allowed, str(uuid.uuid4()), decision).status_code == 404
    assert client.get(f"{URL}/{request}", headers=shop).json()["status"] == "queued"


@pytest.mark.usefixtures("digits")
def test_an_operator_cancels_with_a_reason_that_stays_in_the_log(
    client: TestClient, database: Database, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    answer = decided(client, operator, request, "cancel")
    assert (answer["decision_reason"], answer["erasures"][0]["reason"]) == (WHY["reason"], WHY["reason"])
    (event,) = events(database, "deletion_request.cancelled")
    assert event.record_id == request
    assert event.actor.startswith("key:")
    assert (event.data["reason"], event.data["erasures"], event.data["controls_spared"]) == (WHY["reason"], 1, False)


@pytest.mark.parametrize("status", [ErasureStatus.ON_HOLD, ErasureStatus.FAILED])
@pytest.mark.usefixtures("digits")
def test_what_is_on_hold_or_failed_can_be_cancelled_too(
    status: ErasureStatus, client: TestClient, database: Database, shop: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    erasure_becomes(database, request, status)
    assert decided(client, shop, request, "cancel")["status"] == "cancelled"


@pytest.mark.parametrize("status", [ErasureStatus.DONE, ErasureStatus.AWAITING_RELEASE, ErasureStatus.NOT_APPLICABLE])
@pytest.mark.usefixtures("digits")
def test_what_is_forgotten_stays_forgotten(
    status: ErasureStatus, client: TestClient, database: Database, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    erasure_becomes(database, request, status)
    for decision in ("cancel", "hold", "reject"):
        refused(client, operator, request, decision)


@pytest.mark.usefixtures("digits")
def test_a_request_is_cancelled_where_it_still_can_be(
    client: TestClient, database: Database, world: World, shop: Headers
) -> None:
    world.model("other", "digits")
    request = posted(client, shop, {"index": 1})
    forget(world, request)
    answer = decided(client, shop, request, "cancel")
    assert sorted(statuses(answer)) == ["cancelled", "done"]
    assert answer["status"] == "partially_completed"
    assert "nothing of it is left" in refused(client, shop, request, "cancel")


@pytest.mark.usefixtures("digits")
def test_a_queued_job_goes_on_without_a_cancelled_request_and_ends_with_the_last(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    first, second = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 7})
    assert planning.plan(database, settings) == 1
    assert decided(client, shop, first, "cancel")["erasures"][0]["job"] is None
    with database.read() as session:
        (job,) = session.scalars(select(Job).where(Job.id.in_(select(Erasure.job_id))))
        assert job.status is JobStatus.QUEUED
    decided(client, shop, second, "cancel")
    with database.read() as session:
        assert session.get_one(Job, job.id).status is JobStatus.CANCELLED
    assert planning.plan(database, settings) == 0


# Controls


def test_controls_of_a_cancelled_or_held_request_are_spared(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    world.files(digits)
    cancelled, held = posted(client, shop, {"index": 41}), posted(client, shop, {"index": 42})
    answer = decided(client, operator, cancelled, "cancel")
    assert (answer["status"], answer["erasures"]) == ("cancelled", [])
    assert decided(client, operator, held, "hold")["status"] == "on_hold"
    assert erasing.erase_controls(database, settings) == 0
    assert world.zeroed("set/1/pixels.u8") == []
    assert decided(client, operator, held, "resume")["status"] == "queued"
    assert erasing.erase_controls(database, settings) == 1
    assert world.zeroed("set/1/pixels.u8") == [42]
    assert certifying.plan_documents(database, settings) == 1  # of the one that was resumed
    for decision in ("cancel", "hold", "resume"):
        refused(client, operator, cancelled, decision)


def test_controls_whose_names_are_gone_already_are_erased_to_the_end(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    world.files(digits)
    request = posted(client, shop, {"index": 41}, {"index": 7})
    job = world.job("digits-cnn", status=JobStatus.RUNNING)  # it may read the arrays
    assert erasing.erase_controls(database, settings) == 0
    with database.read() as session:
        assert session.get_one(Sample, (digits, 41)).key is None
    assert "control images" in refused(client, operator, request, "reject")
    answer = decided(client, shop, request, "cancel")
    assert answer["status"] == "cancelled"
    assert events(database, "deletion_request.cancelled")[0].data["controls_spared"] is False
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(status=JobStatus.SUCCEEDED))
    assert erasing.erase_controls(database, settings) == 1
    assert world.zeroed("set/1/pixels.u8") == [41]


def test_a_hold_that_comes_between_looking_and_burying_is_respected(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world.files(digits)
    request = posted(client, shop, {"index": 41})
    real = erasing._erase

    def late(*arguments: Any) -> bool:
        decided(client, operator, request, "hold")
        return real(*arguments)

    monkeypatch.setattr(erasing, "_erase", late)
    assert erasing.erase_controls(database, settings) == 0
    with database.read() as session:
        assert session.get_one(Sample, (digits, 41)).key is not None


# Hold and resume


@pytest.mark.usefixtures("digits")
def test_a_held_request_is_planned_only_once_it_is_resumed(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    answer = decided(client, operator, request, "hold")
    assert (answer["status"], statuses(answer), answer["decision_reason"]) == ("on_hold", ["on_hold"], WHY["reason"])
    assert answer["held_at"] is not None
    assert answer["days_left"] is not None  # the period runs on
    assert planning.plan(database, settings) == 0
    assert "nothing of it is left that could be held" in refused(client, operator, request, "hold")
    answer = decided(client, operator, request, "resume", None)
    assert (answer["status"], statuses(answer), answer["held_at"]) == ("queued", ["open"], None)
    assert answer["erasures"][0]["reason"] is None
    assert planning.plan(database, settings) == 1
    assert "nothing of it is on hold" in refused(client, operator, request, "resume")
    assert [event.name for event in events_of(database, request)] == [
        "deletion_request.accepted",
        "deletion_request.held",
        "deletion_request.status_changed",
        "deletion_request.resumed",
        "deletion_request.status_changed",
    ]


def events_of(database: Database, request: str) -> list[Event]:
    with database.read() as session:
        return list(session.scalars(select(Event).where(Event.record_id == request).order_by(Event.id)))


@pytest.mark.usefixtures("digits")
def test_an_erasure_that_a_held_request_gets_back_waits_with_it(
    client: TestClient, database: Database, settings: Settings, world: World, shop: Headers, operator: Headers
) -> None:
    world.model("other", "digits")
    request = posted(client, shop, {"index": 1})
    decided(client, operator, request, "hold")
    with database.write() as session:
        first = session.scalars(select(Erasure).order_by(Erasure.id).limit(1)).one()
        first.status = ErasureStatus.OPEN  # as one whose version nobody released in time
    assert planning.plan(database, settings) == 0
    assert statuses(decided(client, operator, request, "resume")) == ["open", "open"]
    assert planning.plan(database, settings) == 2


@pytest.mark.parametrize("decision", ["hold", "extend", "reject"])
@pytest.mark.parametrize(
    "body", [None, {}, {"reason": ""}, {"reason": "x" * 2001}, {"reason": "a", "more": 1}], ids=str
)
@pytest.mark.usefixtures("digits")
def test_some_decisions_need_their_reason(
    decision: str, body: Any, client: TestClient, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    assert decide(client, operator, request, decision, body).status_code == 422
    assert client.get(f"{URL}/{request}", headers=shop).json()["status"] == "queued"


# Extend


@pytest.mark.parametrize(
    ("regulation", "submitted_at", "due", "extended"),
    [
        ("GDPR", "2026-11-20T09:00:00Z", "2026-12-20", "2027-02-20"),
        ("UK-GDPR", "2026-11-01T09:00:00Z", "2026-12-01", "2027-02-01"),
        ("CCPA", "2026-11-20T09:00:00Z", "2027-01-04", "2027-02-18"),
    ],
)
@pytest.mark.usefixtures("digits")
def test_a_period_is_extended_once(
    regulation: str,
    submitted_at: str,
    due: str,
    extended: str,
    client: TestClient,
    database: Database,
    shop: Headers,
    operator: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = datetime(2026, 11, 24, tzinfo=UTC)
    monkeypatch.setattr("service.asking.now", lambda: at)
    monkeypatch.setattr("service.decisions.now", lambda: at)
    headers = shop | {"Idempotency-Key": "case-1"}
    body = {
        "training_set": "digits",
        "samples": [{"index": 1}],
        "regulation": regulation,
        "submitted_at": submitted_at,
    }
    receipt = client.post(URL, headers=headers, json=body)
    request = receipt.json()["id"]
    with database.write() as session:
        session.execute(update(DeletionRequest).values(due_soon_told_at=at, overdue_told_at=at))
    answer = decided(client, operator, request, "extend")
    assert answer["due_at"] == f"{extended}T23:59:59Z"
    assert answer["original_due_at"] == f"{due}T23:59:59Z"
    assert (answer["extension_reason"], answer["decision_reason"]) == (WHY["reason"], None)
    assert answer["extended_at"] is not None
    told = request_of(database, request)
    assert (told.due_soon_told_at, told.overdue_told_at) == (None, None)
    (event,) = events(database, "deletion_request.extended")
    assert event.data["original_due_at"].startswith(due)
    assert event.data["due_at"].startswith(extended)
    assert event.data["due_rule"]
    assert "extended already" in refused(client, operator, request, "extend")
    assert client.post(URL, headers=headers, json=body).content == receipt.content


@pytest.mark.usefixtures("digits")
def test_a_regulation_without_an_extension_is_named(client: TestClient, shop: Headers, operator: Headers) -> None:
    request = posted(client, shop, {"index": 1}, regulation="LGPD")
    assert "LGPD allows no extension" in refused(client, operator, request, "extend")


@pytest.mark.usefixtures("digits")
def test_an_extension_comes_before_the_first_period_ends_and_before_the_request_does(
    client: TestClient, database: Database, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    with database.write() as session:
        session.execute(update(DeletionRequest).values(due_at=now() - timedelta(seconds=1)))
    assert "first period ended" in refused(client, operator, request, "extend")
    ended = posted(client, shop, {"index": 7})
    decided(client, operator, ended, "cancel")
    assert "nothing left to extend" in refused(client, operator, ended, "extend")


# Approve and reject


@pytest.mark.usefixtures("digits")
def test_an_approved_request_begins(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    request = large(client, shop)
    assert planning.plan(database, settings) == 0
    answer = decided(client, operator, request, "approve", None)
    assert (answer["status"], answer["decision_reason"]) == ("queued", None)
    assert answer["approved_at"] is not None
    assert planning.plan(database, settings) == 1
    assert "only one that awaits approval" in refused(client, operator, request, "approve")
    assert events(database, "deletion_request.approved")[0].record_id == request


@pytest.mark.usefixtures("digits")
def test_only_what_awaits_approval_is_approved(client: TestClient, shop: Headers, operator: Headers) -> None:
    assert "queued" in refused(client, operator, posted(client, shop, {"index": 1}), "approve")
    held = large(client, shop)
    decided(client, operator, held, "hold")
    refused(client, operator, held, "approve")
    assert decided(client, operator, held, "resume")["status"] == "awaiting_approval"


@pytest.mark.parametrize("before", ["open", "on hold", "awaiting approval", "attached"])
@pytest.mark.usefixtures("digits")
def test_a_request_is_rejected_with_its_reason(
    before: str, client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    request = large(client, shop) if before == "awaiting approval" else posted(client, shop, {"index": 1})
    if before == "on hold":
        decided(client, operator, request, "hold")
    if before == "attached":
        planning.plan(database, settings)
    answer = decided(client, operator, request, "reject")
    assert (answer["status"], statuses(answer)) == ("rejected", ["cancelled"])
    assert answer["rejected_at"] is not None
    assert answer["decision_reason"] == WHY["reason"]
    assert planning.plan(database, settings) == 0
    assert certifying.plan_documents(database, settings) == 1
    for decision in DECISIONS:
        refused(client, operator, request, decision)


@pytest.mark.usefixtures("digits")
def test_a_request_that_one_model_has_forgotten_or_that_has_ended_is_not_rejected(
    client: TestClient, database: Database, world: World, shop: Headers, operator: Headers
) -> None:
    world.model("other", "digits")
    request = posted(client, shop, {"index": 1})
    version = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.finish(request, "digits-cnn", version, ErasureStatus.AWAITING_RELEASE)
    assert "has forgotten its samples already" in refused(client, operator, request, "reject")
    ended = posted(client, shop, {"index": 7})
    decided(client, operator, ended, "cancel")
    assert "it has ended" in refused(client, operator, ended, "reject")
    failed = posted(client, shop, {"index": 8})
    erasure_becomes(database, failed, ErasureStatus.FAILED)
    assert "it has ended" in refused(client, operator, failed, "reject")


# Due soon and overdue


@pytest.mark.parametrize(
    ("due_in", "soon", "late"),
    [(timedelta(days=8), False, False), (timedelta(days=6), True, False), (timedelta(hours=-1), False, True)],
    ids=str,
)
@pytest.mark.usefixtures("digits")
def test_an_answer_says_how_urgent_a_request_is_until_it_ends(
    due_in: timedelta, soon: bool, late: bool, client: TestClient, database: Database, shop: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    with database.write() as session:
        session.execute(update(DeletionRequest).values(due_at=now() + due_in))
    answer = client.get(f"{URL}/{request}", headers=shop).json()
    assert (answer["due_soon"], answer["overdue"]) == (soon, late)
    (listed,) = client.get(URL, headers=shop).json()["data"]
    assert (listed["due_soon"], listed["overdue"]) == (soon, late)
    answer = decided(client, shop, request, "cancel")
    assert (answer["due_soon"], answer["overdue"]) == (False, False)
