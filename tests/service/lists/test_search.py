"""POST /v1/deletion-requests/search"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from starlette.testclient import TestClient

from models.base import now
from models.evidence import suppression_digests
from models.records import Role, Sample, Suppression, TrainingSetApplication
from models.secrets import SUPPRESSION, load_or_create
from models.settings import Settings
from service import security
from service.app import create_app
from service.lists import paging

Headers = dict[str, str]
URL = "/v1/deletion-requests"


def post(client: TestClient, headers: Headers, *samples: dict[str, Any], **more: Any) -> str:
    answer = client.post(URL, headers=headers, json={"training_set": "digits", "samples": list(samples), **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def found(client: TestClient, headers: Headers, **body: Any) -> list[str]:
    answer = client.post(f"{URL}/search", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    assert "Link" not in answer.headers
    return [request["id"] for request in answer.json()["data"]]


def forget_names(world: Any, training_set: uuid.UUID, *indices: int) -> None:
    """What erasing rows does to their names."""
    key = load_or_create(world.settings.secrets, SUPPRESSION)
    with world.database.write() as session:
        for index in indices:
            sample = session.get_one(Sample, (training_set, index))
            session.add_all(
                Suppression(training_set_id=training_set, digest=digest, sample_index=index)
                for digest in suppression_digests(key, sample)
            )
            sample.key = sample.sha256 = sample.file_sha256 = sample.subject = None
            sample.erased_at = now()


@pytest.mark.parametrize("term", [{"external_id": "crm-1"}, {"subject": "user-42"}], ids=str)
def test_a_cursor_never_stands_at_the_request_of_another_application(
    term: dict[str, str],
    client: TestClient,
    world: Any,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "FIRST_LOOK", 1)
    monkeypatch.setattr(paging, "MOST_LOOKED_AT", 2)
    for _ in range(3):
        post(client, shop, {"subject": "user-42"}, external_id="crm-1")
    with world.database.write() as session:
        neighbour = security.application_named(session, "neighbour")
        session.add(TrainingSetApplication(training_set_id=digits, application_id=neighbour.id))
    assert len(found(client, operator, **term)) == 3
    answer = client.post(f"{URL}/search", json={**term, "limit": 1}, headers=world.key(Role.APPLICATION, "neighbour"))
    assert answer.json() == {"data": [], "next_cursor": None}


def test_requests_are_found_by_the_callers_number(
    client: TestClient, digits: uuid.UUID, shop: Headers, operator: Headers, compliance: Headers
) -> None:
    first = post(client, shop, {"index": 7}, external_id="crm-1")
    second = post(client, shop, {"index": 8}, external_id="crm-1")
    post(client, shop, {"index": 9}, external_id="crm-2")
    for headers in (shop, operator, compliance):
        assert found(client, headers, external_id="crm-1") == [second, first]
        assert found(client, headers, external_id="crm") == []


def test_a_person_is_found_by_every_request_that_names_one_of_their_samples(
    client: TestClient, digits: uuid.UUID, shop: Headers
) -> None:
    by_subject = post(client, shop, {"subject": "user-42"})
    by_key = post(client, shop, {"key": "train/00006"})
    post(client, shop, {"index": 7})
    assert found(client, shop, subject="user-42") == [by_key, by_subject]
    assert found(client, shop, subject="user-4") == []


def test_a_person_is_found_after_everything_that_names_them_was_erased(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, compliance: Headers
) -> None:
    request = post(client, shop, {"subject": "user-42"})
    forget_names(world, digits, 5, 6)
    assert found(client, compliance, subject="user-42") == [request]
    forget_names(world, digits, 45)
    for headers in (shop, compliance):
        assert found(client, headers, subject="user-42") == [request]
        assert found(client, headers, subject="user-43") == []


def test_both_names_must_fit_and_so_must_the_filters(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    request = post(client, shop, {"subject": "user-42"}, external_id="crm-1")
    post(client, shop, {"subject": "user-42"}, external_id="crm-2")
    post(client, shop, {"index": 7}, external_id="crm-1")
    person = {"subject": "user-42", "external_id": "crm-1"}
    assert found(client, shop, **person) == [request]
    assert found(client, shop, **person, training_set="digits", status="queued") == [request]
    assert found(client, shop, **person, status=["failed", "queued"]) == [request]
    assert found(client, shop, **person, status="failed") == []
    assert found(client, shop, **person, training_set="letters") == []


def test_an_application_finds_its_own_requests_alone(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, rival: Headers
) -> None:
    world.model("rivals-cnn", "rivals")
    mine = post(client, shop, {"subject": "user-42"}, external_id="crm-1")
    theirs = post(client, rival, {"subject": "user-42"}, external_id="crm-1", training_set="rivals")
    for name in ({"subject": "user-42"}, {"external_id": "crm-1"}):
        assert found(client, shop, **name) == [mine]
        assert found(client, rival, **name) == [theirs]
        assert found(client, world.key(Role.OPERATOR), **name) == [theirs, mine]


@pytest.mark.parametrize("name", [{"subject": "user-42"}, {"external_id": "crm-1"}], ids=str)
def test_what_is_found_comes_a_page_at_a_time(
    name: dict[str, str], client: TestClient, digits: uuid.UUID, shop: Headers, compliance: Headers
) -> None:
    made = [post(client, shop, {"subject": "user-42"}, external_id="crm-1") for _ in range(5)]
    for headers in (shop, compliance):
        seen, cursor = [], None
        while True:
            page = client.post(f"{URL}/search", headers=headers, json={**name, "limit": 2, "cursor": cursor}).json()
            seen += [request["id"] for request in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == made[::-1]


def test_a_cursor_of_the_list_is_none_of_the_search(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    for _ in range(2):
        post(client, shop, {"index": 7}, external_id="crm-1")
    cursor = client.get(URL, headers=shop, params={"limit": 1}).json()["next_cursor"]
    answer = client.post(f"{URL}/search", headers=shop, json={"external_id": "crm-1", "cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "#/cursor", "detail": "not given out by this list"}]


@pytest.mark.parametrize(
    "body",
    [{}, {"status": "queued"}, {"subject": ""}, {"subject": "a\0"}, {"external_id": "a", "status": "x"}]
    + [{"subject": "a", "limit": 201}, {"subject": "a", "name": "b"}, {"subject": "a", "cursor": "A" * 65}],
    ids=str,
)
def test_a_search_for_nobody_or_in_another_form_is_refused(
    body: dict[str, Any], client: TestClient, shop: Headers
) -> None:
    answer = client.post(f"{URL}/search", headers=shop, json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_a_person_stands_in_no_log_line(
    capfd: pytest.CaptureFixture[str],
    settings: Settings,
    digits: uuid.UUID,
    shop: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("service.lists.searching._requests_of", broken)
    with TestClient(create_app(settings, dispatch=False)) as client:
        answer = client.post(f"{URL}/search", headers=shop, json={"subject": "user-42"})
    assert answer.status_code == 500
    logged = capfd.readouterr().err
    assert answer.json()["trace_id"] in logged
    assert "user-42" not in logged
