"""How often a key may ask, and how often an address may send wrong keys."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx2
import pytest
from limits import parse
from limits.strategies import FixedWindowRateLimiter
from starlette.testclient import TestClient

from models.records import Role
from models.settings import Settings
from service.app import create_app
from service.limiting import BoundedStorage, RateLimits
from tests.service.sent import Headers

WRONG = {"Authorization": "Bearer unl_000000000000_" + "A" * 43}


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """Counts are in memory: one database is enough. A test's own limits come by `@pytest.mark.parametrize`."""
    found: Settings = request.getfixturevalue("sqlite_settings")
    return found.model_copy(update=getattr(request, "param", {}))


def limited(**limits: str) -> Any:
    return pytest.mark.parametrize("settings", [limits], indirect=True, ids=[""])


def refused(answer: httpx2.Response) -> int:
    """Seconds to wait."""
    assert answer.status_code == 429, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert (body["type"], body["status"]) == ("urn:amun:problem:too-many-requests", 429)
    assert "Retry-After" in body["detail"]
    return int(answer.headers["Retry-After"])


@limited(rate_limit="3/minute")
def test_a_key_that_asks_too_often_is_told_to_wait_and_others_are_not(
    client: TestClient, operator: Headers, compliance: Headers
) -> None:
    for _ in range(3):
        assert client.get("/v1/jobs", headers=operator).status_code == 200
    assert 1 <= refused(client.get("/v1/jobs", headers=operator)) <= 60
    assert client.get("/v1/events", headers=compliance).status_code == 200


@limited(rate_limit="2/second;1000/hour")
def test_after_the_wait_that_it_was_told_a_key_passes(client: TestClient, operator: Headers) -> None:
    answers = [client.get("/v1/jobs", headers=operator) for _ in range(20)]
    wait = next(refused(answer) for answer in answers if answer.status_code != 200)
    assert wait == 1
    time.sleep(wait)
    assert client.get("/v1/jobs", headers=operator).status_code == 200


@limited(rate_limit="2/second;10/minute")
def test_what_the_short_window_refuses_does_not_use_up_the_long_one(client: TestClient, operator: Headers) -> None:
    passed = 0
    for _ in range(3):
        passed += sum(client.get("/v1/jobs", headers=operator).status_code == 200 for _ in range(8))
        time.sleep(1.01)
    assert passed >= 6


@limited(rate_limit="1/minute")
def test_a_refusal_comes_whatever_the_route_or_the_role(client: TestClient, operator: Headers) -> None:
    assert client.get("/v1/jobs", headers=operator).status_code == 200
    refused(client.get("/v1/jobs/nonsense/events", headers=operator))
    refused(client.post("/v1/deletion-requests", headers=operator, json={}))
    refused(client.put(f"/v1/uploads/{'0' * 64}", headers=operator, content=b""))


@limited(rate_limit="1/minute", failed_auth_limit="1/minute")
def test_health_has_no_limit(client: TestClient) -> None:
    for _ in range(5):
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


@limited(rate_limit="", failed_auth_limit="")
def test_empty_limits_are_none(client: TestClient, operator: Headers) -> None:
    for _ in range(150):
        assert client.get("/v1/jobs", headers=operator).status_code == 200
    for _ in range(40):
        assert client.get("/v1/jobs", headers=WRONG).status_code == 401


@limited(failed_auth_limit="3/minute")
def test_wrong_keys_from_one_address_are_slowed_down_and_the_right_one_still_passes(
    client: TestClient, operator: Headers
) -> None:
    secret = operator["Authorization"][:-3] + "AAA"
    for wrong in (WRONG["Authorization"], "Bearer nonsense", secret):
        assert client.get("/v1/jobs", headers={"Authorization": wrong}).status_code == 401
    assert 1 <= refused(client.get("/v1/jobs", headers=WRONG)) <= 60
    assert client.get("/v1/jobs", headers=operator).status_code == 200
    assert client.get("/v1/jobs").status_code == 401  # no key is no guess


@limited(failed_auth_limit="1/minute")
def test_addresses_are_counted_apart(settings: Settings) -> None:
    app = create_app(settings, dispatch=False)
    with TestClient(app) as first:
        assert first.get("/v1/jobs", headers=WRONG).status_code == 401
        refused(first.get("/v1/jobs", headers=WRONG))
        other = TestClient(app, client=("192.0.2.7", 1234))
        assert other.get("/v1/jobs", headers=WRONG).status_code == 401


def test_an_ipv6_network_counts_as_one_address(sqlite_settings: Settings) -> None:
    limits = RateLimits(sqlite_settings.model_copy(update={"failed_auth_limit": "2/minute"}))
    limits.count_wrong_key("2001:db8::1")
    limits.count_wrong_key("2001:db8::ffff:2")
    limits.count_wrong_key("2001:db8:0:1::1")
    with pytest.raises(Exception, match="wrong keys"):
        limits.count_wrong_key("2001:db8::3")


def test_many_addresses_do_not_fill_the_memory_nor_start_a_thread() -> None:
    storage, before = BoundedStorage(most=100), set(threading.enumerate())
    limiter, limit = FixedWindowRateLimiter(storage), parse("1/minute")
    for number in range(1000):
        assert limiter.hit(limit, f"192.0.2.{number}")
    assert len(storage) == 100
    assert not limiter.hit(limit, "192.0.2.999")
    assert set(threading.enumerate()) <= before  # one that an earlier test left behind may end meanwhile


def test_counts_of_many_threads_add_up() -> None:
    limiter, limit = FixedWindowRateLimiter(BoundedStorage()), parse("100/minute")
    passed: list[bool] = []

    def ask() -> None:
        passed.extend(limiter.hit(limit, "key") for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 100


@pytest.mark.parametrize("name", ["rate_limit", "failed_auth_limit"])
@pytest.mark.parametrize("text", ["fast", "10", "10/fortnight", "-1/second"])
def test_a_setting_that_is_no_limit_stops_the_start_and_is_named(
    name: str, text: str, sqlite_settings: Settings
) -> None:
    with pytest.raises(ValueError, match=f"AMUN_{name.upper()}"):
        create_app(sqlite_settings.model_copy(update={name: text}))


def test_the_documentation_has_the_refusal_on_every_route(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            assert ("429" in operation["responses"]) == path.startswith("/v1")


def test_the_defaults_let_an_application_work(sqlite_settings: Settings, world: Any) -> None:
    key = world.key(Role.OPERATOR)
    with TestClient(create_app(sqlite_settings, dispatch=False)) as client:
        assert {client.get("/v1/jobs", headers=key).status_code for _ in range(60)} == {200}
