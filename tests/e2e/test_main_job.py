"""The main job with real processes: a deletion request becomes a new, audited version."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import httpx
import psutil
import pytest
from safetensors import safe_open

from models.records import Role
from tests.e2e.conftest import MODEL, Service

FORGET = [{"key": f"train/{index:05d}"} for index in range(80)]


@pytest.fixture
def operator(service: Service) -> httpx.Client:
    return service.client(Role.OPERATOR)


@pytest.fixture
def application(service: Service) -> httpx.Client:
    return service.client(Role.APPLICATION)


def requested(application: httpx.Client, samples: list[dict[str, Any]], key: str = "one") -> dict[str, Any]:
    answer = application.post(
        "/v1/deletion-requests",
        json={"training_set": "digits", "samples": samples, "ground": "17(1)(b)"},
        headers={"Idempotency-Key": key},
    )
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def job_of(service: Service, application: httpx.Client, request: str) -> str:
    def look() -> str | None:
        found: str | None = application.get(f"/v1/deletion-requests/{request}").json()["erasures"][0]["job"]
        return found

    planned: str = service.wait("a planned job", look)
    return planned


def test_a_deletion_request_becomes_a_new_audited_version(
    service: Service, operator: httpx.Client, application: httpx.Client
) -> None:
    service.trained(operator)
    first = application.get("/v1/models/digits-cnn/checkpoint")
    control = operator.post("/v1/training-sets/digits/samples/search", json={"samples": [{"key": "control/00000"}]})
    assert control.status_code == 200, control.text
    request = requested(application, [*FORGET, FORGET[0], {"key": "control/00000"}])
    outcomes = [selector["outcome"] for selector in request["samples"]]
    assert outcomes.count("matched") == 80
    assert outcomes[-2:] == ["duplicate", "control"]
    assert requested(application, [*FORGET, FORGET[0], {"key": "control/00000"}])["id"] == request["id"]

    job = service.ended(operator, job_of(service, application, request["id"]))
    assert job["status"] == "succeeded", job
    assert job["progress"] == 1.0
    assert {"load", "attack", "finetune", "audit", "retrain", "save"} <= set(job["seconds"])

    report, document = newest_report(service)
    verdict = document["audit"]["after"]["verdict"]
    assert verdict == report["verdict"]
    version = operator.get("/v1/models/digits-cnn/versions/2").json()
    if verdict == "pass":
        assert version["status"] == "released"
    else:
        assert version["status"] == "quarantined"
        status = application.get(f"/v1/deletion-requests/{request['id']}").json()["status"]
        assert status == "awaiting_release"
        assert application.get("/v1/models/digits-cnn/checkpoint").headers["etag"] == first.headers["etag"]
        released = operator.post("/v1/models/digits-cnn/versions/2/release", json={"reason": "read the report"})
        assert released.status_code == 202, released.text

    def completed() -> bool:
        return bool(application.get(f"/v1/deletion-requests/{request['id']}").json()["status"] == "completed")

    service.wait("the request's completion", completed)
    served = application.get("/v1/models/digits-cnn/checkpoint")
    assert hashlib.sha256(served.content).hexdigest() == version["sha256"] != version["parent"]
    assert served.content != first.content
    # What was forgotten is known to be so, whoever asks again, without another job.
    again = requested(application, FORGET[:3], "two")
    assert {selector["outcome"] for selector in again["samples"]} == {"already_erased"}
    assert application.get(f"/v1/deletion-requests/{again['id']}").json()["status"] == "completed"
    erased = requested(application, [{"key": "control/00000"}], "three")
    assert erased["samples"][0]["outcome"] == "already_erased"
    assert len(operator.get("/v1/jobs", params={"kind": "unlearn"}).json()["data"]) == 1


def test_a_checkpoint_opens_as_safetensors_and_events_tell_the_story(
    service: Service, operator: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service.trained(operator)
    answer = operator.get("/v1/models/digits-cnn/checkpoint")
    path = tmp_path_factory.mktemp("download") / "checkpoint.safetensors"
    path.write_bytes(answer.content)
    with safe_open(path, "numpy") as checkpoint:
        assert len(list(checkpoint.keys())) > 4
    job = operator.get("/v1/jobs", params={"kind": "train"}).json()["data"][0]["id"]

    def sealed() -> list[dict[str, Any]] | None:
        events: list[dict[str, Any]] = operator.get(f"/v1/jobs/{job}/events").json()["data"]
        return events if any(event["name"] == "job.succeeded" for event in events) else None

    events = service.wait("the sealed events", sealed)
    positions = [event["position"] for event in events]
    assert positions == sorted(positions)
    assert "job.started" in [event["name"] for event in events]


def test_a_worker_killed_in_the_middle_of_a_job_leaves_one_version_and_no_process(
    service: Service, operator: httpx.Client, application: httpx.Client
) -> None:
    service.trained(operator)
    request = requested(application, FORGET)
    job_id = job_of(service, application, request["id"])

    def running() -> list[psutil.Process] | None:
        if operator.get(f"/v1/jobs/{job_id}").json()["status"] != "running":
            return None
        return [process for process in service.processes() if "worker.pipeline" in " ".join(process.cmdline())]

    pipelines = service.wait("a running pipeline", running)
    workers = [
        process
        for process in service.processes()
        if "celery" in " ".join(process.cmdline()) and process.parent().pid == psutil.Process().pid  # type: ignore[union-attr]
    ]
    assert len(workers) == 1
    pool = workers[0].children()
    workers[0].kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(process.is_running() for process in [*pool, *pipelines]):
        time.sleep(0.1)
    assert not any(process.is_running() and process.status() != "zombie" for process in [*pool, *pipelines])

    job = service.ended(operator, job_id)  # the lease runs out, the row goes back, a new worker takes it
    assert job["status"] == "succeeded", job
    assert job["attempts"] == 2
    versions = operator.get("/v1/models/digits-cnn/versions").json()["data"]
    assert sorted(version["number"] for version in versions) == [1, 2]
    assert len(list(service.settings.data_dir.glob("store/*/*/report.json"))) == 1
    service.wait("an empty staging folder", lambda: not list((service.settings.data_dir / "staging").iterdir()))


def newest_report(service: Service) -> tuple[dict[str, Any], dict[str, Any]]:
    compliance = service.client(Role.COMPLIANCE)
    report: dict[str, Any] = compliance.get("/v1/reports", params={"model": MODEL["name"]}).json()["data"][0]
    document: dict[str, Any] = json.loads(compliance.get(f"/v1/reports/{report['id']}").content)
    assert compliance.get(f"/v1/reports/{report['id']}/pdf").content.startswith(b"%PDF")
    return report, document
