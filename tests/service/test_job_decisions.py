"""Cancel and retry a job."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models import lifecycle
from models.records import (
    Erasure,
    ErasureStatus,
    Event,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    Role,
    TrainingSet,
    TrainingSetStatus,
)
from models.session import Database
from models.settings import Settings
from service.duties import certifying, planning, sweeping
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import forget, posted
from tests.settled import settle_all
from worker.claim import claim

RECIPE = {"epochs": 1}
SMALL = {"name": "new-cnn", "training_set": "digits", "network": {"name": "small-cnn"}, "recipe": RECIPE}


def job_of(database: Database, job: str | uuid.UUID) -> Job:
    with database.read() as session:
        return session.get_one(Job, uuid.UUID(str(job)))


def decide(client: TestClient, operator: Headers, job: str | uuid.UUID, decision: str, body: Any = None) -> Any:
    return client.post(f"/v1/jobs/{job}/{decision}", headers=operator, json=body)


def decided(client: TestClient, operator: Headers, job: str | uuid.UUID, decision: str, body: Any = None) -> Any:
    answer = decide(client, operator, job, decision, body)
    assert answer.status_code == 202, answer.text
    found = answer.json()
    assert client.get(f"/v1/jobs/{found['id']}", headers=operator).json() == found
    if decision == "retry":
        assert answer.headers["Location"] == f"/v1/jobs/{found['id']}"
    return found


def refused(client: TestClient, operator: Headers, job: str | uuid.UUID, decision: str) -> str:
    answer = decide(client, operator, job, decision)
    assert answer.status_code == 409, answer.text
    return str(answer.json()["detail"])


def planned(client: TestClient, database: Database, settings: Settings, shop: Headers, *rows: int) -> uuid.UUID:
    """The queued job of one request for each of these rows."""
    for row in rows:
        posted(client, shop, {"index": row})
    assert planning.plan(database, settings) == 1
    with database.read() as session:
        found = select(Job.id).where(Job.kind == JobKind.UNLEARN, Job.status == JobStatus.QUEUED)
        return session.scalars(found).one()


def fails(database: Database, settings: Settings, job: str | uuid.UUID, code: str = "diverged") -> None:
    taken = claim(database, settings, uuid.UUID(str(job)), "gpu-1")
    assert taken is not None
    with database.write() as session:
        assert lifecycle.fail(session, taken.job, taken.token, actor="gpu-1", code=code, detail="as told")


def trained(client: TestClient, operator: Headers) -> str:
    """The train job of a new model."""
    return str(client.post("/v1/models", headers=operator, json=SMALL).json()["job"]["id"])


def registered(client: TestClient, operator: Headers) -> str:
    """The register job of a new training set."""
    source = {"kind": "builtin", "path": "digits"}
    body = {"name": "new", "applications": ["shop"], "source": source, "controls": {"share": 0.5}}
    answer = client.post("/v1/training-sets", headers=operator, json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job"]["id"])


def names(database: Database, job: str | uuid.UUID) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Event.name).where(Event.record_id == str(job)).order_by(Event.id)))


# Cancel


@pytest.mark.usefixtures("digits")
def test_a_queued_job_is_cancelled_at_once_and_its_requests_wait_on_hold(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1, 7)
    answer = decided(client, operator, job, "cancel", {"reason": "the wrong policy"})
    assert (answer["status"], len(answer["requests"])) == ("cancelled", 2)
    assert answer["days_left"] is not None
    assert claim(database, settings, job, "gpu-1") is None
    assert planning.plan(database, settings) == 0
    request = client.get(f"/v1/deletion-requests/{answer['requests'][0]}", headers=operator).json()
    assert (request["status"], request["held_at"], request["erasures"][0]["job"]) == ("on_hold", None, str(job))
    with database.read() as session:
        event = session.scalars(select(Event).where(Event.name == "job.cancelled")).one()
    assert event.data["reason"] == "the wrong policy"
    assert event.actor.startswith("key:")
    assert "nothing to cancel" in refused(client, operator, job, "cancel")


@pytest.mark.usefixtures("digits")
def test_a_held_request_of_a_cancelled_job_may_be_held_resumed_and_planned_anew(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1)
    (request,) = decided(client, operator, job, "cancel")["requests"]
    path = f"/v1/deletion-requests/{request}"
    assert client.post(f"{path}/hold", headers=operator, json={"reason": "asked back"}).json()["held_at"] is not None
    detail = refused(client, operator, job, "retry")
    assert request in detail
    assert "resume its requests" in detail
    resumed = client.post(f"{path}/resume", headers=operator).json()
    assert (resumed["status"], resumed["erasures"][0]["job"]) == ("queued", None)
    assert "there is nothing to retry" in refused(client, operator, job, "retry")
    assert planning.plan(database, settings) == 1


@pytest.mark.usefixtures("digits")
def test_a_running_job_is_asked_to_stop_and_a_second_wish_changes_nothing(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1)
    assert claim(database, settings, job, "gpu-1") is not None
    answer = decided(client, operator, job, "cancel")
    assert (answer["status"], answer["cancel_requested_at"] is not None) == ("running", True)
    assert decided(client, operator, job, "cancel") == answer
    assert names(database, job).count("job.cancel_requested") == 1


@pytest.mark.usefixtures("digits")
def test_a_job_whose_worker_is_lost_before_it_could_stop_is_cancelled_all_the_same(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1)
    assert claim(database, settings.model_copy(update={"lease_seconds": -1}), job, "gpu-1") is not None
    decided(client, operator, job, "cancel")
    assert sweeping.expired_leases(database) == 1
    assert job_of(database, job).status is JobStatus.CANCELLED
    with database.read() as session:
        assert session.scalars(select(Erasure.status)).all() == [ErasureStatus.ON_HOLD]


@pytest.mark.usefixtures("digits")
def test_what_a_cancelled_job_was_to_make_has_failed(client: TestClient, database: Database, operator: Headers) -> None:
    decided(client, operator, trained(client, operator), "cancel")
    model = client.get("/v1/models/new-cnn", headers=operator).json()
    assert (model["status"], model["error"]["code"]) == ("failed", "cancelled")
    decided(client, operator, registered(client, operator), "cancel")
    made = client.get("/v1/training-sets/new", headers=operator).json()
    assert (made["status"], made["error"]["code"]) == ("failed", "cancelled")


@pytest.mark.usefixtures("digits")
def test_documents_are_always_written(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    reason = {"reason": "a claim is pending"}
    assert client.post(f"/v1/deletion-requests/{request}/reject", headers=operator, json=reason).status_code == 202
    assert certifying.plan_documents(database, settings) == 1
    with database.read() as session:
        job = session.scalars(select(Job.id).where(Job.kind == JobKind.CERTIFY)).one()
    assert "always documented" in refused(client, operator, job, "cancel")


@pytest.mark.parametrize("decision", ["cancel", "retry"])
def test_an_unknown_job_and_other_roles_are_refused(
    decision: str, client: TestClient, operator: Headers, compliance: Headers, world: World
) -> None:
    assert decide(client, operator, uuid.uuid4(), decision).status_code == 404
    for headers in (compliance, world.key(Role.APPLICATION, "shop")):
        assert decide(client, headers, uuid.uuid4(), decision).status_code == 403


# Retry


@pytest.mark.usefixtures("digits")
def test_a_failed_unlearn_job_is_retried_with_its_requests_and_those_that_came_since(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1, 7)
    fails(database, settings, job)
    later = posted(client, shop, {"index": 9})
    made = decided(client, operator, job, "retry")
    assert (made["retry_of"], made["status"], made["kind"], made["model"]) == (
        str(job),
        "queued",
        "unlearn",
        "digits-cnn",
    )
    assert len(made["requests"]) == 3
    assert later in made["requests"]
    assert made["due_at"] == client.get(f"/v1/deletion-requests/{later}", headers=shop).json()["due_at"]
    assert planning.plan(database, settings) == 0
    detail = refused(client, operator, job, "retry")
    assert made["id"] in detail
    assert "queued" in refused(client, operator, made["id"], "retry")
    assert claim(database, settings, uuid.UUID(made["id"]), "gpu-1") is not None


@pytest.mark.usefixtures("digits")
def test_a_second_failure_is_retried_from_the_second_job_and_every_attempt_has_its_own_seed(
    client: TestClient, database: Database, settings: Settings, world: World, shop: Headers, operator: Headers
) -> None:
    client.app.state.settings = fixed = settings.model_copy(update={"seed": 7})  # type: ignore[attr-defined]
    job: Any = planned(client, database, fixed, shop, 1)
    train: Any = trained(client, operator)
    seeds: dict[str, list[int]] = {"unlearn": [], "train": []}
    for _ in range(3):
        for kind, current in (("unlearn", job), ("train", train)):
            seeds[kind].append(job_of(database, current).seed)
            fails(database, settings, current)
        job, train = (decided(client, operator, each, "retry")["id"] for each in (job, train))
    assert [len(set(each)) for each in seeds.values()] == [3, 3]


@pytest.mark.usefixtures("digits")
def test_a_retry_names_the_live_job_of_the_model(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1)
    fails(database, settings, job)
    live = planned(client, database, settings, shop, 7)
    assert f"Job {live} is at it already" in refused(client, operator, job, "retry")


@pytest.mark.usefixtures("digits")
def test_a_retry_needs_a_served_model_and_somebody_who_waits(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1)
    fails(database, settings, job)
    reason = {"reason": "a leak was found"}
    assert client.post("/v1/models/digits-cnn/versions/1/quarantine", headers=operator, json=reason).is_success
    assert "withdrawn" in refused(client, operator, job, "retry")
    assert client.post("/v1/models/digits-cnn/versions/1/release", headers=operator, json=reason).is_success
    with database.read() as session:
        request = session.scalars(select(Erasure.request_id)).one()
    assert client.post(f"/v1/deletion-requests/{request}/cancel", headers=shop).status_code == 202
    assert "waits for it any more" in refused(client, operator, job, "retry")


@pytest.mark.usefixtures("digits")
def test_a_retry_leaves_a_held_request_on_hold(
    client: TestClient, database: Database, settings: Settings, world: World, shop: Headers, operator: Headers
) -> None:
    world.model("other", "digits")
    request = posted(client, shop, {"index": 1})
    assert planning.plan(database, settings) == 2
    with database.read() as session:
        jobs = session.scalars(select(Erasure.job_id).order_by(Erasure.id)).all()
    assert jobs[0] is not None
    fails(database, settings, jobs[0])
    reason = {"reason": "identity is being checked"}
    held = client.post(f"/v1/deletion-requests/{request}/hold", headers=operator, json=reason).json()
    assert sorted(erasure["status"] for erasure in held["erasures"]) == ["failed", "on_hold"]
    assert "on hold: resume" in refused(client, operator, jobs[0], "retry")
    assert job_of(database, str(jobs[1])).status is JobStatus.CANCELLED


@pytest.mark.usefixtures("digits")
def test_a_retry_of_what_was_forgotten_since_is_over_at_once(
    client: TestClient, database: Database, settings: Settings, world: World, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1)
    fails(database, settings, job)
    forget(world, posted(client, shop, {"index": 1}))
    made = decided(client, operator, job, "retry")
    assert (made["status"], made["requests"]) == ("cancelled", [])
    assert "has forgotten" in made["error"]["detail"]
    with database.read() as session:
        assert set(session.scalars(select(Erasure.status))) == {ErasureStatus.DONE}


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
@pytest.mark.usefixtures("digits")
def test_a_model_and_a_training_set_are_made_by_the_retried_job(
    ended: str, client: TestClient, database: Database, settings: Settings, operator: Headers
) -> None:
    for make, record, states in (
        (trained, Model, (ModelStatus.FAILED, ModelStatus.TRAINING)),
        (registered, TrainingSet, (TrainingSetStatus.FAILED, TrainingSetStatus.REGISTERING)),
    ):
        job = make(client, operator)
        if ended == "failed":
            fails(database, settings, job)
        else:
            decided(client, operator, job, "cancel")
        name = "new-cnn" if record is Model else "new"
        found = select(record).where(record.name == name)  # type: ignore[attr-defined]
        with database.read() as session:
            assert session.scalars(found).one().status is states[0]
        made = decided(client, operator, job, "retry")
        with database.read() as session:
            row = session.scalars(found).one()
        assert (row.status, row.error, made["retry_of"]) == (states[1], None, job)
        assert made["id"] in refused(client, operator, job, "retry")
        assert claim(database, settings, uuid.UUID(made["id"]), "gpu-1") is not None


@pytest.mark.usefixtures("digits")
def test_a_failed_audit_is_retried_unless_another_is_at_it(
    client: TestClient, database: Database, settings: Settings, operator: Headers
) -> None:
    first = client.post("/v1/models/digits-cnn/audits", headers=operator).json()["id"]
    fails(database, settings, first)
    second = client.post("/v1/models/digits-cnn/audits", headers=operator).json()["id"]
    assert f"Job {second} is at it already" in refused(client, operator, first, "retry")
    fails(database, settings, second)
    made = decided(client, operator, second, "retry")
    assert (made["kind"], made["model"], made["retry_of"]) == ("audit", "digits-cnn", second)


@pytest.mark.usefixtures("digits")
def test_a_failed_document_is_retried_by_a_person(
    client: TestClient, database: Database, settings: Settings, shop: Headers, operator: Headers
) -> None:
    request = posted(client, shop, {"index": 1})
    reason = {"reason": "a claim is pending"}
    client.post(f"/v1/deletion-requests/{request}/reject", headers=operator, json=reason)
    assert certifying.plan_documents(database, settings) == 1
    with database.read() as session:
        job = session.scalars(select(Job.id).where(Job.kind == JobKind.CERTIFY)).one()
    fails(database, settings, job)
    made = decided(client, operator, job, "retry")
    again = job_of(database, made["id"])
    assert (again.kind, again.about, str(again.about_id)) == (JobKind.CERTIFY, "deletion_request", request)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == again.id).values(status=JobStatus.SUCCEEDED))
        session.execute(update(Job).where(Job.id == again.id).values(retry_of_id=None))
    assert "has written the document since" in refused(client, operator, job, "retry")


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED])
@pytest.mark.usefixtures("digits")
def test_only_what_failed_or_was_cancelled_is_retried(
    status: JobStatus, client: TestClient, world: World, operator: Headers
) -> None:
    assert status.value in refused(client, operator, world.job("digits-cnn", status=status), "retry")


@pytest.mark.usefixtures("digits")
def test_a_list_of_jobs_says_whom_each_serves(
    client: TestClient, database: Database, settings: Settings, world: World, shop: Headers, operator: Headers
) -> None:
    job = planned(client, database, settings, shop, 1)
    listed = {each["id"]: each for each in client.get("/v1/jobs", headers=operator).json()["data"]}
    assert len(listed[str(job)]["requests"]) == 1
    assert 27 <= listed[str(job)]["days_left"] <= 31
    others = [each for each in listed.values() if each["id"] != str(job)]
    assert [(each["requests"], each["due_at"], each["days_left"]) for each in others] == [([], None, None)]
    with database.write() as session:
        session.execute(update(Erasure).values(status=ErasureStatus.DONE))
        settle_all(session)
    ended = client.get(f"/v1/jobs/{job}", headers=operator).json()
    assert (len(ended["requests"]), ended["due_at"]) == (1, None)
