"""A decision about a request stops the process of the batch that it is in, and the others run on without it."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any

import psutil
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from models.records import Erasure, ErasureStatus, Job, JobKind, JobStatus, Model, ModelVersion
from models.session import Database
from models.settings import Settings
from service.duties import planning
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import posted
from tests.worker.test_tasks import children, replaying, until
from worker import tasks

STRENGTH = {"size": 2, "learning_rate": 0.05, "weight_scale": 1.0}
WITHIN_SECONDS = 15.0


class Running:
    """The job of two requests in the hands of a worker whose pipeline sleeps."""

    def __init__(self, client: TestClient, database: Database, settings: Settings, shop: Headers) -> None:
        self.database, self.settings = database, replaying(settings, "sleep")
        self.requests = [posted(client, shop, {"index": index}) for index in (1, 7)]
        assert planning.plan(database, settings) == 1
        with database.read() as session:
            self.job = session.scalars(select(Job.id).where(Job.status == JobStatus.QUEUED)).one()
        self.start()

    def start(self) -> None:
        self.worker = threading.Thread(
            target=tasks.run_job, args=(self.database, self.settings, self.job, "gpu-1"), daemon=True
        )
        self.worker.start()
        self.child: psutil.Process = until(children)[0]
        until(lambda: self.row().phase == "load")

    def row(self) -> Job:
        with self.database.read() as session:
            return session.get_one(Job, self.job)

    def states(self) -> dict[str, ErasureStatus]:
        with self.database.read() as session:
            rows = session.execute(select(Erasure.request_id, Erasure.status)).all()
        return {str(request): status for request, status in rows}

    def stops(self) -> None:
        started = time.monotonic()
        self.worker.join(WITHIN_SECONDS)
        assert not self.worker.is_alive()
        assert time.monotonic() - started < WITHIN_SECONDS
        assert not self.child.is_running()
        assert children() == []


@pytest.fixture
def running(
    client: TestClient, database: Database, settings: Settings, world: World, digits: uuid.UUID, shop: Headers
) -> Any:
    world.files(digits)
    (settings.data_dir / "store/set/1/labels.i32").write_bytes(bytes(4 * 50))
    with database.write() as session:
        model = session.scalars(select(Model)).one()
        model.training = (model.training or {}) | {"rehearsal": [STRENGTH]}
    made = Running(client, database, settings, shop)
    yield made
    for child in children():
        child.kill()
    made.worker.join(WITHIN_SECONDS)


@pytest.mark.parametrize(
    ("decision", "expected"),
    [("cancel", ErasureStatus.CANCELLED), ("hold", ErasureStatus.ON_HOLD), ("reject", ErasureStatus.CANCELLED)],
)
def test_the_child_is_stopped_and_the_other_request_is_queued_again(
    decision: str, expected: ErasureStatus, running: Running, client: TestClient, operator: Headers, settings: Settings
) -> None:
    first, second = running.requests
    answer = client.post(
        f"/v1/deletion-requests/{first}/{decision}", headers=operator, json={"reason": "as told by telephone"}
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["erasures"][0]["job"] is None
    assert client.get(f"/v1/deletion-requests/{second}", headers=operator).json()["status"] == "queued"
    running.stops()
    row = running.row()
    assert (row.status, row.attempts, row.error) == (JobStatus.QUEUED, 0, None)
    assert running.states() == {first: expected, second: ErasureStatus.OPEN}
    assert list((settings.data_dir / "staging").iterdir()) == []
    running.start()  # the next worker has the other request alone
    assert running.states() == {first: expected, second: ErasureStatus.RUNNING}
    assert running.row().token == 2
    (plan,) = (settings.data_dir / "staging").glob("*/plan.json")
    planned = json.loads(plan.read_text())
    assert planned["forget"] == [7]
    assert (1 in planned["retain"]) == (expected is ErasureStatus.CANCELLED)
    assert client.post(f"/v1/deletion-requests/{second}/cancel", headers=operator).status_code == 202
    running.stops()
    assert running.row().status is JobStatus.CANCELLED


@pytest.mark.fault(23)
def test_a_cancelled_job_loses_its_child_and_holds_its_requests(
    running: Running, client: TestClient, operator: Headers
) -> None:
    answer = client.post(f"/v1/jobs/{running.job}/cancel", headers=operator)
    assert answer.status_code == 202, answer.text
    running.stops()
    assert running.row().status is JobStatus.CANCELLED
    assert set(running.states().values()) == {ErasureStatus.ON_HOLD}
    requests = client.get("/v1/deletion-requests", headers=operator).json()["data"]
    assert {request["status"] for request in requests} == {"on_hold"}


def test_a_retired_model_loses_its_running_job(
    running: Running, client: TestClient, operator: Headers, database: Database
) -> None:
    answer = client.post("/v1/models/digits-cnn/retire", headers=operator, json={"reason": "replaced"})
    assert answer.status_code == 202, answer.text
    running.stops()
    assert running.row().status is JobStatus.CANCELLED
    assert set(running.states().values()) == {ErasureStatus.NOT_APPLICABLE}
    with database.read() as session:
        unlearned = select(ModelVersion.number).join(Job, Job.id == ModelVersion.job_id)
        assert session.scalars(unlearned.where(Job.id == running.job)).all() == []
        assert session.scalars(select(Job.kind).where(Job.id == running.job)).one() is JobKind.UNLEARN
