"""Filters, orders and cursors of lists."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models.base import new_id, now
from models.records import (
    Application,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Model,
    ModelStatus,
    RequestStatus,
    Role,
    TrainingSet,
    TrainingSetStatus,
)
from service.lists import cursors
from tests.service import stored

Headers = dict[str, str]
URL = "/v1/deletion-requests"
QUEUED, COMPLETED, FAILED, HELD = (
    RequestStatus.QUEUED,
    RequestStatus.COMPLETED,
    RequestStatus.FAILED,
    RequestStatus.ON_HOLD,
)


def store(
    world: Any, status: RequestStatus = QUEUED, *, due: float = 30, model: str | None = "digits-cnn", **more: Any
) -> str:
    """A request as it would lie in the database, due in so many days; returns its id."""
    values = {"application": "shop", "training_set": "digits", "regulation": "GDPR"} | more
    with world.database.write() as session:
        made = DeletionRequest(
            id=new_id(),
            application_id=session.scalars(
                select(Application.id).where(Application.name == values["application"])
            ).one(),
            training_set_id=session.scalars(
                select(TrainingSet.id).where(TrainingSet.name == values["training_set"])
            ).one(),
            regulation=values["regulation"],
            submitted_by="key",
            due_at=now() + timedelta(days=due),
            fingerprint=b"",
        )
        session.add(made)
        session.flush()
        if model is not None:
            found = session.scalars(select(Model.id).where(Model.name == model)).one()
            session.add(Erasure(request_id=made.id, model_id=found, status=ErasureStatus.OPEN))
    with world.database.engine.begin() as connection:  # past everything that would say what follows
        connection.execute(update(DeletionRequest).where(DeletionRequest.id == made.id).values(status=status))
    return str(made.id)


def listed(client: TestClient, headers: Headers, limit: int = 50, **query: Any) -> list[str]:
    """Ids on all pages of a list, in their order."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = client.get(URL, headers=headers, params={"limit": limit, **query, **cursor})
        assert answer.status_code == 200, answer.text
        found += [request["id"] for request in answer.json()["data"]]
        if answer.json()["next_cursor"] is None:
            return found
        cursor = {"cursor": answer.json()["next_cursor"]}


# Filters


def test_requests_are_filtered_by_several_statuses(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    queued, done, failed, held = (store(world, status) for status in (QUEUED, COMPLETED, FAILED, HELD))
    assert listed(client, shop, status=["failed", "queued"]) == [failed, queued]
    assert listed(client, shop, status=["on_hold", "completed", "on_hold"]) == [held, done]
    assert listed(client, shop) == [held, failed, done, queued]


def test_requests_are_filtered_by_set_and_regulation(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, compliance: Headers
) -> None:
    world.training_set("letters", "shop")
    plain = store(world)
    lgpd = store(world, COMPLETED, regulation="LGPD")
    letters = store(world, FAILED, training_set="letters", model=None, regulation="CCPA")
    for headers in (shop, compliance):
        assert listed(client, headers, regulation="LGPD") == [lgpd]
        assert listed(client, headers, regulation="LGPD", status="queued") == []
        assert listed(client, headers, training_set="digits") == [lgpd, plain]
        assert listed(client, headers, training_set="letters", status=["failed", "queued"]) == [letters]
        assert listed(client, headers, training_set="nothing") == []
        assert listed(client, headers, training_set="letters", regulation="GDPR") == []


@pytest.mark.parametrize("few", [0, 1000])
def test_requests_are_filtered_by_model_be_they_few_or_many(
    few: int,
    client: TestClient,
    world: Any,
    digits: uuid.UUID,
    shop: Headers,
    rival: Headers,
    compliance: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.lists.listing.FEW", few)
    monkeypatch.setattr("service.lists.paging.FIRST_LOOK", 1)
    world.model("second", "digits")
    mine = store(world, COMPLETED)
    theirs = store(world, application="rival", due=3)
    late = store(world, due=-1)
    store(world, due=-2, model="second")
    assert listed(client, compliance, 1, model="digits-cnn") == [late, theirs, mine]
    assert listed(client, shop, 1, model="digits-cnn") == [late, mine]
    assert listed(client, compliance, 1, model="digits-cnn", status=["queued", "failed"]) == [late, theirs]
    assert listed(client, compliance, 1, model="digits-cnn", sort="due") == [late, theirs]
    assert listed(client, shop, 1, model="digits-cnn", overdue=True) == [late]
    assert listed(client, shop, 1, model="digits-cnn", overdue=True, sort="-received") == [late]
    assert listed(client, compliance, model="nothing") == []


def test_what_is_due_comes_first_and_is_not_finished(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, compliance: Headers
) -> None:
    later, soon = store(world, due=20), store(world, HELD, due=2)
    overdue, longer = store(world, due=-1), store(world, due=-5)
    store(world, COMPLETED, due=-9)
    before = {"due_before": (now() + timedelta(days=3)).isoformat()}
    for headers in (shop, compliance):
        assert listed(client, headers, sort="due") == [longer, overdue, soon, later]
        assert listed(client, headers, 1, **before) == [longer, overdue, soon]
        assert listed(client, headers, **before, overdue=True) == [longer, overdue]
        assert listed(client, headers, 1, overdue=True, sort="-received") == [longer, overdue]
        assert listed(client, headers, **before, status="on_hold") == [soon]
        assert listed(client, headers, 1, training_set="digits", regulation="GDPR", sort="due")[-1] == later


@pytest.mark.parametrize("query", [{"overdue": True}, {"sort": "due"}, {"due_before": "2999-01-01T00:00:00Z"}], ids=str)
def test_a_finished_request_is_never_due(query: dict[str, Any], client: TestClient, shop: Headers) -> None:
    answer = client.get(URL, headers=shop, params={**query, "status": ["queued", "completed"]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "status"


@pytest.mark.parametrize(
    "query",
    [{"sort": "received"}, {"regulation": "nothing"}, {"model": "%00"}, {"status": ["queued", "x"]}, {"overdue": "x"}],
    ids=str,
)
def test_an_unknown_filter_value_is_refused(query: dict[str, Any], client: TestClient, shop: Headers) -> None:
    answer = client.get(URL, headers=shop, params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"].split(".")[0] in query


def test_an_application_lists_its_own_requests_whatever_it_asks_for(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, rival: Headers
) -> None:
    store(world, due=-1)
    for query in ({}, {"status": "queued"}, {"model": "digits-cnn"}, {"training_set": "digits"}, {"overdue": True}):
        assert len(listed(client, shop, **query)) == 1
        assert listed(client, rival, **query) == []


def test_models_and_training_sets_are_filtered_by_status(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    world.model("later", "digits", ModelStatus.TRAINING)
    world.training_set("letters", "shop", TrainingSetStatus.FAILED)

    def names(path: str, **query: str) -> list[str]:
        return [each["name"] for each in client.get(path, headers=operator, params=query).json()["data"]]

    assert names("/v1/models") == ["later", "digits-cnn"]
    assert names("/v1/models", status="training") == ["later"]
    assert names("/v1/models", status="retired") == []
    assert names("/v1/training-sets", status="failed") == ["letters"]
    assert client.get("/v1/models?status=x", headers=operator).status_code == 422


# Pages


@pytest.mark.parametrize(
    "query", [{}, {"status": ["queued", "completed"]}, {"sort": "due"}, {"training_set": "digits"}], ids=str
)
def test_pages_neither_skip_nor_repeat_while_requests_arrive(
    query: dict[str, Any], client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    made = [store(world, due=5) for _ in range(7)]  # alike in everything a page is sorted by, but their ids
    first = client.get(URL, headers=shop, params={"limit": 3, **query})
    store(world, due=1)
    rest = listed(client, shop, 3, **query, cursor=first.json()["next_cursor"])
    assert sorted([request["id"] for request in first.json()["data"]] + rest) == sorted(made)


def test_a_list_links_to_its_first_and_its_next_page_with_every_filter(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    for status in (QUEUED, FAILED, COMPLETED, QUEUED):
        store(world, status)
    answer = client.get(f"{URL}?status=queued&status=failed&limit=1", headers=shop)
    seen = []
    while "next" in answer.links:
        seen += [request["status"] for request in answer.json()["data"]]
        answer = client.get(answer.links["next"]["url"], headers=shop)
    seen += [request["status"] for request in answer.json()["data"]]
    assert seen == ["queued", "failed", "queued"]
    again = client.get(answer.links["first"]["url"], headers=shop).json()["data"]
    assert [request["status"] for request in again] == ["queued"]


def test_a_cursor_belongs_to_one_list_in_one_order(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, operator: Headers
) -> None:
    for _ in range(3):
        store(world, due=-1)
        world.job("digits-cnn")
    newest = client.get(URL, headers=shop, params={"limit": 1}).json()["next_cursor"]
    due = client.get(URL, headers=shop, params={"limit": 1, "sort": "due"}).json()["next_cursor"]
    jobs = client.get("/v1/jobs?limit=1", headers=operator).json()["next_cursor"]
    for cursor, query in ((newest, {"sort": "due"}), (newest, {"overdue": True}), (due, {}), (jobs, {})):
        answer = client.get(URL, headers=shop, params={"cursor": cursor, **query})
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"parameter": "cursor", "detail": "not given out by this list"}]
    assert client.get("/v1/jobs", headers=operator, params={"cursor": newest}).status_code == 422
    assert client.get(URL, headers=shop, params={"cursor": due, "overdue": True}).status_code == 200


def test_a_page_that_looks_at_thousands_in_vain_goes_on_at_its_cursor(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.lists.paging.FIRST_LOOK", 2)
    monkeypatch.setattr("service.lists.paging.MOST_LOOKED_AT", 4)
    overdue = store(world, due=-1)
    for _ in range(9):
        store(world)
    first = client.get(URL, headers=shop, params={"overdue": True, "sort": "-received", "limit": 1}).json()
    assert (first["data"], first["next_cursor"] is None) == ([], False)
    assert listed(client, shop, 1, overdue=True, sort="-received") == [overdue]


@pytest.mark.parametrize("number", [2**31, 2**62, -1], ids=str)
@pytest.mark.usefixtures("digits")
def test_a_made_up_number_in_a_cursor_is_refused(number: int, client: TestClient, operator: Headers) -> None:
    path = "/v1/models/digits-cnn/versions"
    made_up = cursors.encode(f"{path} ", (number,))
    answer = client.get(path, params={"cursor": made_up}, headers=operator)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"] == [{"parameter": "cursor", "detail": "not given out by this list"}]


def test_a_position_comes_back_out_of_its_cursor() -> None:
    position = (now(), new_id())
    cursor = cursors.encode("a list", position)
    assert len(cursor) <= cursors.LONGEST
    assert cursors.decode("a list", cursor, [type(value) for value in position]) == position
    assert cursors.decode("a list", cursors.encode("a list", (7,)), [int]) == (7,)
    for order, kinds in (("another", (type(position[0]), uuid.UUID)), ("a list", (uuid.UUID,)), ("a list", (int, int))):
        with pytest.raises(cursors.ForeignCursor):
            cursors.decode(order, cursor, kinds)


def test_one_of_thousands_is_found_by_its_status(
    client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers
) -> None:
    world.key(Role.APPLICATION, "shop")
    with world.database.write() as session:
        stored.store_requests(session, 2000, "digits", ["digits-cnn"], ["shop"])
    assert len(listed(client, compliance, status="failed")) == 1
    assert len(listed(client, compliance, status="failed", model="digits-cnn")) == 1
    assert len(listed(client, compliance, regulation="LGPD")) == 1
    assert (
        len(listed(client, compliance, 200)) == len(set(listed(client, compliance, 200, training_set="digits"))) == 2000
    )


@pytest.mark.parametrize("name", ["\N{SNOWMAN}", "\U0001d53e\x01", "a b", "a%3Fb", "a\r\nX-Other: 1", ">; rel="])
def test_a_link_to_a_list_of_any_name_is_a_header_like_any_other(
    client: TestClient, compliance: Headers, name: str
) -> None:
    path = f"/v1/models/{quote(name, safe='')}/versions"
    answer = client.get(path, headers=compliance)
    assert answer.status_code == 422, answer.text  # no model can have such a name
