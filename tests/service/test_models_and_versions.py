"""/v1/models, versions, checkpoints, release and quarantine"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from models.base import now
from models.evidence import content_digest
from models.parameters import Policy, Recipe
from models.records import (
    Erasure,
    ErasureStatus,
    Event,
    Job,
    JobKind,
    Model,
    ModelStatus,
    ModelVersion,
    Sample,
    Suppression,
    TrainingSetStatus,
    Upload,
    VersionStatus,
)
from models.secrets import SUPPRESSION, load_or_create
from models.session import Database

Headers = dict[str, str]
REASON = {"reason": "compared by hand"}
URL = "/v1/models/digits-cnn"


def body(**changes: Any) -> dict[str, Any]:
    return {"name": "new", "training_set": "digits", "network": {"name": "small-cnn"}, "recipe": {}, **changes}


def request(client: TestClient, shop: Headers, *indices: int) -> str:
    samples = [{"index": index} for index in indices]
    answer = client.post("/v1/deletion-requests", headers=shop, json={"training_set": "digits", "samples": samples})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def statuses(world: Any) -> dict[int, VersionStatus]:
    with world.database.read() as session:
        return {version.number: version.status for version in session.scalars(select(ModelVersion))}


def test_a_model_is_accepted_with_every_parameter_resolved(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    answer = client.post("/v1/models", headers=operator, json=body(recipe={"epochs": 3}, policy={"references": 8}))
    assert answer.status_code == 202
    assert answer.headers["Location"] == "/v1/models/new"
    model = answer.json()["model"]
    assert model["recipe"] == Recipe(epochs=3).model_dump(mode="json")
    assert model["policy"] == Policy(references=8).model_dump(mode="json")
    assert (model["status"], model["training_set"], model["released_version"]) == ("training", "digits", None)
    with world.database.read() as session:
        job = session.get_one(Job, uuid.UUID(answer.json()["job"]["id"]))
        assert (job.kind, str(job.model_id), job.training_set_id) == (JobKind.TRAIN, model["id"], digits)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"network": {"name": "vgg"}}, "#/network/name"),
        ({"network": {"name": "torchvision/../x"}}, "#/network/name"),
        ({"network": {"name": "small-cnn", "depth": 3}}, "#/network/depth"),
        ({"recipe": {"epoch": 3}}, "#/recipe/epoch"),
        ({"recipe": {"epochs": 0}}, "#/recipe/epochs"),
        ({"policy": {"references": 7}}, "#/policy"),
        ({"policy": {"audit": {"tolerance": 0.7}}}, "#/policy/audit/tolerance"),
        ({"name": "a b"}, "#/name"),
    ],
    ids=str,
)
def test_a_parameter_that_makes_no_sense_is_named(
    changes: dict[str, Any], pointer: str, client: TestClient, digits: uuid.UUID, operator: Headers
) -> None:
    answer = client.post("/v1/models", headers=operator, json=body(**changes))
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_the_recipe_is_compulsory(client: TestClient, digits: uuid.UUID, operator: Headers) -> None:
    without = body()
    del without["recipe"]
    answer = client.post("/v1/models", headers=operator, json=without)
    assert [error["pointer"] for error in answer.json()["errors"]] == ["#/recipe"]


def test_a_name_that_is_taken_is_refused(client: TestClient, digits: uuid.UUID, operator: Headers) -> None:
    assert client.post("/v1/models", headers=operator, json=body(name="digits-cnn")).status_code == 409


@pytest.mark.parametrize("name", ["resnet18", "vgg19-bn", "resnet18-lipschitz", "torchvision/resnet50"])
def test_every_network_may_be_asked_for(client: TestClient, digits: uuid.UUID, operator: Headers, name: str) -> None:
    answer = client.post("/v1/models", headers=operator, json=body(network={"name": name}))
    assert answer.status_code == 202


def test_a_network_that_does_not_exist_is_refused_with_what_does(client: TestClient, operator: Headers) -> None:
    answer = client.post("/v1/models", headers=operator, json=body(network={"name": "vgg"}))
    assert answer.status_code == 422
    assert "vgg19-bn" in answer.text


def test_an_unknown_training_set_is_not_found(client: TestClient, operator: Headers) -> None:
    answer = client.post("/v1/models", headers=operator, json=body())
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["pointer"] == "#/training_set"


@pytest.mark.parametrize("status", [TrainingSetStatus.REGISTERING, TrainingSetStatus.FAILED])
def test_a_set_that_is_not_ready_cannot_be_trained_on(
    status: TrainingSetStatus, client: TestClient, world: Any, operator: Headers
) -> None:
    world.training_set("digits", "shop", status)
    assert client.post("/v1/models", headers=operator, json=body()).status_code == 409
    with world.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Model)) == 0


UPLOADED = "ab" * 32


def upload(world: Any) -> None:
    with world.database.write() as session:
        session.add(Upload(sha256=UPLOADED, size=8, path=f"uploads/{UPLOADED}.safetensors", submitted_by="key"))


def test_a_model_of_an_upload_is_accepted_and_shows_it(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    upload(world)
    answer = client.post("/v1/models", headers=operator, json=body(checkpoint=UPLOADED.upper()))
    assert answer.status_code == 202, answer.text
    assert answer.json()["model"]["checkpoint"] == UPLOADED
    assert client.get("/v1/models/new", headers=operator).json()["checkpoint"] == UPLOADED
    assert client.get(URL, headers=operator).json()["checkpoint"] is None


def test_an_upload_that_there_is_not_is_named(client: TestClient, digits: uuid.UUID, operator: Headers) -> None:
    answer = client.post("/v1/models", headers=operator, json=body(checkpoint=UPLOADED))
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["pointer"] == "#/checkpoint"
    assert "/v1/uploads/" in answer.json()["detail"]


@pytest.mark.parametrize("checkpoint", ["ab", "zz" * 32, 7, ""])
def test_a_checkpoint_is_named_by_a_sha256(
    checkpoint: Any, client: TestClient, digits: uuid.UUID, operator: Headers
) -> None:
    answer = client.post("/v1/models", headers=operator, json=body(checkpoint=checkpoint))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/checkpoint")


@pytest.mark.parametrize("happened", ["asked", "erased", "suppressed"])
def test_an_upload_that_may_know_what_was_to_be_forgotten_is_refused(
    happened: str, client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers
) -> None:
    upload(world)
    if happened == "asked":
        request(client, shop, 4)
    with world.database.write() as session:
        sample = session.get_one(Sample, (digits, 7))
        if happened == "erased":
            sample.erased_at = now()
        if happened == "suppressed":
            key = load_or_create(world.settings.secrets, SUPPRESSION)
            known = content_digest(key, "file_sha256", str(sample.file_sha256))
            session.add(Suppression(training_set_id=digits, digest=known, sample_index=99))
    answer = client.post("/v1/models", headers=operator, json=body(checkpoint=UPLOADED))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, "#/checkpoint")
    assert "may know" in answer.json()["detail"]
    assert client.post("/v1/models", headers=operator, json=body()).status_code == 202


def test_the_released_checkpoint_is_served_with_its_digest(
    client: TestClient, digits: uuid.UUID, shop: Headers
) -> None:
    answer = client.get(f"{URL}/checkpoint", headers=shop)
    assert answer.status_code == 200
    assert answer.content == b"checkpoint digits-cnn 1"
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert answer.headers["Content-Length"] == str(len(answer.content))


def test_a_caller_that_has_the_checkpoint_gets_304(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    etag = client.get(f"{URL}/checkpoint", headers=shop).headers["ETag"]
    answer = client.get(f"{URL}/checkpoint", headers={**shop, "If-None-Match": f'"other", {etag}'})
    assert (answer.status_code, answer.content) == (304, b"")


def test_a_new_release_changes_the_etag(client: TestClient, world: Any, digits: uuid.UUID, shop: Headers) -> None:
    etag = client.get(f"{URL}/checkpoint", headers=shop).headers["ETag"]
    world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    answer = client.get(f"{URL}/checkpoint", headers={**shop, "If-None-Match": etag})
    assert (answer.status_code, answer.content) == (200, b"checkpoint digits-cnn 2")


def test_a_model_that_is_still_training_has_no_checkpoint(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    world.model("new", "digits", ModelStatus.TRAINING)
    answer = client.get("/v1/models/new/checkpoint", headers=operator)
    assert answer.status_code == 409
    assert "still training" in answer.json()["detail"]


def test_another_application_does_not_see_the_model(client: TestClient, digits: uuid.UUID, rival: Headers) -> None:
    others = client.get(f"{URL}/checkpoint", headers=rival)
    nobodys = client.get("/v1/models/nothing/checkpoint", headers=rival)
    assert others.status_code == nobodys.status_code == 404
    assert others.json()["detail"] == nobodys.json()["detail"]


def test_a_checkpoint_that_was_cut_short_is_not_served(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    (world.settings.data_dir / "store/digits-cnn/1/checkpoint.safetensors").write_bytes(b"check")
    answer = client.get(f"{URL}/checkpoint", headers=operator)
    assert answer.status_code == 500
    assert "not the one that was stored" in answer.json()["detail"]


def test_an_operator_can_fetch_a_quarantined_version(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    assert client.get(f"{URL}/versions/2/checkpoint", headers=operator).content == b"checkpoint digits-cnn 2"
    assert client.get(f"{URL}/versions/3/checkpoint", headers=operator).status_code == 404


def test_a_destroyed_version_is_gone(client: TestClient, world: Any, digits: uuid.UUID, operator: Headers) -> None:
    world.version("digits-cnn", 2, VersionStatus.DESTROYED, parent=1)
    assert client.get(f"{URL}/versions/2/checkpoint", headers=operator).status_code == 410
    assert client.post(f"{URL}/versions/2/release", headers=operator, json=REASON).status_code == 410


def test_versions_are_listed_with_their_parents(
    client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers
) -> None:
    world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    listed = client.get(f"{URL}/versions", headers=compliance).json()["data"]
    assert [(version["number"], version["status"], version["parent"]) for version in listed] == [
        (2, "released", 1),
        (1, "superseded", None),
    ]
    assert client.get(f"{URL}/versions/2", headers=compliance).json() == listed[0]


def test_a_release_serves_the_version_and_finishes_what_waited_for_it(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers
) -> None:
    waiting = request(client, shop, 1)
    version = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.finish(waiting, "digits-cnn", version, ErasureStatus.AWAITING_RELEASE)
    answer = client.post(f"{URL}/versions/2/release", headers=operator, json=REASON)
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["reason"]) == ("released", REASON["reason"])
    assert statuses(world) == {1: VersionStatus.SUPERSEDED, 2: VersionStatus.RELEASED}
    assert client.get(URL, headers=operator).json()["released_version"] == 2
    assert client.get(f"/v1/deletion-requests/{waiting}", headers=shop).json()["status"] == "completed"
    with world.database.read() as session:
        names = list(session.scalars(select(Event.name).where(Event.record.in_(["model", "erasure"]))))
        assert sorted(names) == ["erasure.done", "version.released"]


def test_a_release_leaves_what_waits_for_other_versions(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers
) -> None:
    waiting = request(client, shop, 1)
    first = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.version("digits-cnn", 3, VersionStatus.QUARANTINED, parent=1)
    world.finish(waiting, "digits-cnn", first, ErasureStatus.AWAITING_RELEASE)
    assert client.post(f"{URL}/versions/3/release", headers=operator, json=REASON).status_code == 202
    assert client.get(f"/v1/deletion-requests/{waiting}", headers=shop).json()["status"] == "awaiting_release"


def test_a_version_that_still_holds_erased_samples_is_not_released(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers
) -> None:
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    erased = request(client, shop, 1)
    third = world.version("digits-cnn", 3, VersionStatus.RELEASED, parent=1)
    world.finish(erased, "digits-cnn", third)
    answer = client.post(f"{URL}/versions/2/release", headers=operator, json=REASON)
    assert answer.status_code == 409
    assert "1 samples" in answer.json()["detail"]
    assert statuses(world)[3] is VersionStatus.RELEASED


def test_a_version_made_from_one_that_has_forgotten_is_released(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers
) -> None:
    erased = request(client, shop, 1)
    second = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(erased, "digits-cnn", second)
    world.version("digits-cnn", 3, VersionStatus.QUARANTINED, parent=2)
    assert client.post(f"{URL}/versions/3/release", headers=operator, json=REASON).status_code == 202


@pytest.mark.parametrize("status", [VersionStatus.RELEASED, VersionStatus.SUPERSEDED])
def test_only_a_quarantined_version_can_be_released(
    status: VersionStatus, client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    number = 2 if status is VersionStatus.RELEASED else 1
    answer = client.post(f"{URL}/versions/{number}/release", headers=operator, json=REASON)
    assert answer.status_code == 409
    assert status.value in answer.json()["detail"]


def test_a_quarantine_withdraws_the_model_until_a_release(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers
) -> None:
    assert client.post(f"{URL}/versions/1/quarantine", headers=operator, json=REASON).status_code == 202
    model = client.get(URL, headers=operator).json()
    assert (model["status"], model["released_version"]) == ("withdrawn", None)
    assert client.get(f"{URL}/checkpoint", headers=shop).status_code == 409
    assert client.post(f"{URL}/versions/1/quarantine", headers=operator, json=REASON).status_code == 409
    assert client.post(f"{URL}/versions/1/release", headers=operator, json=REASON).status_code == 202
    assert client.get(URL, headers=operator).json()["status"] == "ready"
    assert client.get(f"{URL}/checkpoint", headers=shop).status_code == 200


@pytest.mark.parametrize("reason", [{}, {"reason": ""}, {"reason": "x", "more": 1}])
def test_a_decision_needs_its_reason(
    reason: dict[str, Any], client: TestClient, digits: uuid.UUID, operator: Headers
) -> None:
    assert client.post(f"{URL}/versions/1/quarantine", headers=operator, json=reason).status_code == 422


def test_a_quarantine_keeps_finished_erasures(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers, shop: Headers
) -> None:
    done = request(client, shop, 1)
    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(done, "digits-cnn", version)
    client.post(f"{URL}/versions/2/quarantine", headers=operator, json=REASON)
    with world.database.read() as session:
        assert session.scalars(select(Erasure.status)).all() == [ErasureStatus.DONE]


def test_each_key_that_fetches_a_version_is_recorded_once(
    client: TestClient, database: Database, digits: uuid.UUID, shop: Headers, operator: Headers
) -> None:
    for _ in range(2):
        etag = client.get("/v1/models/digits-cnn/checkpoint", headers=shop).headers["etag"]
    client.get("/v1/models/digits-cnn/checkpoint", headers=shop | {"If-None-Match": etag})
    client.get("/v1/models/digits-cnn/versions/1/checkpoint", headers=operator)
    with database.read() as session:
        fetched = session.scalars(select(Event).where(Event.name == "checkpoint.downloaded").order_by(Event.id)).all()
        version = session.scalars(select(ModelVersion)).one()
    assert [event.data["application"] for event in fetched] == ["shop", None]
    assert {event.record_id for event in fetched} == {str(version.id)}


def test_an_audit_of_the_released_version_is_queued_once(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    queued = client.post("/v1/models/digits-cnn/audits", headers=operator)
    assert (queued.status_code, queued.json()["kind"]) == (202, "audit")
    again = client.post("/v1/models/digits-cnn/audits", headers=operator)
    assert again.status_code == 409
    assert queued.json()["id"] in again.json()["detail"]


def test_a_model_that_serves_nothing_cannot_be_audited(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    world.model("new-cnn", "digits", ModelStatus.TRAINING)
    answer = client.post("/v1/models/new-cnn/audits", headers=operator)
    assert (answer.status_code, "training" in answer.json()["detail"]) == (409, True)
