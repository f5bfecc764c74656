"""Retire a model: requests no longer wait for it, and nothing of it stays."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models import holdings
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    VersionStatus,
)
from models.session import Database
from models.settings import Settings
from service.duties import certifying, destroying, planning
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import events, forget, posted, request_of, rounds
from tests.settled import settle_all
from worker.claim import claim

RETIRE = "/v1/models/digits-cnn/retire"
WHY = {"reason": "replaced by another product"}


def retired(client: TestClient, operator: Headers) -> None:
    answer = client.post(RETIRE, headers=operator, json=WHY)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["status"], answer.json()["released_version"]) == ("retired", None)


def waits(database: Database, request: str, status: ErasureStatus) -> None:
    with database.write() as session:
        of_request = Erasure.request_id == uuid.UUID(request)
        session.execute(update(Erasure).where(of_request).values(status=status))
        settle_all(session)


@pytest.mark.parametrize(
    "status",
    [ErasureStatus.OPEN, ErasureStatus.ON_HOLD, ErasureStatus.FAILED, ErasureStatus.AWAITING_RELEASE],
)
def test_a_request_that_waited_for_the_model_completes_and_its_samples_go(
    status: ErasureStatus,
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    world.files(digits)
    request = posted(client, shop, {"index": 7})
    waits(database, request, status)
    retired(client, operator)
    answer = client.get(f"/v1/deletion-requests/{request}", headers=shop).json()
    (erasure,) = answer["erasures"]
    assert (answer["status"], erasure["status"], erasure["reason"]) == ("completed", "not_applicable", WHY["reason"])
    assert erasure["version"] is None
    assert certifying.plan_documents(database, settings) == 0  # its checkpoint and signals are still there
    rounds(database, settings)
    assert certifying.plan_documents(database, settings) == 0
    assert destroying.destroy_signals(database, settings) == 1
    assert destroying.destroy_signals(database, settings) == 0
    assert not (settings.data_dir / "store/digits-cnn/1/checkpoint.safetensors").exists()
    assert list((settings.data_dir / "store/digits-cnn/signals").iterdir()) == []
    assert world.zeroed("set/1/pixels.u8") == [7]
    assert request_of(database, request).samples_erased_at is not None
    assert certifying.plan_documents(database, settings) == 1
    (destroyed,) = events(database, "signals.destroyed")
    assert (destroyed.data["files"], destroyed.data["verified"]) == (["phi.f32", "members.u8"], True)
    with database.read() as session:
        assert session.scalars(select(Model.folder)).one() is None
    (event,) = events(database, "model.retired")
    assert (event.data, event.actor[:4]) == ({"reason": WHY["reason"], "erasures": 1}, "key:")


def test_finished_erasures_stay_finished(
    client: TestClient, database: Database, world: World, digits: uuid.UUID, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 7})
    version = forget(world, request)
    retired(client, operator)
    with database.read() as session:
        erasure = session.scalars(select(Erasure)).one()
    assert (erasure.status, erasure.version_id) == (ErasureStatus.DONE, version.id)


def test_a_quarantined_version_of_a_retired_model_is_destroyed_and_never_released(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    operator: Headers,
) -> None:
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    retired(client, operator)
    answer = client.post("/v1/models/digits-cnn/versions/2/release", headers=operator, json=WHY)
    assert answer.status_code == 409
    assert "retired" in answer.json()["detail"]
    assert destroying.destroy_versions(database, settings) == 2
    versions = client.get("/v1/models/digits-cnn/versions", headers=operator).json()["data"]
    assert [version["status"] for version in versions] == ["destroyed", "destroyed"]
    assert not (settings.data_dir / "store/digits-cnn/2/checkpoint.safetensors").exists()


@pytest.mark.usefixtures("digits")
def test_its_queued_and_running_jobs_are_cancelled(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    posted(client, shop, {"index": 7})
    assert planning.plan(database, settings) == 1
    with database.read() as session:
        job = session.scalars(select(Erasure.job_id)).one()
    assert job is not None
    assert claim(database, settings, job, "gpu-1") is not None
    audit = client.post("/v1/models/digits-cnn/audits", headers=operator).json()["id"]
    retired(client, operator)
    for each in (str(job), audit):
        found = client.get(f"/v1/jobs/{each}", headers=operator).json()
        assert (found["status"], found["requests"]) == ("cancelled", [])
        assert found["error"] == {"code": "cancelled", "detail": "its model was retired"}
    assert planning.plan(database, settings) == 0
    answer = client.post(f"/v1/jobs/{audit}/retry", headers=operator)
    assert answer.status_code == 409
    assert "retired" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (ModelStatus.TRAINING, "cancel its job first"),
        (ModelStatus.FAILED, "ever served"),
        (ModelStatus.RETIRED, "before"),
    ],
)
def test_only_a_model_that_was_served_can_be_retired(
    status: ModelStatus, detail: str, client: TestClient, database: Database, world: World, operator: Headers
) -> None:
    world.training_set("digits", "shop")
    world.model("digits-cnn", "digits", status)
    job = world.job("digits-cnn", JobKind.TRAIN, JobStatus.RUNNING)
    answer = client.post(RETIRE, headers=operator, json=WHY)
    assert answer.status_code == 409
    assert detail in answer.json()["detail"]
    with database.read() as session:
        assert session.get_one(Job, job).status is JobStatus.RUNNING


def test_a_withdrawn_model_can_be_retired_and_a_reason_is_needed(
    client: TestClient, world: World, digits: uuid.UUID, operator: Headers
) -> None:
    client.post("/v1/models/digits-cnn/versions/1/quarantine", headers=operator, json=WHY)
    assert client.post(RETIRE, headers=operator, json={}).status_code == 422
    retired(client, operator)
    assert client.get("/v1/models/digits-cnn/checkpoint", headers=operator).status_code == 409


def test_signals_stay_while_a_running_job_holds_them(
    client: TestClient, database: Database, settings: Settings, world: World, digits: uuid.UUID, operator: Headers
) -> None:
    world.files(digits)
    retired(client, operator)
    job = world.job("digits-cnn", JobKind.AUDIT, JobStatus.RUNNING)
    assert destroying.destroy_signals(database, settings) == 0
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(status=JobStatus.FAILED))
    assert destroying.destroy_signals(database, settings) == 1


def test_a_request_accepted_while_its_model_was_retired_does_not_wait_for_ever(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    request = posted(client, shop, {"index": 7})
    retired(client, operator)
    waits(database, request, ErasureStatus.OPEN)  # as one that was read before the model was retired, and written after
    assert planning.plan(database, settings) == 0
    assert request_of(database, request).status.value == "completed"
    assert len(events(database, "erasure.not_applicable")) == 1


def test_another_model_that_is_not_named_keeps_the_samples_and_a_new_one_is_never_taught_them(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    world.model("other", "digits")
    world.files(digits)
    request = posted(client, shop, {"index": 7}, models=["digits-cnn"])
    retired(client, operator)
    rounds(database, settings)
    kept = client.get(f"/v1/deletion-requests/{request}", headers=shop).json()["samples_kept"]
    assert (kept["samples"], kept["models"]) == (1, ["other"])
    assert world.zeroed("set/1/pixels.u8") == []
    with database.read() as session:
        assert holdings.asked_to_forget(session, digits) == {7}


def test_a_request_that_another_model_still_works_on_goes_on_there(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    world.model("other", "digits")
    request = posted(client, shop, {"index": 7})
    retired(client, operator)
    answer = client.get(f"/v1/deletion-requests/{request}", headers=shop).json()
    assert sorted(erasure["status"] for erasure in answer["erasures"]) == ["not_applicable", "open"]
    assert answer["status"] == "queued"
    forget(world, request, "other")
    with database.write() as session:
        settle_all(session)
    with database.read() as session:
        assert session.get_one(DeletionRequest, uuid.UUID(request)).status.value == "completed"


@pytest.mark.parametrize(
    ("decision", "expected", "erased"),
    [("approve", "completed", True), ("reject", "rejected", False), ("cancel", "partially_completed", False)],
)
def test_images_are_not_erased_before_the_request_is_approved(
    decision: str,
    expected: str,
    erased: bool,
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    world.files(digits)
    request = posted(client, shop, *({"index": index} for index in range(30)))
    retired(client, operator)
    assert client.get(f"/v1/deletion-requests/{request}", headers=shop).json()["status"] == "awaiting_approval"
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == []
    answer = client.post(f"/v1/deletion-requests/{request}/{decision}", headers=operator, json=WHY)
    assert (answer.status_code, answer.json()["status"]) == (202, expected)
    rounds(database, settings)
    assert (len(world.zeroed("set/1/pixels.u8")) > 0) == erased


def test_images_of_a_held_request_are_erased_only_once_it_is_resumed(
    client: TestClient,
    database: Database,
    settings: Settings,
    world: World,
    digits: uuid.UUID,
    shop: Headers,
    operator: Headers,
) -> None:
    world.files(digits)
    request = posted(client, shop, {"index": 7})
    path = f"/v1/deletion-requests/{request}"
    assert client.post(f"{path}/hold", headers=operator, json=WHY).status_code == 202
    retired(client, operator)
    assert client.get(path, headers=shop).json()["status"] == "on_hold"
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == []
    assert client.post(f"{path}/resume", headers=operator).json()["status"] == "completed"
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == [7]
