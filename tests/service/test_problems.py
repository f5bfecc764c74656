"""Errors say what the caller can do, in one form, and nothing that is not the caller's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.testclient import TestClient

from models.settings import Settings
from service import schema
from service.app import create_app

Headers = dict[str, str]
LIMIT = 2000


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    return sqlite_settings.model_copy(update={"body_limit": LIMIT})


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "trace_id"} <= set(body)
    assert answer.headers["X-Trace-Id"] == body["trace_id"]
    return body


def test_an_unknown_path_is_a_problem(client: TestClient) -> None:
    problem(client.get("/v2/jobs"), 404)


def test_an_unknown_method_is_a_problem_that_names_the_allowed_ones(client: TestClient) -> None:
    named = [("/v1/models", "GET, POST"), ("/v1/models/digits-cnn", "GET"), ("/v1/deletion-requests/search", "POST")]
    for path, allowed in named:
        answer = client.put(path)
        problem(answer, 405)
        assert answer.headers["Allow"] == allowed


def test_each_wrong_field_has_its_pointer(client: TestClient, operator: Headers) -> None:
    body = {"name": "a/b", "applications": ["ok", "not ok"], "source": {"kind": "builtin", "path": "x"}, "extra": 1}
    answer = problem(client.post("/v1/training-sets", headers=operator, json=body), 422)
    pointers = {error["pointer"] for error in answer["errors"]}
    assert {"#/name", "#/applications/1", "#/controls", "#/extra"} <= pointers


def test_a_rejected_value_is_not_repeated(client: TestClient, shop: Headers) -> None:
    body = {"training_set": "digits", "samples": [{"subject": ["alice@example.org"]}]}
    answer = client.post("/v1/deletion-requests", headers=shop, json=body)
    problem(answer, 422)
    assert "alice" not in answer.text


def test_a_path_with_a_name_of_its_own_is_not_taken_for_a_record(client: TestClient, operator: Headers) -> None:
    for name in ("search", "preview"):
        answer = client.get(f"/v1/deletion-requests/{name}", headers=operator)
        problem(answer, 405)
        assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models/digits-cnn", "/v1/deletion-requests"])
def test_a_misspelt_filter_is_refused_rather_than_ignored(
    path: str, client: TestClient, digits: uuid.UUID, operator: Headers
) -> None:
    answer = problem(client.get(path, headers=operator, params={"state": "queued", "limit": 10}), 422)
    assert "state" in [error["parameter"] for error in answer["errors"]]
    assert "queued" not in answer["detail"]


def test_a_wrong_parameter_is_named(client: TestClient, operator: Headers) -> None:
    answer = problem(client.get("/v1/jobs", headers=operator, params={"limit": 201}), 422)
    assert [error["parameter"] for error in answer["errors"]] == ["limit"]


@pytest.mark.parametrize("body", [b"", b"nonsense", b"\xff\xfe", b'{"name": "a"', b"[]", b"null", b'"text"'])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes, client: TestClient, operator: Headers) -> None:
    headers = {**operator, "Content-Type": "application/json"}
    answer = client.post("/v1/training-sets", headers=headers, content=body)
    json_it_is = body in (b"", b"[]", b"null", b'"text"')
    problem(answer, 422 if json_it_is else 400)


def test_a_body_over_the_limit_is_refused_by_its_announced_length(client: TestClient, operator: Headers) -> None:
    body = json.dumps({"name": "x" * LIMIT}).encode()
    problem(client.post("/v1/training-sets", headers=operator, content=body), 413)


def test_a_chunked_body_over_the_limit_is_refused_by_counting(client: TestClient, operator: Headers) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 500

    headers = {**operator, "Content-Type": "application/json"}
    problem(client.post("/v1/training-sets", headers=headers, content=chunks()), 413)


def test_a_body_at_the_limit_is_read(client: TestClient, operator: Headers) -> None:
    body = b"{}" + b" " * (LIMIT - 2)
    headers = {**operator, "Content-Type": "application/json"}
    problem(client.post("/v1/training-sets", headers=headers, content=body), 422)


@pytest.mark.parametrize("depth", [33, 900])
def test_a_deeply_nested_body_is_refused(depth: int, client: TestClient, operator: Headers) -> None:
    body = b'{"name":' + b"[" * depth + b"]" * depth + b"}"
    headers = {**operator, "Content-Type": "application/json"}
    answer = client.post("/v1/training-sets", headers=headers, content=body)
    problem(answer, 422 if answer.status_code == 422 else 400)


def test_a_nesting_that_exhausts_the_parser_is_refused(sqlite_settings: Settings, operator: Headers) -> None:
    with TestClient(create_app(sqlite_settings, dispatch=False)) as client:
        headers = {**operator, "Content-Type": "application/json"}
        problem(client.post("/v1/training-sets", headers=headers, content=b"[" * 500_000), 400)


@pytest.mark.parametrize("name", ["..", "a%2Fb", "-a", "a" * 129, "%00", "a%0A", "%ED%A0%80"])
def test_a_name_that_cannot_be_one_is_refused(name: str, client: TestClient, operator: Headers) -> None:
    assert client.get(f"/v1/models/{name}", headers=operator).status_code in (404, 422)


@pytest.mark.parametrize("text_with", ["\0", "\ud800"])
def test_text_that_no_database_stores_is_refused(text_with: str, client: TestClient, shop: Headers) -> None:
    body = {"training_set": "digits", "samples": [{"key": text_with}], "external_id": text_with}
    headers = {**shop, "Content-Type": "application/json"}
    answer = client.post("/v1/deletion-requests", headers=headers, content=json.dumps(body))
    problem(answer, 422)


def test_an_unexpected_error_is_logged_under_its_trace_id_and_shows_no_inside(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    app = create_app(settings, dispatch=False)

    @app.get("/broken")
    def broken() -> None:
        password = "swordfish"  # noqa: S105 - must not be told
        raise RuntimeError(f"a wheel came off{password[:0]}")

    with TestClient(app) as client:
        answer = client.get("/broken")
    body = problem(answer, 500)
    assert "wheel" not in answer.text
    logged = capfd.readouterr().err
    assert body["trace_id"] in logged
    assert "a wheel came off" in logged
    assert "swordfish" not in logged.split('"frames"')[0] + logged.split('"message"')[-1]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("SELECT", {}, Exception("database is locked: alice")), 503),
        (IntegrityError("INSERT", {}, Exception("Key (name)=(alice) exists")), 409),
    ],
)
def test_a_busy_database_asks_to_try_again_and_names_nobody(
    error: Exception, status: int, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    app = create_app(settings, dispatch=False)

    @app.get("/broken")
    def broken() -> None:
        raise error

    with TestClient(app) as client:
        answer = client.get("/broken")
    problem(answer, status)
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "alice" not in answer.text + capfd.readouterr().err


@pytest.mark.fault(10)
def test_a_commit_that_fails_is_answered_as_a_problem_not_as_accepted(
    client: TestClient, world: Any, operator: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    monkeypatch.setattr("sqlalchemy.engine.default.DefaultDialect.do_commit", refuse)
    body = {
        "name": "digits",
        "applications": [],
        "source": {"kind": "builtin", "path": "digits"},
        "controls": {"share": 0.3},
    }
    problem(client.post("/v1/training-sets", headers=operator, json=body), 503)
    monkeypatch.undo()
    assert client.get("/v1/training-sets", headers=operator).json()["data"] == []


def test_a_database_of_another_schema_is_not_ready(client: TestClient, world: Any) -> None:
    with world.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'other'"))
    answer = problem(client.get("/readyz"), 503)
    assert "amun migrate" in answer["errors"][0]["detail"]
    assert client.get("/healthz").status_code == 200


def test_a_database_that_is_gone_is_not_ready(settings: Settings) -> None:
    with TestClient(create_app(settings, dispatch=False)) as client:
        client.app.state.database.dispose()  # type: ignore[attr-defined]
        (settings.data_dir / "amun.sqlite3").unlink()
        settings.data_dir.joinpath("amun.sqlite3").mkdir()
        answer = problem(client.get("/readyz"), 503)
        assert "cannot be reached" in answer["detail"]


def test_the_service_does_not_start_on_another_schema(settings: Settings, world: Any) -> None:
    with world.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'other'"))
    with pytest.raises(schema.WrongSchema), TestClient(create_app(settings, dispatch=False)):
        pass
