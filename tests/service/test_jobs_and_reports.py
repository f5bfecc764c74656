"""/v1/jobs, /v1/reports and lists"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from models.base import now
from models.records import Job, JobKind, JobStatus, SigningKey, VersionStatus, record_event
from models.verify import VERIFIED, verify
from service.duties.sealing import seal_events

Headers = dict[str, str]


def test_a_job_shows_what_an_operator_needs(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    job = client.get(f"/v1/jobs/{world.job('digits-cnn', JobKind.UNLEARN, JobStatus.QUEUED)}", headers=operator).json()
    assert (job["kind"], job["status"], job["model"], job["training_set"]) == (
        "unlearn",
        "queued",
        "digits-cnn",
        "digits",
    )
    assert {"phase", "step", "progress", "eta_seconds", "attempts", "error", "seconds"} <= set(job)
    assert job["eta_seconds"] is None


def test_an_unknown_job_is_not_found(client: TestClient, operator: Headers) -> None:
    assert client.get(f"/v1/jobs/{uuid.uuid4()}", headers=operator).status_code == 404
    assert client.get(f"/v1/jobs/{uuid.uuid4()}/events", headers=operator).status_code == 404
    assert client.get("/v1/jobs/nonsense", headers=operator).status_code == 422


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, 4),
        ({"kind": "train"}, 1),
        ({"status": "queued"}, 2),
        ({"model": "other"}, 2),
        ({"model": "digits-cnn", "kind": "unlearn"}, 2),
        ({"model": "nothing"}, 0),
    ],
    ids=str,
)
def test_jobs_are_filtered(
    query: dict[str, str], expected: int, client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    world.job("digits-cnn", JobKind.UNLEARN, JobStatus.QUEUED)
    world.model("other", "digits")
    world.job("other", JobKind.TRAIN, JobStatus.QUEUED)
    assert len(client.get("/v1/jobs", headers=operator, params=query).json()["data"]) == expected


def test_a_model_that_nobody_has_is_not_taken_for_the_jobs_without_one(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    with world.database.write() as session:
        session.add(Job(kind=JobKind.REGISTER, status=JobStatus.QUEUED, training_set_id=digits, seed=1))
    assert client.get("/v1/jobs", headers=operator, params={"kind": "register"}).json()["data"]
    assert client.get("/v1/jobs", headers=operator, params={"model": "nobody"}).json()["data"] == []


def test_pages_follow_each_other_newest_first_without_gaps(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    made = [str(world.job("digits-cnn")) for _ in range(7)]
    seen: list[str] = []
    url: str | None = "/v1/jobs?limit=3"
    while url:
        answer = client.get(url, headers=operator)
        seen += [job["id"] for job in answer.json()["data"]]
        assert answer.links["first"]["url"] == "/v1/jobs?limit=3"
        assert ("next" in answer.links) == (answer.json()["next_cursor"] is not None)
        url = answer.links["next"]["url"] if "next" in answer.links else None
    assert seen[:7] == made[::-1]
    assert len(seen) == len(set(seen)) == 8


def test_a_link_to_the_next_page_keeps_the_filter(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    world.job("digits-cnn", JobKind.TRAIN)
    world.job("digits-cnn", JobKind.TRAIN)
    link = client.get("/v1/jobs?kind=train&limit=1", headers=operator).headers["Link"]
    following = client.get(link.split(">")[0][1:], headers=operator).json()
    assert [job["kind"] for job in following["data"]] == ["train"]
    assert following["next_cursor"] is None


@pytest.mark.parametrize("cursor", ["nonsense", "", "MTIz", "%00", "A" * 65, "LTE"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/v1/models/digits-cnn/versions"])
def test_a_made_up_cursor_is_refused(
    path: str, cursor: str, client: TestClient, digits: uuid.UUID, operator: Headers
) -> None:
    answer = client.get(f"{path}?cursor={cursor}", headers=operator)
    assert answer.status_code == 422


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x"])
def test_a_limit_outside_1_to_200_is_refused(limit: str, client: TestClient, operator: Headers) -> None:
    assert client.get(f"/v1/jobs?limit={limit}", headers=operator).status_code == 422


def test_events_of_a_job_come_in_the_order_of_their_seals(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    job = world.job("digits-cnn")
    with world.database.write() as session:
        for name in ("job.queued", "job.started", "job.succeeded"):
            record_event(session, name, "job", job, "test")
            session.flush()
        record_event(session, "job.started", "job", uuid.uuid4(), "test")
    url = f"/v1/jobs/{job}/events"
    assert client.get(url, headers=operator).json()["data"] == []
    seal_events(world.database)
    first = client.get(url, headers=operator, params={"limit": 2}).json()
    assert [(event["position"], event["name"]) for event in first["data"]] == [(1, "job.queued"), (2, "job.started")]
    rest = client.get(url, headers=operator, params={"cursor": first["next_cursor"]}).json()
    assert [(event["position"], event["name"]) for event in rest["data"]] == [(3, "job.succeeded")]


FILES = {
    "": ("report.json", "application/json"),
    "/pdf": ("report.pdf", "application/pdf"),
    "/samples.csv": ("samples.csv", "text/csv; charset=utf-8"),
    "/envelope": ("envelope.json", "application/vnd.dsse.envelope.v1+json"),
}


@pytest.mark.parametrize("suffix", FILES)
def test_a_report_is_served_byte_for_byte(
    suffix: str, client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers
) -> None:
    name, media_type = FILES[suffix]
    answer = client.get(f"/v1/reports/{world.report('digits-cnn', 1, 'pass')}{suffix}", headers=compliance)
    assert answer.content == next((world.settings.data_dir / "reports").glob(f"*/{name}")).read_bytes()
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'


@pytest.mark.fault(13)
@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_report_that_was_changed_is_not_served(
    suffix: str, harm: str, client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers
) -> None:
    report = world.report("digits-cnn", 1, "pass")
    path = next((world.settings.data_dir / "reports").glob(f"*/{FILES[suffix][0]}"))
    path.write_bytes(b"forged") if harm == "changed" else path.unlink()
    for served in (suffix, "/bundle"):
        answer = client.get(f"/v1/reports/{report}{served}", headers=compliance)
        assert answer.status_code == 500
        assert "not the one that was written" in answer.json()["detail"]


def test_a_report_in_a_list_says_what_it_is_and_where_its_files_are(
    client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers
) -> None:
    report = world.report("digits-cnn", 1, "exact")
    (listed,) = client.get("/v1/reports", headers=compliance, params={"verdict": "exact"}).json()["data"]
    assert (listed["kind"], listed["verdict"]) == ("audit_report", "exact")
    for link, path in listed["links"].items():
        answer = client.get(path, headers=compliance)
        assert answer.status_code == 200, link
        hashed = {"self": "json_sha256", "pdf": "pdf_sha256", "samples": "csv_sha256"}.get(link)
        assert hashed is None or listed[hashed] == hashlib.sha256(answer.content).hexdigest()
    assert set(listed["links"]) == {"self", "pdf", "samples", "envelope", "bundle"}
    envelope = client.get(f"/v1/reports/{report}/envelope", headers=compliance).json()
    assert [signature["keyid"] for signature in envelope["signatures"]] == [listed["key_id"]]


def test_a_report_that_was_never_signed_has_no_evidence(
    client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers
) -> None:
    report = world.report("digits-cnn", 1, "pass", signed=False)
    for suffix in ("/samples.csv", "/envelope", "/bundle"):
        answer = client.get(f"/v1/reports/{report}{suffix}", headers=compliance)
        assert answer.status_code == 404
        assert "before reports were signed" in answer.json()["detail"]
    (listed,) = client.get("/v1/reports", headers=compliance).json()["data"]
    assert (listed["csv_sha256"], listed["key_id"]) == (None, None)
    assert set(listed["links"]) == {"self", "pdf"}


def test_a_bundle_is_verified_with_the_published_keys_before_and_after_a_rotation(
    client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers, tmp_path: Path
) -> None:
    def verified(report: uuid.UUID) -> int:
        (tmp_path / "jwks.json").write_bytes(client.get("/.well-known/jwks.json").content)
        (tmp_path / "bundle.zip").write_bytes(client.get(f"/v1/reports/{report}/bundle", headers=compliance).content)
        return verify(tmp_path / "bundle.zip", [tmp_path / "jwks.json"]).status

    first = world.report("digits-cnn", 1, "under_unlearned")
    assert verified(first) == VERIFIED
    with world.database.write() as session:
        session.execute(update(SigningKey).values(retired_at=now()))
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    second = world.report("digits-cnn", 2, "pass")
    assert (verified(first), verified(second)) == (VERIFIED, VERIFIED)
    keys = {report["key_id"] for report in client.get("/v1/reports", headers=compliance).json()["data"]}
    assert keys == {key["kid"] for key in client.get("/.well-known/jwks.json").json()["keys"]}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [2, 1]),
        ({"verdict": "inconclusive"}, [2]),
        ({"model": "digits-cnn"}, [2, 1]),
        ({"model": "other"}, []),
        ({"from": "2020-01-01T00:00:00Z"}, [2, 1]),
        ({"to": "2020-01-01T00:00:00Z"}, []),
        ({"from": "2020-01-01T00:00:00+02:00", "to": "2999-01-01T00:00:00Z", "verdict": "pass"}, [1]),
    ],
    ids=str,
)
def test_reports_are_filtered(
    query: dict[str, str], expected: list[int], client: TestClient, world: Any, digits: uuid.UUID, compliance: Headers
) -> None:
    world.report("digits-cnn", 1, "pass")
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.report("digits-cnn", 2, "inconclusive")
    listed = client.get("/v1/reports", headers=compliance, params=query).json()["data"]
    assert [report["version"] for report in listed] == expected


@pytest.mark.parametrize(
    "query",
    [{"verdict": "good"}, {"from": "yesterday"}, {"from": "2026-01-01T00:00:00"}, {"to": "9999-12-31T23:59:59-12:00"}],
    ids=str,
)
def test_a_filter_that_makes_no_sense_is_refused(
    query: dict[str, str], client: TestClient, compliance: Headers
) -> None:
    assert client.get("/v1/reports", headers=compliance, params=query).status_code == 422


@pytest.mark.parametrize("suffix", [*FILES, "/bundle"])
def test_an_unknown_report_is_not_found(suffix: str, client: TestClient, compliance: Headers) -> None:
    assert client.get(f"/v1/reports/{uuid.uuid4()}{suffix}", headers=compliance).status_code == 404
