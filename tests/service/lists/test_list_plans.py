"""No list reads or sorts all rows, whatever it is filtered by and whoever asks: the databases' own plans say so."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
from sqlalchemy import event, text
from starlette.testclient import TestClient

from models.records import JobKind, JobStatus, RequestStatus, Role
from models.session import Database
from tests.service import stored

STORED = 6000
# A list reads the ends of forty ranges at most, and as many rows by their ids.
MOST_READ = 2 * 40 * 21 + 1100
BIG = ("deletion_requests", "erasures", "request_samples", "jobs", "audit_reports", "events", "event_seals", "samples")
DUE = "2999-01-01T00:00:00Z"
REQUESTS: list[dict[str, Any]] = [
    {},
    *({"status": status.value} for status in RequestStatus),
    {"status": ["failed", "completed"]},
    {"model": "digits-cnn"},
    {"model": "rare"},
    {"model": "digits-cnn", "status": "failed"},
    {"model": "digits-cnn", "overdue": True},
    {"model": "rare", "status": "completed"},
    {"training_set": "digits"},
    {"training_set": "letters"},
    {"training_set": "letters", "status": "completed"},
    {"training_set": "digits", "due_before": DUE},
    {"regulation": "LGPD"},
    {"regulation": "LGPD", "status": "queued"},
    {"due_before": DUE},
    {"overdue": True},
    {"overdue": True, "status": "on_hold"},
    {"overdue": True, "sort": "-received"},
    {"sort": "due"},
]
OPERATORS: list[tuple[str, dict[str, str]]] = [
    *(("/v1/jobs", {"status": status.value}) for status in JobStatus),
    *(("/v1/jobs", {"kind": kind.value}) for kind in JobKind),
    ("/v1/jobs", {}),
    ("/v1/jobs", {"model": "digits-cnn"}),
    ("/v1/jobs", {"model": "digits-cnn", "status": "failed"}),
    ("/v1/jobs", {"model": "rare", "kind": "unlearn"}),
    ("/v1/reports", {}),
    ("/v1/reports", {"verdict": "under_unlearned"}),
    ("/v1/reports", {"model": "digits-cnn"}),
    ("/v1/reports", {"model": "digits-cnn", "verdict": "under_unlearned"}),
    ("/v1/reports", {"from": "2020-01-01T00:00:00Z", "to": "2020-02-01T00:00:00Z"}),
    ("/v1/events", {}),
    ("/v1/events", {"record": "job"}),
    ("/v1/events", {"record": "job", "record_id": "{job}"}),
    ("/v1/jobs/{job}/events", {}),
    ("/v1/models/digits-cnn/versions", {}),
]


SEARCHES = [{"external_id": "crm-77"}, {"subject": "person-77"}, {"subject": "nobody"}]
SEEING = (Role.APPLICATION, Role.COMPLIANCE)


@pytest.fixture
def empty_postgres(postgres_database: str) -> str:
    """A database of its own: what others left behind in a reused one changes the planner's mind."""
    return postgres_database


@pytest.fixture
def full(world: Any, digits: uuid.UUID) -> str:
    """Some thousands of everything, and statistics of them; returns a job that has three events."""
    world.training_set("letters", "shop")
    for model, training_set in (("rare", "digits"), ("letters-cnn", "letters")):
        world.model(model, training_set)
    world.key(Role.APPLICATION, "rival")
    job = world.job("digits-cnn")
    with world.database.write() as session:
        stored.store_requests(session, STORED, "digits", ["digits-cnn"], ["shop", "rival"])
        stored.store_requests(session, 3, "digits", ["rare"], ["shop"])
        stored.store_requests(session, 3, "letters", ["letters-cnn"], ["shop"])
        stored.store_jobs(session, STORED // 2, "digits-cnn")
        stored.store_events(session, STORED, job)
        stored.store_samples(session, digits, STORED)
    with world.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return str(job)


@contextmanager
def reads(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The SELECT statements that are sent meanwhile, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def faults(database: Database, statement: str, parameters: Any) -> list[str]:
    """What is wrong with the plan of a statement: reading a big table as a whole, or many rows of it."""
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "sqlite":
            rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
            return _sqlite_faults([row[3] for row in rows])
        query = "EXPLAIN (ANALYZE, FORMAT JSON) " + statement
        plan = connection.exec_driver_sql(query, parameters).scalar_one()
        return list(_postgres_faults(plan[0]["Plan"]))


def _sqlite_faults(plan: list[str]) -> list[str]:
    """A scan ends with the page where it is in the order of the list: by an index, or by a table that is one itself."""
    scans = [line for line in plan if (found := re.match(r"SCAN (\w+)", line)) and found[1].startswith(BIG)]
    sorts = any("TEMP B-TREE" in line for line in plan)
    return [line for line in scans if sorts or ("INDEX" not in line and line != "SCAN event_seals")]


def _postgres_faults(node: dict[str, Any]) -> Iterator[str]:
    if node.get("Relation Name") in BIG:
        read = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        if node["Node Type"] == "Seq Scan" or read > MOST_READ:
            yield f"{node['Node Type']} of {node['Relation Name']}: {read} rows"
    for below in node.get("Plans", []):
        yield from _postgres_faults(below)


def test_no_list_reads_or_sorts_all_rows(
    client: TestClient, world: Any, operator: dict[str, str], full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {role: world.key(role, "shop" if role is Role.APPLICATION else None) for role in SEEING}
    assert _wrong_of_operators(client, operator, full) == {}
    assert _wrong_of_searches(client, keys) == {}
    # To look up two hundred of six thousand one by one does cost more than reading all: of 100,000 it does not.
    monkeypatch.setattr("service.lists.paging.FIRST_LOOK", 30)
    assert _wrong_of_requests(client, keys) == {}


def _wrong_of_requests(client: TestClient, keys: dict[Role, dict[str, str]]) -> dict[str, list[str]]:
    found = {}
    for (role, headers), query in product(keys.items(), REQUESTS):
        url, params = "/v1/deletion-requests", {"limit": 20, **query}
        with reads(client.app.state.database) as sent:  # type: ignore[attr-defined]
            first = client.get(url, params=params, headers=headers)
            assert first.status_code == 200, first.text
            if first.json()["next_cursor"] is not None:
                params["cursor"] = first.json()["next_cursor"]
                assert client.get(url, params=params, headers=headers).status_code == 200
        found[f"{role} {query}"] = _faults_of(client, sent)
    return {name: wrong for name, wrong in found.items() if wrong}


def _wrong_of_searches(client: TestClient, keys: dict[Role, dict[str, str]]) -> dict[str, list[str]]:
    found = {}
    for (role, headers), searched in product(keys.items(), SEARCHES):
        with reads(client.app.state.database) as sent:  # type: ignore[attr-defined]
            assert client.post("/v1/deletion-requests/search", json=searched, headers=headers).status_code == 200
        found[f"{role} {searched}"] = _faults_of(client, sent)
    return {name: wrong for name, wrong in found.items() if wrong}


def _wrong_of_operators(client: TestClient, headers: dict[str, str], job: str) -> dict[str, list[str]]:
    found = {}
    for path, query in OPERATORS:
        params = {"limit": 20, **{name: value.format(job=job) for name, value in query.items()}}
        with reads(client.app.state.database) as sent:  # type: ignore[attr-defined]
            answer = client.get(path.format(job=job), params=params, headers=headers)
            assert answer.status_code == 200, answer.text
        found[f"{path} {query}"] = _faults_of(client, sent)
    return {name: wrong for name, wrong in found.items() if wrong}


def _faults_of(client: TestClient, sent: list[tuple[str, Any]]) -> list[str]:
    assert sent, "no statement was seen"
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    return [fault for statement in sent for fault in faults(database, *statement)]
