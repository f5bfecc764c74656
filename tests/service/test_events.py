"""/v1/events"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import select, text
from starlette.testclient import TestClient

from models.records import EventSeal, record_event
from service.duties.sealing import seal_events

Headers = dict[str, str]


@pytest.fixture
def jobs(world: Any) -> list[uuid.UUID]:
    """Two jobs, of which the log tells at positions 1 to 3 and 4; a model's event follows, and one that is not sealed."""
    first, second = uuid.uuid4(), uuid.uuid4()
    told = [
        ("job.queued", "job", first),
        ("job.started", "job", first),
        ("job.succeeded", "job", first),
        ("job.queued", "job", second),
        ("model.accepted", "model", first),
    ]
    with world.database.write() as session:
        for name, record, record_id in told:
            record_event(session, name, record, record_id, "test", share=0.5)
            session.flush()
    seal_events(world.database)
    with world.database.write() as session:
        record_event(session, "job.started", "job", second, "test")
    return [first, second]


def test_the_log_is_paged_oldest_first(client: TestClient, jobs: list[uuid.UUID], compliance: Headers) -> None:
    positions: list[int] = []
    cursor: str | None = None
    while True:
        page = client.get(
            "/v1/events", headers=compliance, params={"limit": 2, **({"cursor": cursor} if cursor else {})}
        )
        positions += [event["position"] for event in page.json()["data"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
    assert positions == [1, 2, 3, 4, 5]


def test_the_log_is_filtered_by_record(client: TestClient, jobs: list[uuid.UUID], compliance: Headers) -> None:
    def positions(**query: str) -> list[int]:
        answer = client.get("/v1/events", headers=compliance, params=query)
        return [event["position"] for event in answer.json()["data"]]

    assert positions(record="job") == [1, 2, 3, 4]
    assert positions(record="job", record_id=str(jobs[0])) == [1, 2, 3]
    assert positions(record_id=str(jobs[0])) == [1, 2, 3, 5]
    assert positions(record="training_set") == []


@pytest.mark.parametrize("query", ["record=%00", "record_id=%00", "record=Job", "record_id=", "cursor=nonsense"])
def test_a_filter_that_makes_no_sense_is_refused(query: str, client: TestClient, compliance: Headers) -> None:
    assert client.get(f"/v1/events?{query}", headers=compliance).status_code == 422


def test_the_check_of_the_log_says_where_it_ends(
    client: TestClient, world: Any, jobs: list[uuid.UUID], compliance: Headers
) -> None:
    with world.database.read() as session:
        last = session.scalars(select(EventSeal.hash).order_by(EventSeal.position.desc()).limit(1)).one()
    assert client.get("/v1/events/verify", headers=compliance).json() == {
        "intact": True,
        "sealed": 5,
        "unsealed": 1,
        "head": {"position": 5, "hash": last},
        "first_bad": None,
    }


def test_the_check_of_an_empty_log_says_so(client: TestClient, compliance: Headers) -> None:
    found = client.get("/v1/events/verify", headers=compliance).json()
    assert found == {"intact": True, "sealed": 0, "unsealed": 0, "head": None, "first_bad": None}


@pytest.mark.fault(13)
def test_the_check_of_the_log_names_the_event_that_was_changed(
    client: TestClient, world: Any, jobs: list[uuid.UUID], compliance: Headers
) -> None:
    event = client.get("/v1/events", headers=compliance).json()["data"][2]
    with world.database.engine.begin() as connection:
        postgres = connection.dialect.name == "postgresql"
        connection.execute(
            text("DROP TRIGGER events_append_only ON events" if postgres else "DROP TRIGGER events_no_update")
        )
        connection.execute(text("UPDATE events SET actor = 'nobody' WHERE name = 'job.succeeded'"))
    found = client.get("/v1/events/verify", headers=compliance).json()
    assert found["intact"] is False
    assert found["first_bad"] == {
        "position": 3,
        "event": event["id"],
        "why": "the event was changed after it was sealed",
    }
