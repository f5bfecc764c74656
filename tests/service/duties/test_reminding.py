"""Requests that are nearly due, and those past their due date, are told of once."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import pytest
import structlog
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from models.base import new_id, now
from models.records import DeletionRequest, RequestStatus
from models.session import Database
from service.dispatcher import Dispatcher
from service.duties import reminding
from tests.service.conftest import Headers
from tests.service.duties.test_erasing import events, posted


def due(database: Database, request: str, at: datetime) -> None:
    with database.write() as session:
        session.execute(update(DeletionRequest).where(DeletionRequest.id == uuid.UUID(request)).values(due_at=at))


def told(database: Database) -> dict[str, list[str]]:
    return {
        name: [event.record_id for event in events(database, f"deletion_request.{name}")]
        for name in ("due_soon", "overdue")
    }


@pytest.mark.usefixtures("digits")
def test_each_is_told_of_once_and_with_its_days(client: TestClient, database: Database, shop: Headers) -> None:
    soon, late, early = (posted(client, shop, {"index": index}, external_id="crm-42") for index in (1, 2, 7))
    due(database, soon, now() + timedelta(days=6, hours=1))
    due(database, late, now() - timedelta(days=2))
    due(database, early, now() + timedelta(days=8))
    with structlog.testing.capture_logs() as logs:
        assert reminding.remind(database) == 2
    assert told(database) == {"due_soon": [soon], "overdue": [late]}
    assert reminding.remind(database) == 0
    assert [(line["event"], line["log_level"], line["request"]) for line in logs] == [
        ("deletion_request.overdue", "warning", late),
        ("deletion_request.due_soon", "warning", soon),
    ]
    assert "crm-42" not in str(logs)
    (event,) = events(database, "deletion_request.overdue")
    assert (event.data["days_left"], event.actor) == (-2, "dispatcher")
    due(database, soon, now() - timedelta(seconds=1))
    assert reminding.remind(database) == 1
    assert told(database) == {"due_soon": [soon], "overdue": [late, soon]}


@pytest.mark.usefixtures("digits")
def test_an_extended_request_is_told_of_again(
    client: TestClient, database: Database, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    due(database, request, now() + timedelta(days=1))
    assert reminding.remind(database) == 1
    extended = client.post(
        f"/v1/deletion-requests/{request}/extend", headers=operator, json={"reason": "many requests at once"}
    )
    assert extended.status_code == 202, extended.text
    assert reminding.remind(database) == 0
    due(database, request, now() + timedelta(days=2))
    assert reminding.remind(database) == 1
    assert told(database)["due_soon"] == [request, request]


@pytest.mark.usefixtures("digits")
def test_what_has_ended_is_not_told_of_and_what_is_on_hold_is(
    client: TestClient, database: Database, shop: Headers, operator: Headers
) -> None:
    ended, held = posted(client, shop, {"index": 1}), posted(client, shop, {"index": 7})
    assert client.post(f"/v1/deletion-requests/{ended}/cancel", headers=shop).status_code == 202
    reason = {"reason": "identity is being checked"}
    assert client.post(f"/v1/deletion-requests/{held}/hold", headers=operator, json=reason).status_code == 202
    for request in (ended, held):
        due(database, request, now() - timedelta(days=1))
    assert reminding.remind(database) == 1
    assert told(database)["overdue"] == [held]


@pytest.mark.usefixtures("digits")
def test_a_round_tells_of_a_bounded_number_the_most_urgent_first(
    client: TestClient, database: Database, shop: Headers
) -> None:
    first = posted(client, shop, {"index": 1})
    with database.write() as session:
        like = session.get_one(DeletionRequest, uuid.UUID(first))
        rows = [
            {
                "id": new_id(),
                "application_id": like.application_id,
                "training_set_id": like.training_set_id,
                "submitted_by": "key",
                "regulation": "GDPR",
                "status": RequestStatus.QUEUED,
                "due_at": now() - timedelta(hours=number),
                "fingerprint": b"",
            }
            for number in range(1, reminding.MOST_A_ROUND + 21)
        ]
        session.execute(insert(DeletionRequest), rows)
    assert reminding.remind(database) == reminding.MOST_A_ROUND
    with database.read() as session:
        waiting = session.scalars(
            select(DeletionRequest.due_at).where(
                DeletionRequest.overdue_told_at.is_(None), DeletionRequest.id != uuid.UUID(first)
            )
        ).all()
    assert len(waiting) == 20
    assert min(waiting) > now() - timedelta(hours=21)


@pytest.mark.usefixtures("digits")
def test_the_dispatcher_reminds(client: TestClient, database: Database, shop: Headers) -> None:
    settings = client.app.state.settings  # type: ignore[attr-defined]
    due(database, posted(client, shop, {"index": 1}), now() + timedelta(days=1))
    Dispatcher(database, settings).round()
    assert len(told(database)["due_soon"]) == 1


def test_live_requests_are_found_by_an_index_however_many_have_ended(database: Database) -> None:
    ordered = reminding._first_due("overdue", now()).limit(10)
    with database.read() as session:
        compiled = str(ordered.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
        if session.get_bind().dialect.name == "sqlite":
            rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
            assert "INDEX ix_deletion_requests_live_" in str(rows)
        else:
            session.connection().exec_driver_sql("SET LOCAL enable_seqscan = off")
            rows = session.connection().exec_driver_sql(f"EXPLAIN {compiled}").all()
            assert "ix_deletion_requests_live_" in str(rows)
