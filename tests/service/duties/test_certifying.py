"""When a signed document is due, and how often the attempt is made."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models.base import now
from models.records import AuditReport, DeletionRequest, Job, JobKind, JobStatus, Model, ModelVersion, VersionStatus
from models.release import KnowsErased, release
from models.session import Database
from models.settings import Settings
from service.duties import certifying, erasing
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import forget, posted, rounds
from tests.settled import settle_all


def certify_jobs(database: Database) -> list[Job]:
    with database.read() as session:
        return list(session.scalars(select(Job).where(Job.kind == JobKind.CERTIFY).order_by(Job.id)))


def test_a_certificate_is_due_only_once_everything_that_must_go_is_gone(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"}, {"index": 41})
    assert certifying.plan_documents(database, settings) == 0
    forget(world, request)
    assert certifying.plan_documents(database, settings) == 0
    rounds(database, settings)
    assert certifying.plan_documents(database, settings) == 1
    job = certify_jobs(database)[0]
    assert (job.about, job.about_id, job.model_id) == ("deletion_request", uuid.UUID(request), None)
    assert certifying.plan_documents(database, settings) == 0


def test_a_rejected_request_gets_a_certificate_too(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    posted(client, shop, {"key": "train/00007"})
    with database.write() as session:
        session.execute(update(DeletionRequest).values(rejected_at=now()))
        settle_all(session)
    assert certifying.plan_documents(database, settings) == 1


def test_samples_that_were_kept_and_are_gone_now_ask_for_a_new_edition(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.model("other-cnn", "digits")
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"}, models=["digits-cnn"])
    forget(world, request)
    rounds(database, settings)
    assert certifying.plan_documents(database, settings) == 1
    with database.write() as session:
        session.execute(update(DeletionRequest).values(certified_at=now()))
        session.execute(update(Job).where(Job.kind == JobKind.CERTIFY).values(status=JobStatus.SUCCEEDED))
    assert certifying.plan_documents(database, settings) == 0
    later = posted(client, shop, {"key": "train/00007"}, models=["other-cnn"])
    forget(world, later, "other-cnn")
    rounds(database, settings)
    assert certifying.plan_documents(database, settings) == 2
    assert {str(job.about_id) for job in certify_jobs(database)[1:]} == {request, later}


def signed(database: Database, report: uuid.UUID, **values: Any) -> None:
    with database.write() as session:
        session.execute(update(AuditReport).where(AuditReport.id == report).values(envelope_path="x", **values))


def test_a_decision_after_the_report_asks_for_a_new_edition_and_the_certificate_waits_for_it(
    client: TestClient,
    database: Database,
    settings: Settings,
    shop: Headers,
    operator: Headers,
    world: World,
    digits: uuid.UUID,
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"})
    version = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.finish(request, "digits-cnn", version)
    report = world.report("digits-cnn", 2, "over_unlearned")
    signed(database, report)
    assert certifying.plan_documents(database, settings) == 0
    answer = client.post(
        "/v1/models/digits-cnn/versions/2/release", json={"reason": "checked by hand"}, headers=operator
    )
    assert answer.status_code == 202, answer.text
    rounds(database, settings)
    assert certifying.plan_documents(database, settings) == 1
    job = certify_jobs(database)[0]
    assert (job.about, job.about_id) == ("audit_report", report)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job.id).values(status=JobStatus.SUCCEEDED))
        session.execute(update(AuditReport).values(created_at=now()))
    assert certifying.plan_documents(database, settings) == 1
    assert certify_jobs(database)[1].about == "deletion_request"


def test_a_document_that_fails_is_tried_again_after_a_pause_and_at_the_third_time_left_to_a_person(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    forget(world, posted(client, shop, {"key": "train/00007"}))
    rounds(database, settings)
    for _ in range(3):
        assert certifying.plan_documents(database, settings) == 1
        with database.write() as session:
            session.execute(
                update(Job).where(Job.status == JobStatus.QUEUED).values(status=JobStatus.FAILED, finished_at=now())
            )
        assert certifying.plan_documents(database, settings) == 0
        with database.write() as session:
            session.execute(update(Job).values(finished_at=now() - timedelta(minutes=2)))
    assert certifying.plan_documents(database, settings) == 0


@pytest.mark.parametrize("status", [VersionStatus.QUARANTINED, VersionStatus.CANDIDATE])
def test_a_version_that_knows_an_erased_sample_cannot_be_released_by_anybody(
    status: VersionStatus,
    client: TestClient,
    database: Database,
    shop: Headers,
    operator: Headers,
    world: World,
    digits: uuid.UUID,
) -> None:
    kept_back = world.version("digits-cnn", 2, status, parent=1)
    request = posted(client, shop, {"key": "train/00007"})
    released = world.version("digits-cnn", 3, VersionStatus.RELEASED, parent=1)
    world.finish(request, "digits-cnn", released)
    answer = client.post("/v1/models/digits-cnn/versions/2/release", json={"reason": "I want to"}, headers=operator)
    assert answer.status_code == 409
    with pytest.raises(KnowsErased), database.write() as session:
        model = session.scalars(select(Model)).one()
        release(session, model, session.get_one(ModelVersion, kept_back.id), actor="worker:test", reason=None)
    assert client.get("/v1/models/digits-cnn/versions/3", headers=operator).json()["status"] == "released"


def test_a_request_for_controls_that_were_erased_before_is_certified(
    database: Database, settings: Settings, world: World, digits: uuid.UUID, shop: Headers, client: TestClient
) -> None:
    world.files(digits)
    for _ in range(2):
        asked = {"training_set": "digits", "samples": [{"index": 45}]}
        request = client.post("/v1/deletion-requests", headers=shop, json=asked).json()
        erasing.erase_controls(database, settings)
    assert request["status"] == "completed"
    assert certifying.plan_documents(database, settings) == 2
