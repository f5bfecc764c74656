"""What a log line holds: JSON, one line each, the trace id, and nothing that names a person or opens a door.

Canaries stand where callers put names and secrets; whatever happens, none may sing.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError
from starlette.testclient import TestClient

from models.log import configure_logging
from models.records import Role, Sample, TrainingSet
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.dispatcher import Dispatcher
from tests.service.conftest import Headers, World

CANARY = "canary-7f3a"
SUBJECT, KEY, EXTERNAL, REASON, IDEMPOTENCY = (
    f"{CANARY}-{what}" for what in ("subject", "key", "external", "reason", "idempotency")
)
HOOK = f"https://93.184.215.14/{CANARY}-hook?token={CANARY}"


@pytest.fixture
def every_level() -> Iterator[None]:
    """Loggers of all libraries at DEBUG, as somebody who looks for a fault sets them."""
    configure_logging()
    root, ours = logging.getLogger(), structlog.get_config()["wrapper_class"]
    root.setLevel(logging.DEBUG)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    yield
    root.setLevel(logging.WARNING)
    structlog.configure(wrapper_class=ours)


@pytest.fixture
def named(database: Database, digits: uuid.UUID) -> None:
    with database.write() as session:
        at = Sample.training_set_id == digits
        session.execute(update(Sample).where(at, Sample.index == 1).values(key=KEY))
        session.execute(update(Sample).where(at, Sample.index == 7).values(subject=SUBJECT))


def sung(logged: str, *secrets: str) -> list[str]:
    """Lines that hold a canary or a secret."""
    forbidden = (CANARY, *secrets)
    return [line for line in logged.splitlines() if any(each in line for each in forbidden)]


def lines(logged: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged.splitlines() if line]


@pytest.mark.usefixtures("named", "every_level")
def test_no_line_names_a_person_whatever_is_asked_and_however_it_ends(
    client: TestClient,
    database: Database,
    settings: Settings,
    operator: Headers,
    compliance: Headers,
    shop: Headers,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def post(path: str, body: Any, key: Headers = shop, **headers: str) -> Any:
        return client.post(path, json=body, headers=key | headers)

    requests = "/v1/deletion-requests"
    body = {"training_set": "digits", "samples": [{"key": KEY}, {"subject": SUBJECT}], "external_id": EXTERNAL}
    assert post(f"{requests}/preview", {"training_set": "digits", "samples": [{"subject": SUBJECT}]}).status_code == 200
    made = post(requests, body, **{"Idempotency-Key": IDEMPOTENCY})
    assert made.status_code == 202, made.text
    assert post(requests, body | {"external_id": "other"}, **{"Idempotency-Key": IDEMPOTENCY}).status_code == 422
    request = made.json()["id"]
    for look in ({"external_id": EXTERNAL}, {"training_set": "digits", "subject": SUBJECT}):
        assert post(f"{requests}/search", look, compliance).status_code == 200
    assert post("/v1/training-sets/digits/samples/search", {"samples": [{"key": KEY}]}, operator).status_code == 200
    for decision in ("hold", "resume", "extend", "cancel"):
        assert post(f"{requests}/{request}/{decision}", {"reason": REASON}, operator).status_code in (200, 202)
    hook = post("/v1/webhooks", {"url": HOOK})
    assert hook.status_code == 201
    assert post(f"/v1/webhooks/{hook.json()['id']}/test", None).status_code == 202

    # And as it should not be asked.
    assert post(requests, {**body, "samples": [{"subject": f"{SUBJECT}-unknown"}]}).status_code == 422
    assert post(requests, {**body, "samples": [{SUBJECT: 1}]}).status_code == 422
    broken = f'{{"external_id": "{EXTERNAL}'
    as_json = shop | {"Content-Type": "application/json"}
    assert client.post(requests, content=broken, headers=as_json).status_code == 400
    assert client.get(f"{requests}?external_id={EXTERNAL}", headers=shop).status_code == 422
    assert client.get(f"/v1/models/{KEY}", headers=operator).status_code == 404
    assert client.get(f"/{SUBJECT}/{EXTERNAL}").status_code == 404
    stranger = {"Authorization": f"Bearer unl_000000000000_{CANARY}{'A' * (43 - len(CANARY))}"}
    assert client.get("/v1/jobs", headers=stranger).status_code == 401
    Dispatcher(database, settings).round()

    logged = capfd.readouterr().err
    secrets = [key["Authorization"].split("_", 2)[2] for key in (operator, compliance, shop)]
    assert sung(logged, *secrets, hook.json()["secret"]) == []
    answered = [line for line in lines(logged) if line["event"] == "request.answered"]
    assert {line["route"] for line in answered} >= {requests, f"{requests}/search", "/v1/models/{name}", "unmatched"}


@pytest.mark.usefixtures("named", "every_level")
def test_no_line_quotes_what_a_database_refused(
    client: TestClient, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """PostgreSQL's message for a broken constraint quotes the row: in a duty of the dispatcher and in a request."""

    def clash(*_: object, **__: object) -> None:
        with database.write() as session:
            training_set = session.scalars(select(TrainingSet.id)).one()
            again = {"training_set_id": training_set, "key": KEY, "label": 0, "split": "train"}
            session.add(Sample(index=900, **again))

    monkeypatch.setattr("service.duties.planning.plan", clash)
    dispatcher = Dispatcher(database, settings)
    dispatcher.round()
    with pytest.raises(IntegrityError):
        clash()
    logged = capfd.readouterr().err
    failed = [line for line in lines(logged) if line["event"] == "dispatcher.duty_failed"]
    assert [line["duty"] for line in failed] == ["plan"]
    assert failed[0]["error"] == "IntegrityError"
    assert "clash" in "".join(failed[0]["frames"])
    assert "message" not in failed[0]
    assert sung(logged) == []


def test_no_line_quotes_the_message_of_an_unexpected_error(
    sqlite_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    app = create_app(sqlite_settings, dispatch=False)

    @app.get("/broken")
    def broken(name: str) -> None:
        try:
            int(name)
        except ValueError:
            raise KeyError(name) from None

    with TestClient(app) as client:
        answer = client.get("/broken", params={"name": SUBJECT})
    assert answer.status_code == 500
    logged = capfd.readouterr().err
    assert (
        sung("\n".join(line for line in logged.splitlines() if '"httpx2"' not in line)) == []
    )  # this test's own client
    (failed,) = (line for line in lines(logged) if line["event"] == "request.failed")
    assert failed["error"] == "KeyError"
    assert failed["trace_id"] == answer.headers["X-Trace-Id"]


def test_every_line_of_a_request_has_its_trace_id(sqlite_settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    app = create_app(sqlite_settings, dispatch=False)

    @app.get("/told")
    def told() -> None:
        structlog.get_logger("x").warning("in.the.handler")
        logging.getLogger("some.library").warning("in a library")

    with TestClient(app) as client:
        answers = [client.get("/told") for _ in range(2)]
    of_request = [line for line in lines(capfd.readouterr().err) if "trace_id" in line]
    for answer in answers:
        told_under = [line["event"] for line in of_request if line["trace_id"] == answer.headers["X-Trace-Id"]]
        assert told_under == ["in.the.handler", "in a library", "request.answered"]


def test_lines_of_the_server_are_in_the_same_format(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("uvicorn.access").info('%s - "%s"', "10.0.0.1", f"GET /{SUBJECT}")
    logging.getLogger("celery.worker").warning("late")
    told = lines(capfd.readouterr().err)
    assert [(line["logger"], line["event"]) for line in told] == [
        ("uvicorn.error", "Started server process [7]"),
        ("celery.worker", "late"),
    ]
    assert all({"level", "timestamp"} <= set(line) for line in told)


def test_a_cause_is_told_without_its_message(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    try:
        try:
            raise ValueError(SUBJECT)
        except ValueError as error:
            raise FileNotFoundError(2, "No such file or directory", f"/import/{SUBJECT}.png") from error
    except OSError:
        structlog.get_logger("x").error("it.broke", exc_info=True)
    logged = capfd.readouterr().err
    (line,) = lines(logged)
    assert (line["error"], line["message"]) == ("FileNotFoundError", "No such file or directory")
    assert line["causes"][0].startswith("ValueError at ")
    assert sung("".join(line["causes"]) + line["message"]) == []


def test_a_message_of_our_own_is_told(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    from models.revisions import WrongSchema, check

    with world.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    configure_logging()
    try:
        check(world.database)
    except WrongSchema:
        structlog.get_logger("x").error("it.broke", exc_info=True)
    (line,) = lines(capfd.readouterr().err)
    assert "amun migrate" in line["message"]
    with world.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    assert Role.OPERATOR  # the world was made on a schema that served
