"""When gathered requests become a job: by hand-computed times, and in the planner."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models.base import now
from models.parameters import Batching, Policy
from models.records import DeletionRequest, Erasure, Job, JobKind, JobStatus, VersionStatus
from models.session import Database
from models.settings import Settings
from service.duties import planning
from service.duties.batching import Gathering, is_over, starts_by
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import posted


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


FIRST, DUE = at("2026-11-02T08:00:00"), at("2026-12-02T23:59:59")
GATHERED = Gathering(requests=3, oldest=FIRST, due=DUE)
EARLY = at("2026-11-03T08:00:00")


def gather(**limits: Any) -> Batching:
    return Batching(mode="gather", **limits)


@pytest.mark.parametrize(
    ("batching", "expected"),
    [
        (gather(), "2026-11-29T23:59:59"),
        (gather(margin_days=0.5), "2026-12-02T11:59:59"),
        (gather(margin_days=10), "2026-11-22T23:59:59"),
        (gather(window_hours=72), "2026-11-05T08:00:00"),
        (gather(window_hours=8760), "2026-11-29T23:59:59"),
        (gather(requests=4), "2026-11-29T23:59:59"),
        (gather(requests=4, window_hours=100.5), "2026-11-06T12:30:00"),
        (gather(requests=3), "2026-11-03T08:00:00"),  # that is now: enough have come
        (gather(requests=2, window_hours=72), "2026-11-03T08:00:00"),
        (gather(window_hours=24), "2026-11-03T08:00:00"),  # to the second
        (gather(window_hours=1), "2026-11-03T08:00:00"),  # over since yesterday
        (gather(margin_days=31), "2026-11-03T08:00:00"),
    ],
    ids=str,
)
def test_gathering_ends_at_the_first_limit_that_is_reached(batching: Batching, expected: str) -> None:
    latest = starts_by(batching, GATHERED, EARLY)
    assert latest == at(expected)
    assert is_over(batching, GATHERED, EARLY) == (latest == EARLY)
    assert is_over(batching, GATHERED, latest)


def test_a_model_that_does_not_gather_starts_at_once() -> None:
    assert starts_by(Batching(), GATHERED, EARLY) is None
    assert is_over(Batching(), GATHERED, EARLY)


def test_one_request_more_may_bring_the_start_forward() -> None:
    more = GATHERED.joined(at("2026-11-04T00:00:00"), at("2026-11-20T23:59:59"))
    assert more == Gathering(4, FIRST, at("2026-11-20T23:59:59"))
    assert starts_by(gather(), more, EARLY) == at("2026-11-17T23:59:59")
    assert starts_by(gather(requests=4), more, EARLY) == EARLY


@pytest.mark.parametrize(
    "limits",
    [
        {"mode": "at_once", "requests": 5},
        {"window_hours": 24},
        {"mode": "gather", "requests": 1},
        {"mode": "gather", "window_hours": 0},
        {"mode": "gather", "margin_days": 0},
        {"mode": "gather", "margin_days": None},
        {"mode": "gather", "margin_days": 61},
        {"mode": "sometimes"},
        {"mode": "gather", "hours": 3},
    ],
    ids=str,
)
def test_nonsense_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"batching": limits})


def test_a_policy_that_was_stored_before_there_was_a_choice_starts_at_once() -> None:
    stored = Policy().model_dump(mode="json")
    del stored["batching"]
    assert Policy.model_validate(stored).batching.mode == "at_once"


# In the planner


@pytest.fixture
def gathering(world: World) -> uuid.UUID:
    """A model that gathers three requests, or those of two days."""
    made = world.training_set("digits", "shop")
    batching = {"mode": "gather", "requests": 3, "window_hours": 48, "margin_days": 2}
    world.model("digits-cnn", "digits", batching=batching)
    return made


def shown(client: TestClient, shop: Headers, request: str) -> Any:
    (erasure,) = client.get(f"/v1/deletion-requests/{request}", headers=shop).json()["erasures"]
    start = erasure["starts_by"]
    return None if start is None else datetime.fromisoformat(start)


def received(database: Database, request: str) -> datetime:
    with database.read() as session:
        return session.scalars(select(Erasure.created_at).where(Erasure.request_id == uuid.UUID(request))).one()


def attached(database: Database) -> dict[str, bool]:
    with database.read() as session:
        rows = session.execute(select(Erasure.request_id, Erasure.job_id)).all()
    return {str(request): job is not None for request, job in rows}


@pytest.mark.usefixtures("gathering")
def test_requests_wait_until_enough_have_come_and_one_job_serves_all(
    client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    first, second = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 7})
    assert planning.plan(database, settings) == 0
    assert shown(client, shop, first) == shown(client, shop, second) == received(database, first) + timedelta(hours=48)
    (listed, _) = client.get("/v1/deletion-requests", headers=shop).json()["data"]
    assert datetime.fromisoformat(listed["erasures"][0]["starts_by"]) == shown(client, shop, second)
    third = posted(client, shop, {"index": 9})
    assert shown(client, shop, first) <= now()
    assert planning.plan(database, settings) == 1
    assert attached(database) == {first: True, second: True, third: True}
    assert shown(client, shop, first) is None  # it has its job
    fourth = posted(client, shop, {"index": 11})
    assert planning.plan(database, settings) == 0
    assert shown(client, shop, fourth) == received(database, fourth) + timedelta(hours=48)


@pytest.mark.parametrize("limit", ["window", "margin"])
@pytest.mark.usefixtures("gathering")
def test_requests_wait_no_longer_than_the_window_and_the_margin(
    limit: str, client: TestClient, database: Database, settings: Settings, shop: Headers
) -> None:
    first, second = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 7})
    of_first = uuid.UUID(first)

    def moved(by: timedelta) -> None:
        with database.write() as session:
            if limit == "window":
                passed = update(Erasure).where(Erasure.request_id == of_first)
                session.execute(passed.values(created_at=now() - timedelta(hours=48) + by))
            else:
                due = update(DeletionRequest).where(DeletionRequest.id == of_first)
                session.execute(due.values(due_at=now() + timedelta(days=2) + by))

    moved(timedelta(minutes=1))
    assert planning.plan(database, settings) == 0
    moved(timedelta(seconds=-1))
    assert planning.plan(database, settings) == 1
    assert attached(database) == {first: True, second: True}


@pytest.mark.usefixtures("gathering")
def test_what_is_held_or_awaits_approval_does_not_count(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    first, second = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 7})
    large = posted(client, shop, *({"index": index} for index in range(30)))
    reason = {"reason": "identity is being checked"}
    assert client.post(f"/v1/deletion-requests/{second}/hold", headers=operator, json=reason).status_code == 202
    assert shown(client, shop, large) is None
    assert shown(client, shop, second) is None
    assert planning.plan(database, settings) == 0
    assert client.post(f"/v1/deletion-requests/{large}/approve", headers=operator).status_code == 202
    assert planning.plan(database, settings) == 0
    assert client.post(f"/v1/deletion-requests/{second}/resume", headers=operator).status_code == 202
    assert planning.plan(database, settings) == 1
    assert attached(database) == {first: True, second: True, large: True}


@pytest.mark.usefixtures("gathering")
def test_what_is_forgotten_already_is_done_without_waiting(
    client: TestClient, database: Database, settings: Settings, world: World, shop: Headers
) -> None:
    first, second = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 1})
    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(first, "digits-cnn", version)
    assert planning.plan(database, settings) == 0
    assert client.get(f"/v1/deletion-requests/{second}", headers=shop).json()["status"] == "completed"


@pytest.mark.usefixtures("gathering")
def test_a_retried_job_does_not_gather_again(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    for index in (1, 7, 9):
        posted(client, shop, {"index": index})
    assert planning.plan(database, settings) == 1
    with database.write() as session:
        job = session.scalars(select(Job).where(Job.kind == JobKind.UNLEARN, Job.status == JobStatus.QUEUED)).one()
        job.status = JobStatus.FAILED
        for erasure in session.scalars(select(Erasure)):
            erasure.status = erasure.status.__class__.FAILED
    made = client.post(f"/v1/jobs/{job.id}/retry", headers=operator)
    assert made.status_code == 202, made.text
    assert len(made.json()["requests"]) == 3


@pytest.mark.usefixtures("digits")
def test_a_model_that_does_not_gather_has_no_start_to_show(client: TestClient, shop: Headers) -> None:
    assert shown(client, shop, posted(client, shop, {"index": 1})) is None
