"""amun models, training-sets and webhooks"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from models.base import now
from models.parameters import Network, Recipe
from models.records import Job, JobStatus, Model, ModelStatus, TrainingSet, TrainingSetStatus, VersionStatus
from service.duties.sealing import seal_events
from tests.service.cli.conftest import Amun, at
from tests.service.cli.contract import KEY, Contract, as_json, problem
from tests.service.conftest import Headers, World

MODEL = {
    "name": "other-cnn",
    "training_set": "digits",
    "network": Network(name="small-cnn").model_dump(mode="json"),
    "recipe": Recipe().model_dump(mode="json"),
}
SET = {
    "name": "faces",
    "applications": ["shop"],
    "source": {"kind": "builtin", "path": "digits"},
    "controls": {"share": 0.2},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "model.json"
    made.write_text(json.dumps(MODEL))
    return made


def test_models_are_listed_and_shown(amun: Amun, digits: uuid.UUID, operator: Headers) -> None:
    assert [each["name"] for each in amun(operator, "models", "list", "--json").json] == ["digits-cnn"]
    for part in ("digits-cnn", "ready", "small-cnn"):
        assert part in amun(operator, "models", "list").out
    assert "learning_rate" in amun(operator, "models", "show", "digits-cnn").out
    assert amun(operator, "models", "show", "digits-cnn", "--json").json["released_version"] == 1


def test_versions_are_listed_newest_first(amun: Amun, world: World, digits: uuid.UUID, operator: Headers) -> None:
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    listed = amun(operator, "models", "versions", "digits-cnn", "--json").json
    assert [(each["number"], each["status"]) for each in listed] == [(2, "quarantined"), (1, "released")]
    assert "quarantined" in amun(operator, "models", "versions", "digits-cnn").out


def test_a_version_is_quarantined_and_released_with_a_reason(
    amun: Amun, world: World, digits: uuid.UUID, operator: Headers
) -> None:
    version = ("digits-cnn", 1)
    assert amun(operator, "models", "quarantine", *version).status == 2
    done = amun(operator, "models", "quarantine", *version, "--reason", "a complaint")
    assert (done.status, done.out) == (0, "")
    assert "version 1 of digits-cnn is quarantined" in done.err
    done = amun(operator, "models", "release", *version, "--reason", "it was wrong", "--json")
    assert (done.status, done.json["status"]) == (0, "released")
    assert amun(operator, "models", "release", *version, "--reason", "again").status == 3


def test_a_checkpoint_is_fetched_and_checked(
    amun: Amun, world: World, digits: uuid.UUID, shop: Headers, operator: Headers, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    done = amun(shop, "models", "checkpoint", "digits-cnn", "--out", out)
    assert done.status == 0, done.err
    assert out.read_bytes() == b"checkpoint digits-cnn 1"
    assert done.out.strip() == hashlib.sha256(out.read_bytes()).hexdigest()
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    done = amun(operator, "models", "checkpoint", "digits-cnn", "--version", 2, "--out", out)
    assert (done.status, out.read_bytes()) == (0, b"checkpoint digits-cnn 2")
    assert amun(shop, "models", "checkpoint", "digits-cnn", "--version", 2, "--out", out).status == 3
    assert out.read_bytes() == b"checkpoint digits-cnn 2"


def test_a_folder_that_is_not_there_is_wrong_usage(
    amun: Amun, digits: uuid.UUID, shop: Headers, tmp_path: Path
) -> None:
    done = amun(shop, "models", "checkpoint", "digits-cnn", "--out", tmp_path / "no" / "model.safetensors")
    assert done.status == 2


def test_a_folder_in_the_place_of_the_file_is_wrong_usage_and_nothing_stays(
    amun: Amun, digits: uuid.UUID, shop: Headers, tmp_path: Path
) -> None:
    assert amun(shop, "models", "checkpoint", "digits-cnn", "--out", tmp_path).status == 2
    assert list(tmp_path.parent.glob(f".{tmp_path.name}.*")) == []


def test_with_json_a_download_says_so_in_json(amun: Amun, digits: uuid.UUID, shop: Headers, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    done = amun(shop, "models", "checkpoint", "digits-cnn", "--out", out, "--json")
    assert done.json == {"file": str(out), "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}


def test_an_audit_is_asked_for(amun: Amun, digits: uuid.UUID, operator: Headers) -> None:
    done = amun(operator, "models", "audit", "digits-cnn", "--json")
    assert (done.status, done.json["kind"]) == (0, "audit")
    assert f"job {done.json['id']}" in done.err


def test_a_model_is_retired_with_a_reason(contract: Contract) -> None:
    contract.answer("POST", "/v1/models/m/retire", as_json({"name": "m", "status": "retired"}, 202))
    assert at(contract.url)(KEY, "models", "retire", "m").status == 2
    done = at(contract.url)(KEY, "models", "retire", "m", "--reason", "replaced")
    assert (done.status, done.out) == (0, "")
    assert contract.asked[0].json == {"reason": "replaced"}


def ended(world: World, status: JobStatus, **error: Any) -> threading.Thread:
    """The next job that is queued ends soon, and its record with it."""

    def end() -> None:
        deadline = time.monotonic() + 60
        while not ended_now() and time.monotonic() < deadline:
            time.sleep(0.1)
        seal_events(
            world.database, everything=True
        )  # as the dispatcher does: a stream ends after the last sealed event

    def ended_now() -> bool:
        with world.database.write() as session:
            job = session.scalars(select(Job).where(Job.status == JobStatus.QUEUED)).one_or_none()
            if job is None:
                return False
            values = {"status": status, "finished_at": now(), "error": error or None}
            session.execute(update(Job).where(Job.id == job.id).values(**values))
            well = status is JobStatus.SUCCEEDED
            if job.kind == "register":
                state = TrainingSetStatus.READY if well else TrainingSetStatus.FAILED
                session.execute(update(TrainingSet).where(TrainingSet.id == job.training_set_id).values(status=state))
            else:
                of_model = ModelStatus.READY if well else ModelStatus.FAILED
                session.execute(update(Model).where(Model.id == job.model_id).values(status=of_model))
            return True

    thread = threading.Thread(target=end)
    thread.start()
    return thread


def test_a_model_is_made_and_watched_until_it_is_ready(
    amun: Amun, world: World, digits: uuid.UUID, operator: Headers, file: Path
) -> None:
    thread = ended(world, JobStatus.SUCCEEDED)
    done = amun(operator, "models", "create", "--file", file, "--watch", "--json", "--timeout", 60)
    thread.join()
    assert done.status == 0, done.err
    assert (done.json["name"], done.json["status"]) == ("other-cnn", "ready")


def test_a_training_set_that_fails_ends_the_command_badly(amun: Amun, world: World, operator: Headers) -> None:
    thread = ended(world, JobStatus.FAILED, code="source_unusable", detail="There are no images.")
    done = amun(operator, "training-sets", "create", "--file", "-", "--watch", stdin=json.dumps(SET))
    thread.join()
    assert done.status == 1
    assert "source_unusable: There are no images." in done.err
    assert "failed" in amun(operator, "training-sets", "show", "faces").out


def test_what_is_made_without_watching_is_the_services_answer(amun: Amun, operator: Headers) -> None:
    done = amun(operator, "training-sets", "create", "--file", "-", "--json", stdin=json.dumps(SET))
    assert (done.status, done.json["job"]["kind"]) == (0, "register")
    assert [each["name"] for each in amun(operator, "training-sets", "list", "--json").json] == ["faces"]
    assert "faces" in amun(operator, "training-sets", "list").out
    assert amun(operator, "training-sets", "show", "faces", "--json").json["status"] == "registering"


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_wrong_usage(content: str, amun: Amun, operator: Headers) -> None:
    assert amun(operator, "training-sets", "create", "--file", "-", stdin=content).status == 2


def test_a_wrong_field_is_named(amun: Amun, operator: Headers) -> None:
    done = amun(operator, "training-sets", "create", "--file", "-", stdin=json.dumps({**SET, "aplications": []}))
    assert done.status == 3
    assert "#/aplications" in done.err


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    made = tmp_path / "trained.safetensors"
    made.write_bytes(b"\x07" * (3 * 1024 * 1024 + 5))
    return made


def test_a_checkpoint_is_sent_before_the_model_that_is_made_of_it(
    contract: Contract, file: Path, checkpoint: Path
) -> None:
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    busy = problem(503, Retry_After="0")
    contract.answer("PUT", f"/v1/uploads/{sha256}", busy, as_json({"sha256": sha256}, 201))
    accepted = {"model": {"name": "other-cnn"}, "job": {"id": "j", "status": "queued"}}
    contract.answer("POST", "/v1/models", as_json(accepted, 202))
    done = at(contract.url)(KEY, "models", "create", "--file", file, "--checkpoint", checkpoint, "--json")
    assert (done.status, done.json) == (0, accepted)
    first, second, posted = contract.asked
    assert first.body == second.body == checkpoint.read_bytes()
    assert second.headers["content-length"] == str(checkpoint.stat().st_size)
    assert "transfer-encoding" not in second.headers
    assert posted.json == {**MODEL, "checkpoint": sha256}


def test_a_refused_checkpoint_makes_no_model(contract: Contract, file: Path, checkpoint: Path) -> None:
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    contract.answer("PUT", f"/v1/uploads/{sha256}", problem(422, "The request cannot be carried out as it is"))
    assert at(contract.url)(KEY, "models", "create", "--file", file, "--checkpoint", checkpoint).status == 3
    assert [asked.method for asked in contract.asked] == ["PUT"]


def test_a_checkpoint_that_is_named_twice_or_not_there_is_wrong_usage(
    contract: Contract, file: Path, checkpoint: Path
) -> None:
    create = at(contract.url)
    assert create(KEY, "models", "create", "--file", file, "--checkpoint", checkpoint.with_name("no")).status == 2
    file.write_text(json.dumps({**MODEL, "checkpoint": 64 * "0"}))
    assert create(KEY, "models", "create", "--file", file, "--checkpoint", checkpoint).status == 2
    assert contract.asked == []


HOOK = {"id": "w", "url": "https://example.com/amun", "events": [], "created_at": "2026-11-24T10:00:00Z"}
DELIVERY = {
    "number": 3,
    "type": "webhook.test",
    "status": "pending",
    "attempts": 0,
    "next_attempt_at": None,
    "created_at": "2026-11-24T10:00:00Z",
    "finished_at": None,
}


def test_a_webhook_is_made_and_its_secret_shown_once(contract: Contract) -> None:
    contract.answer("POST", "/v1/webhooks", as_json({**HOOK, "secret": "whsec_abc"}, 201))
    create = ("webhooks", "create", "https://example.com/amun", "--event", "certificate.issued")
    done = at(contract.url)(KEY, *create)
    assert done.status == 0, done.err
    assert "whsec_abc" in done.out
    assert contract.asked[0].json == {"url": "https://example.com/amun", "events": ["certificate.issued"]}
    assert at(contract.url)(KEY, *create, "--json").json["secret"] == "whsec_abc"  # noqa: S105 - an example


def test_webhooks_are_listed_shown_and_deleted(contract: Contract) -> None:
    amun = at(contract.url)
    contract.answer("GET", "/v1/webhooks", as_json({"data": [HOOK], "next_cursor": None}))
    contract.answer("GET", "/v1/webhooks/w", as_json(HOOK))
    contract.answer("DELETE", "/v1/webhooks/w", as_json(None, 204))
    assert amun(KEY, "webhooks", "list", "--json").json == [HOOK]
    assert "https://example.com/amun" in amun(KEY, "webhooks", "list").out
    assert amun(KEY, "webhooks", "show", "w", "--json").json == HOOK
    assert "https://example.com/amun" in amun(KEY, "webhooks", "show", "w").out
    done = amun(KEY, "webhooks", "delete", "w")
    assert (done.status, done.out) == (0, "")


def test_a_webhook_is_enabled_and_its_secret_replaced(contract: Contract) -> None:
    contract.answer("POST", "/v1/webhooks/w/enable", as_json(HOOK))
    contract.answer("POST", "/v1/webhooks/w/rotate-secret", as_json({**HOOK, "secret": "whsec_new"}))
    amun = at(contract.url)
    assert amun(KEY, "webhooks", "enable", "w", "--json").json == HOOK
    done = amun(KEY, "webhooks", "rotate-secret", "w")
    assert "whsec_new" in done.out
    assert "not shown again" in done.err


def test_one_delivery_is_shown_with_every_attempt(contract: Contract) -> None:
    tried = {"at": "2026-11-24T10:00:00Z", "status_code": 500, "error": "no success", "seconds": 0.2}
    shown = {**DELIVERY, "payload": {"type": "webhook.test", "data": {"webhook": "w"}}, "log": [tried, tried]}
    contract.answer("GET", "/v1/webhooks/w/deliveries/3", as_json(shown))
    assert at(contract.url)(KEY, "webhooks", "delivery", "w", 3, "--json").json == shown
    assert at(contract.url)(KEY, "webhooks", "delivery", "w", 3).out.count("no success") == 2


def test_deliveries_are_listed_and_sent_again(contract: Contract) -> None:
    amun = at(contract.url)
    contract.answer("GET", "/v1/webhooks/w/deliveries", as_json({"data": [DELIVERY], "next_cursor": None}))
    contract.answer("POST", "/v1/webhooks/w/test", as_json(DELIVERY, 202))
    contract.answer("POST", "/v1/webhooks/w/deliveries/2/redeliver", as_json(DELIVERY, 202))
    assert amun(KEY, "webhooks", "deliveries", "w", "--json").json == [DELIVERY]
    assert "webhook.test" in amun(KEY, "webhooks", "deliveries", "w").out
    for command in (("test", "w"), ("redeliver", "w", 2)):
        assert "delivery 3: pending" in amun(KEY, "webhooks", *command).err
        assert amun(KEY, "webhooks", *command, "--json").json == DELIVERY
