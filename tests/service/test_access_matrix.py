"""Every route x {own, another tenant's, nobody's} x role: a tenant's records are there for it and for staff, for nobody else.

The roles are those of test_authentication.ROLES, written from the contract. A route with a parameter that nothing here
owns fails, so a new one cannot stay out.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

import pytest
from starlette.testclient import TestClient

from models.records import Role, VersionStatus
from models.settings import Settings
from tests.service.test_authentication import ROLES

Headers = dict[str, str]
# Bodies that the routes accept, so that it is the record that decides. Multiplied by what they may answer about it.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/training-sets/{name}/samples/search"): {"samples": [{"index": 1}]},
}
REASON = {"reason": "because"}
MAKES = {("PUT", "/v1/uploads/{sha256}")}  # what it names need not be there; these bytes have another name, though
PUBLIC_URL = "https://93.184.215.14/amun"
HEADER = b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
CHECKPOINT = len(HEADER).to_bytes(8, "little") + HEADER + b"\0"  # one tensor of one byte, as safetensors
NO_BODY = ("/test", "/redeliver", "/enable", "/rotate-secret", "/audits")


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    """Who may see what does not depend on the database: one is enough."""
    return sqlite_settings


@pytest.fixture
def owned(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers, rival: Headers
) -> dict[str, str]:
    """What application shop owns, by the name of the parameter; rival has the same kinds of things of its own."""
    world.model("rivals-cnn", "rivals")
    asked = {"training_set": "digits", "samples": [{"index": 3}]}
    request = client.post("/v1/deletion-requests", headers=shop, json=asked)
    assert request.status_code == 202, request.text
    theirs = {"training_set": "rivals", "samples": [{"index": 3}]}
    assert client.post("/v1/deletion-requests", headers=rival, json=theirs).status_code == 202
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    report = world.report("digits-cnn", 2, "inconclusive")
    job = world.job("digits-cnn")
    hook = client.post("/v1/webhooks", headers=shop, json={"url": PUBLIC_URL}).json()["id"]
    assert client.post("/v1/webhooks", headers=rival, json={"url": PUBLIC_URL}).status_code == 201
    assert client.post(f"/v1/webhooks/{hook}/test", headers=shop).status_code == 202  # delivery number 1
    upload = hashlib.sha256(CHECKPOINT).hexdigest()
    uploaded = client.put(f"/v1/uploads/{upload}", headers=operator, content=CHECKPOINT)
    assert uploaded.status_code == 201, uploaded.text
    return {
        "name": "digits",
        "model": "digits-cnn",
        "number": "2",
        "delivery": "1",
        "request_id": request.json()["id"],
        "job_id": str(job),
        "report_id": str(report),
        "webhook_id": hook,
        "sha256": upload,
    }


def _nobodys(parameter: str) -> str:
    if parameter.endswith("_id"):
        return str(uuid.uuid4())
    return {"name": "nothing", "model": "nothing", "number": "99", "delivery": "99", "sha256": "0" * 64}[parameter]


def _url(path: str, values: dict[str, str]) -> str:
    """The path with its parameters; ``name`` and ``number`` are those of what lies there."""
    named = values | ({"name": values["model"]} if path.startswith("/v1/models") else {})
    named |= {"number": values["delivery"]} if path.startswith("/v1/webhooks") else {}
    return path.format(**named)


def _parameters(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _send(client: TestClient, method: str, path: str, values: dict[str, str], headers: Headers) -> Any:
    without = method in ("GET", "DELETE") or path.endswith(NO_BODY)
    body = None if without else BODIES.get((method, path), REASON)
    if method == "PUT":
        return client.put(_url(path, values), headers=headers, content=CHECKPOINT)
    return client.request(method, _url(path, values), headers=headers, json=body)


WITH_PARAMETERS = [route for route in ROLES if _parameters(route[1])]


@pytest.mark.parametrize(("method", "path"), WITH_PARAMETERS, ids=lambda part: part)
def test_a_record_is_there_for_its_tenant_and_for_staff_and_for_nobody_else(
    method: str,
    path: str,
    client: TestClient,
    owned: dict[str, str],
    operator: Headers,
    compliance: Headers,
    shop: Headers,
    rival: Headers,
) -> None:
    unknown = set(_parameters(path)) - set(owned)
    assert not unknown, f"say in `owned` what application shop has of {unknown}"
    nobodys = {parameter: _nobodys(parameter) for parameter in owned}
    roles = ROLES[method, path]
    # Another tenant first, while nothing has changed yet.
    callers = [
        (Role.APPLICATION, rival, False),
        (Role.COMPLIANCE, compliance, True),
        (Role.APPLICATION, shop, True),
        (Role.OPERATOR, operator, True),
    ]
    for role, headers, may_see in callers:
        missing = _send(client, method, path, nobodys, headers)
        answer = _send(client, method, path, owned, headers)
        if role not in roles:
            assert (missing.status_code, answer.status_code) == (403, 403), (role, answer.text)
            continue
        assert missing.status_code == (404 if (method, path) not in MAKES else 422), (role, missing.text)
        if may_see:
            assert answer.status_code not in (401, 403, 404), (role, answer.text)
            assert answer.status_code < 500, answer.text
        else:
            assert answer.status_code == 404, (role, answer.text)
            told = {key: value for key, value in answer.json().items() if key != "trace_id"}
            assert told == {key: value for key, value in missing.json().items() if key != "trace_id"}


LISTS = [route for route in ROLES if route[0] == "GET" and not _parameters(route[1]) and "application" in ROLES[route]]


@pytest.mark.parametrize(("method", "path"), LISTS, ids=lambda part: part)
def test_a_list_holds_a_tenants_own_alone(
    method: str, path: str, client: TestClient, owned: dict[str, str], shop: Headers, rival: Headers
) -> None:
    pages = [client.request(method, path, headers=headers).json()["data"] for headers in (shop, rival)]
    ours, theirs = ({record["id"] for record in page} for page in pages)
    assert ours, "there is something to see"
    assert theirs, "for each"
    assert not ours & theirs
