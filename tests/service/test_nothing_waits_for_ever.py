"""Requests whose model or version went away while they waited still come to an end."""

from __future__ import annotations

import uuid

from sqlalchemy import select, update
from starlette.testclient import TestClient

from models import holdings
from models.records import Erasure, ErasureStatus, Job, JobKind, JobStatus, Model, ModelStatus, VersionStatus
from models.session import Database
from models.settings import Settings
from service.duties import planning
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import events, posted, request_of, rounds


def test_what_waited_for_a_version_that_was_destroyed_unreleased_gets_another_job(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    first = posted(client, shop, {"key": "train/00007"})
    kept_back = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.finish(first, "digits-cnn", kept_back, ErasureStatus.AWAITING_RELEASE)
    # The next batch was kept back too, and a person released that one: its ancestry lacks the first version.
    second = posted(client, shop, {"key": "train/00008"})
    released = world.version("digits-cnn", 3, VersionStatus.RELEASED, parent=1)
    world.finish(second, "digits-cnn", released)
    assert request_of(database, first).status.value == "awaiting_release"
    rounds(database, settings)
    assert not (settings.data_dir / kept_back.path).exists()
    assert request_of(database, first).status.value == "queued"
    assert [event.data["erasures"] for event in events(database, "erasures.open")] == [1]
    assert planning.plan(database, settings) == 1
    with database.read() as session:
        erasure = session.scalars(select(Erasure).where(Erasure.request_id == uuid.UUID(first))).one()
        job = session.scalars(select(Job).where(Job.kind == JobKind.UNLEARN, Job.status == JobStatus.QUEUED)).one()
        assert (erasure.job_id, erasure.version_id) == (job.id, None)


def test_a_request_does_not_wait_for_a_model_whose_training_failed(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.model("late-cnn", "digits", ModelStatus.TRAINING)
    world.files(digits)
    request = posted(client, shop, {"index": 7})
    world.finish(request, "digits-cnn", world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1))
    planning.plan(database, settings)
    assert request_of(database, request).status.value == "queued"  # it may be trained yet
    with database.write() as session:
        session.execute(update(Model).where(Model.name == "late-cnn").values(status=ModelStatus.FAILED))
    planning.plan(database, settings)
    assert request_of(database, request).status.value == "completed"
    with database.read() as session:
        late = session.scalars(select(Erasure).where(Erasure.status == ErasureStatus.NOT_APPLICABLE)).one()
        assert late.reason == "the model's training failed"
        # Should the training be tried again, it is without them.
        assert holdings.asked_to_forget(session, digits) == {7}
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == [7]
