"""Who may call what."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models.base import now
from models.records import ApiKey, Role
from models.settings import Settings
from service.app import create_app
from service.errors import TooManyRequests, Unauthenticated
from service.limiting import RateLimits
from service.security import LookUps, Principal, Requires, authenticate, create_key, revoke_key

ANY = frozenset(Role)
OPERATOR, APPLICATION, COMPLIANCE = Role.OPERATOR, Role.APPLICATION, Role.COMPLIANCE
# From the contract, not from the code.
ROLES = {
    ("POST", "/v1/training-sets"): {OPERATOR},
    ("GET", "/v1/training-sets"): {OPERATOR, COMPLIANCE},
    ("GET", "/v1/training-sets/{name}"): {OPERATOR, COMPLIANCE},
    ("POST", "/v1/training-sets/{name}/samples/search"): {OPERATOR},
    ("POST", "/v1/models"): {OPERATOR},
    ("GET", "/v1/models"): {OPERATOR, COMPLIANCE},
    ("GET", "/v1/models/{name}"): {OPERATOR, COMPLIANCE},
    ("GET", "/v1/models/{name}/versions"): {OPERATOR, COMPLIANCE},
    ("GET", "/v1/models/{name}/versions/{number}"): {OPERATOR, COMPLIANCE},
    ("GET", "/v1/models/{name}/checkpoint"): {OPERATOR, APPLICATION},
    ("GET", "/v1/models/{name}/versions/{number}/checkpoint"): {OPERATOR},
    ("POST", "/v1/models/{name}/versions/{number}/release"): {OPERATOR},
    ("POST", "/v1/models/{name}/versions/{number}/quarantine"): {OPERATOR},
    ("POST", "/v1/models/{name}/audits"): {OPERATOR},
    ("POST", "/v1/models/{name}/retire"): {OPERATOR},
    ("POST", "/v1/deletion-requests"): {APPLICATION},
    ("POST", "/v1/deletion-requests/preview"): {APPLICATION},
    ("POST", "/v1/deletion-requests/search"): ANY,
    ("GET", "/v1/deletion-requests"): ANY,
    ("GET", "/v1/deletion-requests/{request_id}"): ANY,
    ("GET", "/v1/deletion-requests/{request_id}/certificate"): {APPLICATION, COMPLIANCE},
    ("GET", "/v1/deletion-requests/{request_id}/certificate/pdf"): {APPLICATION, COMPLIANCE},
    ("GET", "/v1/deletion-requests/{request_id}/certificate/bundle"): {APPLICATION, COMPLIANCE},
    ("POST", "/v1/deletion-requests/{request_id}/cancel"): {APPLICATION, OPERATOR},
    ("POST", "/v1/deletion-requests/{request_id}/hold"): {OPERATOR},
    ("POST", "/v1/deletion-requests/{request_id}/resume"): {OPERATOR},
    ("POST", "/v1/deletion-requests/{request_id}/extend"): {OPERATOR},
    ("POST", "/v1/deletion-requests/{request_id}/approve"): {OPERATOR},
    ("POST", "/v1/deletion-requests/{request_id}/reject"): {OPERATOR},
    ("PUT", "/v1/uploads/{sha256}"): {OPERATOR},
    ("GET", "/v1/uploads"): {OPERATOR},
    ("GET", "/v1/uploads/{sha256}"): {OPERATOR},
    ("DELETE", "/v1/uploads/{sha256}"): {OPERATOR},
    ("GET", "/v1/jobs"): {OPERATOR},
    ("GET", "/v1/jobs/{job_id}"): {OPERATOR},
    ("GET", "/v1/jobs/{job_id}/events"): {OPERATOR},
    ("POST", "/v1/jobs/{job_id}/cancel"): {OPERATOR},
    ("POST", "/v1/jobs/{job_id}/retry"): {OPERATOR},
    ("GET", "/v1/reports"): {COMPLIANCE, OPERATOR},
    ("GET", "/v1/reports/{report_id}"): {COMPLIANCE, OPERATOR},
    ("GET", "/v1/reports/{report_id}/pdf"): {COMPLIANCE, OPERATOR},
    ("GET", "/v1/reports/{report_id}/samples.csv"): {COMPLIANCE, OPERATOR},
    ("GET", "/v1/reports/{report_id}/envelope"): {COMPLIANCE, OPERATOR},
    ("GET", "/v1/reports/{report_id}/bundle"): {COMPLIANCE, OPERATOR},
    ("GET", "/v1/events"): {COMPLIANCE, OPERATOR},
    ("GET", "/v1/events/verify"): {COMPLIANCE, OPERATOR},
    ("POST", "/v1/webhooks"): {APPLICATION},
    ("GET", "/v1/webhooks"): {APPLICATION},
    ("GET", "/v1/webhooks/{webhook_id}"): {APPLICATION},
    ("DELETE", "/v1/webhooks/{webhook_id}"): {APPLICATION},
    ("POST", "/v1/webhooks/{webhook_id}/enable"): {APPLICATION},
    ("POST", "/v1/webhooks/{webhook_id}/rotate-secret"): {APPLICATION},
    ("POST", "/v1/webhooks/{webhook_id}/test"): {APPLICATION},
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): {APPLICATION},
    ("GET", "/v1/webhooks/{webhook_id}/deliveries/{number}"): {APPLICATION},
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{number}/redeliver"): {APPLICATION},
}

# Of every parameter in a path: what names no record.
NOTHING = {"name": "nothing", "number": 1, "sha256": "0" * 64} | {
    f"{record}_id": uuid.uuid4() for record in ("request", "job", "report", "webhook")
}
OPEN = ("/healthz", "/readyz", "/.well-known/jwks.json")


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    """Who may call what does not depend on the database: one is enough."""
    return sqlite_settings


def _routes(app: FastAPI) -> Iterator[tuple[str, APIRoute]]:
    """Every route that the application has, those of included routers too."""
    pending: list[Any] = list(app.routes)
    while pending:
        route = pending.pop()
        if isinstance(route, APIRoute):
            for method in sorted(route.methods):
                yield method, route
        elif hasattr(route, "original_router"):
            pending.extend(route.original_router.routes)


def _required(dependant: Any) -> list[frozenset[Role]]:
    own = [dependant.call.roles] if isinstance(dependant.call, Requires) else []
    return own + [roles for below in dependant.dependencies for roles in _required(below)]


def test_every_route_under_v1_declares_the_roles_of_the_contract(sqlite_settings: Settings) -> None:
    app = create_app(sqlite_settings, dispatch=False)
    declared = {
        (method, route.path): _required(route.dependant)
        for method, route in _routes(app)
        if route.path.startswith("/v1")
    }
    assert declared == {route: [frozenset(roles)] for route, roles in ROLES.items()}


def test_the_documentation_knows_every_route(sqlite_settings: Settings) -> None:
    paths = create_app(sqlite_settings, dispatch=False).openapi()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert documented == set(ROLES) | {("GET", path) for path in OPEN}


def _url(path: str) -> str:
    """A path of records that do not exist."""
    ids = {name: uuid.uuid4() for name in ("request_id", "job_id", "report_id")}
    return path.format(name="nothing", number=1, sha256="0" * 64, **ids)


@pytest.mark.parametrize(("method", "path"), ROLES, ids=lambda part: part)
def test_a_role_gets_in_exactly_where_it_is_declared(
    method: str,
    path: str,
    client: TestClient,
    operator: dict[str, str],
    compliance: dict[str, str],
    shop: dict[str, str],
) -> None:
    url = path.format_map(NOTHING)
    for role, headers in ((OPERATOR, operator), (COMPLIANCE, compliance), (APPLICATION, shop)):
        status = client.request(method, url, headers=headers).status_code
        assert (status != 403) == (role in ROLES[method, path]), role
        assert status in (200, 403, 404, 422)


@pytest.mark.parametrize(("method", "path"), ROLES, ids=lambda part: part)
def test_no_route_answers_without_a_key(method: str, path: str, client: TestClient) -> None:
    url = path.format_map(NOTHING)
    answer = client.request(method, url)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer nonsense",
        "Bearer unl_000000000000_" + "A" * 43,
        "Basic dXNlcjpwYXNz",
        "Bearer unl_000000000000_" + "A" * 43 + "\u00e9",
    ],
)
def test_a_malformed_or_unknown_key_is_refused(header: str, client: TestClient) -> None:
    assert client.get("/v1/jobs", headers={"Authorization": header.encode()}).status_code == 401


def test_a_key_with_another_secret_is_refused(client: TestClient, operator: dict[str, str]) -> None:
    right = operator["Authorization"]
    wrong = right[:-1] + ("A" if right[-1] != "A" else "B")
    assert client.get("/v1/jobs", headers={"Authorization": wrong}).status_code == 401
    assert client.get("/v1/jobs", headers={"Authorization": right}).status_code == 200


def test_an_expired_key_is_refused(client: TestClient, world: Any) -> None:
    past = world.key(Role.OPERATOR, expires_at=now() - timedelta(seconds=1))
    assert client.get("/v1/jobs", headers=past).status_code == 401


def test_a_revoked_key_is_refused_at_once(client: TestClient, world: Any, operator: dict[str, str]) -> None:
    assert client.get("/v1/jobs", headers=operator).status_code == 200
    with world.database.write() as session:
        session.execute(update(ApiKey).values(revoked_at=now()))
    assert client.get("/v1/jobs", headers=operator).status_code == 401


def test_the_stored_key_does_not_hold_the_secret(world: Any) -> None:
    header = world.key(Role.OPERATOR)["Authorization"]
    secret = header.split("_", 2)[2]
    with world.database.read() as session:
        key = session.scalars(select(ApiKey)).one()
    assert len(key.secret_hmac) == 32
    assert secret.encode() not in key.secret_hmac


@pytest.mark.parametrize(("role", "application"), [(Role.APPLICATION, None), (Role.OPERATOR, "shop")])
def test_exactly_application_keys_name_an_application(world: Any, role: Role, application: str | None) -> None:
    with pytest.raises(ValueError, match="application"), world.database.write() as session:
        create_key(session, world.pepper, role, application=application)


def test_health_needs_no_key(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_keys_that_are_looked_up_together_stay_apart(world: Any, settings: Settings) -> None:
    keys = [world.key(role).get("Authorization").removeprefix("Bearer ") for role in (OPERATOR, COMPLIANCE)]
    wrong = [keys[0][:-1] + ("A" if keys[0][-1] != "A" else "B"), "unl_000000000000_" + "x" * 43, "no key"]
    shown = [keys[0], wrong[0], keys[1], *wrong[1:], keys[0]]

    async def send() -> list[Any]:
        look_ups = LookUps(world.database, world.pepper, RateLimits(settings))
        return await asyncio.gather(*(look_ups.principal(key, "192.0.2.1") for key in shown), return_exceptions=True)

    told = asyncio.run(send())
    assert [getattr(each, "role", type(each)) for each in told] == [
        OPERATOR,
        Unauthenticated,
        COMPLIANCE,
        Unauthenticated,
        Unauthenticated,
        OPERATOR,
    ]


def test_a_key_that_is_revoked_while_it_is_looked_up_is_refused_to_the_next(
    world: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = world.key(OPERATOR)["Authorization"].removeprefix("Bearer ")
    read, go_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> Principal:
        found = authenticate(*given)
        read.set()
        assert go_on.wait(30)
        return found

    monkeypatch.setattr("service.security.authenticate", slow)

    async def send() -> list[Any]:
        look_ups = LookUps(world.database, world.pepper, RateLimits(settings))
        before = asyncio.create_task(look_ups.principal(key, None))
        await asyncio.to_thread(read.wait, 30)
        with world.database.write() as session:
            revoke_key(session, key.split("_")[1], actor="operator")
        after = asyncio.create_task(look_ups.principal(key, None))
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(before, after, return_exceptions=True)

    before, after = asyncio.run(send())
    assert before.role is OPERATOR
    assert isinstance(after, Unauthenticated)


def test_each_request_of_a_key_is_counted_when_they_are_looked_up_together(world: Any, settings: Settings) -> None:
    key = world.key(OPERATOR)["Authorization"].removeprefix("Bearer ")
    limits = RateLimits(settings.model_copy(update={"rate_limit": "2/minute"}))

    async def send() -> list[Any]:
        look_ups = LookUps(world.database, world.pepper, limits)
        return await asyncio.gather(*(look_ups.principal(key, None) for _ in range(4)), return_exceptions=True)

    told = asyncio.run(send())
    assert [isinstance(each, TooManyRequests) for each in told] == [False, False, True, True]
