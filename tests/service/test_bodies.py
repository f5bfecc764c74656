"""Limits of bodies: by path, and by how deep they nest."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from models.records import Role
from models.settings import Settings
from service.app import create_app
from service.nesting import Nesting
from tests.service.conftest import World
from tests.service.sent import Headers

MIB = 1 << 20


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    return sqlite_settings


def depth(body: bytes) -> int:
    """How deep a JSON text nests, a byte at a time."""
    current = deepest = 0
    in_string = escaped = False
    for byte in body.decode():
        if escaped:
            escaped = False
        elif in_string:
            escaped, in_string = byte == "\\", byte != '"'
        elif byte == '"':
            in_string = True
        elif byte in "[{":
            current += 1
            deepest = max(deepest, current)
        elif byte in "]}":
            current -= 1
    return deepest


def exceeds(body: bytes, most: int, sizes: Iterator[int]) -> bool:
    nesting, start, found = Nesting(most), 0, False
    while start < len(body):
        size = next(sizes)
        found = nesting.exceeded_by(body[start : start + size]) or found
        start += size
    return found


def anything(draw: random.Random, left: int) -> Any:
    texts = ['a"\\[', "\\", '"', "[[[", "}", '\\\\"', "", "é\n"]
    kind = draw.random()
    if left <= 0 or kind < 0.3:
        return draw.choice([*texts, 1, None])
    if kind < 0.65:
        return [anything(draw, left - 1) for _ in range(draw.randint(0, 3))]
    return {draw.choice(texts): anything(draw, left - 1) for _ in range(draw.randint(0, 3))}


def test_the_depth_is_counted_right_however_the_body_is_cut() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        body = json.dumps(anything(draw, draw.randint(1, 9)), ensure_ascii=draw.random() < 0.5).encode()
        most = draw.randint(1, 7)
        sizes = iter(lambda: draw.randint(1, 9), None)
        assert exceeds(body, most, sizes) == (depth(body) > most), body


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_limit_is_exact(size: int) -> None:
    deep = b"[" * 32 + b"]" * 32
    assert not exceeds(b"[" + b",".join([deep[1:-1]] * 9) + b"]", 32, iter(lambda: size, None))
    assert exceeds(b"[" + deep + b"]", 32, iter(lambda: size, None))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"samples": [{"sha256": f"{number:064x}"} for number in range(200_000)]}).encode(),
        json.dumps({"samples": [{"index": number} for number in range(800_000)]}).encode(),
        b'{"name":"' + b"x" * (16 * MIB) + b'"}',
    ],
    ids=["hashes", "indices", "one string"],
)
def test_sixteen_mebibytes_are_counted_in_a_moment(body: bytes) -> None:
    seconds = []
    for _ in range(3):  # what else runs on this machine slows down some of them
        started = time.process_time()
        assert not exceeds(body, 32, iter(lambda: 65536, None))
        seconds.append(time.process_time() - started)
    assert min(seconds) * 16 * MIB / len(body) < 0.2


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_nests_too_deeply_is_answered_with_what_is_allowed(
    chunked: bool, client: TestClient, operator: Headers
) -> None:
    body = b'{"name":' + b"[" * 32 + b"]" * 32 + b"}"
    content = (body[start : start + 5] for start in range(0, len(body), 5)) if chunked else body
    headers = {**operator, "Content-Type": "application/json"}
    answer = client.post("/v1/training-sets", headers=headers, content=content)
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:amun:problem:too-deep"
    assert "32 deep" in answer.json()["detail"]


def test_brackets_in_strings_do_not_count(client: TestClient, operator: Headers) -> None:
    answer = client.post("/v1/training-sets", headers=operator, json={"name": "[" * 100 + '\\"{' * 100})
    assert answer.status_code == 422


BULK = (
    "/v1/deletion-requests",
    "/v1/deletion-requests/preview",
    "/v1/deletion-requests/search",
    "/v1/training-sets/digits/samples/search",
)


@pytest.mark.parametrize(("path", "chunked"), [*((path, False) for path in BULK), (BULK[0], True), (BULK[3], True)])
def test_lists_of_samples_may_be_longer_than_other_bodies(
    path: str, chunked: bool, client: TestClient, operator: Headers
) -> None:
    """Their bytes are counted by what was announced, or as they come."""

    def sent(size: int) -> int:
        content = (b" " * MIB for _ in range(size // MIB)) if chunked else b" " * size
        return client.post(path, headers={**operator, "Content-Type": "application/json"}, content=content).status_code

    assert sent(16 * MIB) != 413
    assert sent(17 * MIB) == 413


@pytest.mark.parametrize("path", ["/v1/training-sets", "/v1/models", "/v1/deletion-requests/x/cancel", "/healthz"])
def test_other_bodies_may_not(path: str, client: TestClient, operator: Headers) -> None:
    answer = client.post(path, headers=operator, content=b" " * (MIB + 1))
    assert answer.status_code == 413
    assert "1,048,576" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer unl_000000000000_" + "A" * 43}], ids=["none", "wrong"]
)
def test_nothing_is_read_of_a_body_that_comes_without_a_live_key(headers: Headers, client: TestClient) -> None:
    answer = client.post(
        BULK[0], headers={**headers, "Content-Type": "application/json"}, content=b"{ no JSON" + b"[" * 99
    )
    assert answer.status_code == 401, answer.text
    assert answer.headers["WWW-Authenticate"]
    assert answer.json()["type"] == "urn:amun:problem:unauthenticated"


def test_a_database_that_is_away_is_no_fault_of_the_body(
    client: TestClient, operator: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr("service.security.authenticate", away)
    assert client.post("/v1/training-sets", headers=operator, json={}).status_code == 503


def test_a_request_with_a_body_counts_once(settings: Settings, world: World) -> None:
    with TestClient(create_app(settings.model_copy(update={"rate_limit": "2/minute"}), dispatch=False)) as client:
        key = world.key(Role.OPERATOR)
        answers = [client.post("/v1/training-sets", headers=key, json={}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [422, 422, 429]


def test_ten_thousand_samples_fit_into_one_request(client: TestClient, shop: Headers, digits: object) -> None:
    samples = [{"key": "x" * 250 + f"{number:06}"} for number in range(10_000)]
    answer = client.post("/v1/deletion-requests", headers=shop, json={"training_set": "digits", "samples": samples})
    assert answer.status_code == 422
    assert len(json.dumps(samples)) > 2 * MIB
    assert answer.json()["detail"] == "None of the samples is in the training set: nothing was accepted."
