"""/v1/deletion-requests"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, update
from starlette.testclient import TestClient

from models.base import now
from models.evidence import suppression_digests
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Job,
    ModelStatus,
    ModelVersion,
    RequestSample,
    Role,
    Sample,
    Split,
    Suppression,
    TrainingSetStatus,
    VersionStatus,
)
from models.secrets import SUPPRESSION, load_or_create
from tests.service.conftest import CONTROLS, TRAIN
from tests.settled import settle_all

Headers = dict[str, str]
URL = "/v1/deletion-requests"


def body(*samples: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"training_set": "digits", "samples": list(samples), **more}


def post(client: TestClient, headers: Headers, *samples: dict[str, Any], **more: Any) -> Any:
    return client.post(URL, headers=headers, json=body(*samples, **more))


def count(world: Any, record: type[Any]) -> int:
    with world.database.read() as session:
        return int(session.scalar(select(func.count()).select_from(record)))


def asked(world: Any, request_id: str) -> list[int]:
    """Rows that the request erases."""
    query = select(RequestSample.sample_index).where(RequestSample.request_id == uuid.UUID(request_id))
    with world.database.read() as session:
        return sorted(session.scalars(query))


def outcomes(answer: Any) -> list[str]:
    assert answer.status_code == 202, answer.text
    return [sample["outcome"] for sample in answer.json()["samples"]]


# What a request becomes


def test_a_request_becomes_rows_and_no_job(client: TestClient, world: Any, digits: uuid.UUID, shop: Headers) -> None:
    jobs = count(world, Job)
    answer = post(client, shop, {"key": "train/00007"}, external_id="crm-9911", ground="17(1)(b)")
    assert answer.status_code == 202
    request = answer.json()
    assert answer.headers["Location"] == f"{URL}/{request['id']}"
    assert int(answer.headers["Retry-After"]) > 0
    assert (request["status"], request["models"], request["regulation"]) == ("queued", ["digits-cnn"], "GDPR")
    assert (request["external_id"], request["ground"]) == ("crm-9911", "17(1)(b)")
    assert asked(world, request["id"]) == [7]
    assert count(world, Job) == jobs
    with world.database.read() as session:
        assert session.scalars(select(Erasure.status)).all() == [ErasureStatus.OPEN]
        event = session.scalars(select(Event)).one()
        assert (event.name, event.record_id) == ("deletion_request.accepted", request["id"])


def test_the_event_names_no_person(client: TestClient, world: Any, digits: uuid.UUID, shop: Headers) -> None:
    post(client, shop, {"subject": "user-42"}, {"key": "train/00001"}, external_id="crm-9911")
    with world.database.read() as session:
        told = str(session.scalars(select(Event.data)).one())
    assert not any(name in told for name in ("user-42", "train/00001", "crm-9911"))


@pytest.mark.fault(15)
def test_every_kind_of_selector_finds_its_sample(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    with world.database.read() as session:
        rows = {row.index: row for row in session.scalars(select(Sample))}
        names = [
            {"key": rows[10].key},
            {"index": 11},
            {"sha256": rows[12].sha256.upper()},
            {"file_sha256": rows[13].file_sha256},
            {"subject": "user-42"},
        ]
    answer = post(client, shop, *names)
    assert [sample["indices"] for sample in answer.json()["samples"]] == [[10], [11], [12], [13], [5, 6, 45]]
    assert [sample["selector"] for sample in answer.json()["samples"]][:2] == names[:2]
    assert asked(world, answer.json()["id"]) == [5, 6, 10, 11, 12, 13, 45]


def test_a_digest_of_pixels_stands_for_every_copy(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    with world.database.read() as session:
        digest = session.scalars(select(Sample.sha256).where(Sample.index == 2)).one()
    sample = post(client, shop, {"sha256": digest}).json()["samples"][0]
    assert (sample["indices"], sample["copies"], sample["count"]) == ([2, 3], [], 2)


def test_a_key_takes_exact_copies_along_and_says_so(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    answer = post(client, shop, {"key": "train/00002"}).json()
    assert (answer["samples"][0]["indices"], answer["samples"][0]["copies"]) == ([2], [3])
    assert asked(world, answer["id"]) == [2, 3]


@pytest.mark.fault(15)
def test_what_was_named_before_is_a_duplicate(client: TestClient, world: Any, digits: uuid.UUID, shop: Headers) -> None:
    answer = post(client, shop, {"key": "train/00002"}, {"index": 2}, {"index": 3}, {"key": "train/00002"})
    assert outcomes(answer) == ["matched", "duplicate", "duplicate", "duplicate"]
    assert asked(world, answer.json()["id"]) == [2, 3]


def test_a_sample_in_another_open_request_is_pending_and_still_erased(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    post(client, shop, {"index": 7})
    answer = post(client, shop, {"index": 7}, {"index": 8})
    assert outcomes(answer) == ["pending", "matched"]
    assert asked(world, answer.json()["id"]) == [7, 8]
    assert count(world, Erasure) == 2


@pytest.mark.fault(15)
def test_a_control_needs_no_erasure_in_any_model(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    answer = post(client, shop, {"index": 41})
    assert outcomes(answer) == ["control"]
    assert (answer.json()["status"], answer.json()["models"]) == ("queued", [])
    assert asked(world, answer.json()["id"]) == [41]
    with world.database.read() as session:
        assert session.scalars(select(DeletionRequest.has_controls)).one() is True


# Already erased


def test_a_sample_that_every_model_forgot_is_completed_at_once_with_the_evidence(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    first = post(client, shop, {"index": 7}).json()["id"]
    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(first, "digits-cnn", version)
    answer = post(client, shop, {"index": 7})
    assert outcomes(answer) == ["already_erased"]
    assert answer.json()["status"] == "completed"
    read = client.get(answer.headers["Location"], headers=shop).json()
    assert (read["status"], read["days_left"]) == ("completed", None)
    assert [(erasure["status"], erasure["version"]) for erasure in read["erasures"]] == [("done", 2)]


def test_what_is_already_forgotten_is_not_forgotten_again_beside_new_samples(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    first = post(client, shop, {"index": 7}).json()["id"]
    world.finish(first, "digits-cnn", world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1))
    answer = post(client, shop, {"index": 7}, {"index": 8})
    assert outcomes(answer) == ["already_erased", "matched"]
    assert asked(world, answer.json()["id"]) == [8]
    assert answer.json()["status"] == "queued"


def test_a_sample_that_only_some_models_forgot_is_erased_in_all(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    first = post(client, shop, {"index": 7}).json()["id"]
    world.finish(first, "digits-cnn", world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1))
    world.model("second", "digits")
    answer = post(client, shop, {"index": 7})
    assert outcomes(answer) == ["matched"]
    assert answer.json()["models"] == ["digits-cnn", "second"]


@pytest.mark.fault(15)
def test_an_erased_control_is_known_by_keyed_hashes_of_its_names(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    key = load_or_create(world.settings.secrets, SUPPRESSION)
    with world.database.write() as session:
        sample = session.get_one(Sample, (digits, 45))
        names = [
            {"key": sample.key},
            {"index": 45},
            {"sha256": sample.sha256},
            {"file_sha256": sample.file_sha256},
        ]
        session.add_all(
            Suppression(training_set_id=digits, digest=digest, sample_index=45)
            for digest in suppression_digests(key, sample)
        )
        sample.key = sample.sha256 = sample.file_sha256 = sample.subject = None
        sample.erased_at = now()
    for name in names:
        answer = post(client, shop, name)
        assert (outcomes(answer), answer.json()["status"]) == (["already_erased"], "completed")
    assert outcomes(post(client, shop, *names)) == ["already_erased", "duplicate", "duplicate", "duplicate"]
    assert client.get(answer.headers["Location"], headers=shop).json()["status"] == "completed"


# What is refused


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "samples",
    [
        [],
        [{}],
        [{"key": "a", "index": 1}],
        [{"name": "a"}],
        [{"key": ""}],
        [{"key": None}],
        [{"index": -1}],
        [{"index": 1.5}],
        [{"index": "1"}],
        [{"index": True}],
        [{"index": 2**31}],
        [{"sha256": "abc"}],
        [{"sha256": "g" * 64}],
        [{"subject": "x" * 256}],
        "all",
        None,
    ],
    ids=str,
)
def test_an_empty_or_impossible_selector_is_refused(
    samples: Any, client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    answer = client.post(URL, headers=shop, json={"training_set": "digits", "samples": samples})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("#/samples")
    assert (count(world, DeletionRequest), count(world, Event)) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"regulation": "HIPAA"},
        {"submitted_at": "2026-11-20T09:00:00"},
        {"submitted_at": "yesterday"},
        {"submitted_at": "0001-01-01T00:00:00+14:00"},
        {"submitted_at": "9999-12-31T23:59:59-12:00"},
        {"external_id": ""},
        {"external_id": "x" * 256},
        {"ground": "x" * 65},
        {"models": []},
        {"priority": 1},
        {"partial": "perhaps"},
    ],
    ids=str,
)
def test_a_field_that_makes_no_sense_is_named(
    change: dict[str, Any], client: TestClient, digits: uuid.UUID, shop: Headers
) -> None:
    answer = post(client, shop, {"index": 1}, **change)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"#/{next(iter(change))}"


def test_more_than_ten_thousand_selectors_are_refused(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    answer = post(client, shop, *({"index": index} for index in range(10_001)))
    assert answer.status_code == 422


@pytest.mark.fault(15)
def test_none_found_is_refused_and_each_selector_named(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    answer = post(client, shop, {"key": "nothing"}, {"index": 999}, partial=True)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["#/samples/0", "#/samples/1"]
    assert count(world, DeletionRequest) == 0


@pytest.mark.fault(15)
def test_some_not_found_are_refused_unless_partial(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    samples = [{"key": "nothing"}, {"index": 7}]
    refused = post(client, shop, *samples)
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == ["#/samples/0"]
    assert count(world, DeletionRequest) == 0
    answer = post(client, shop, *samples, partial=True)
    assert outcomes(answer) == ["not_found", "matched"]
    assert asked(world, answer.json()["id"]) == [7]


def test_an_unknown_training_set_is_not_found(client: TestClient, shop: Headers) -> None:
    answer = post(client, shop, {"index": 1})
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["pointer"] == "#/training_set"


def test_an_unknown_model_is_not_found(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    answer = post(client, shop, {"index": 1}, models=["digits-cnn", "nothing"])
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["pointer"] == "#/models/1"


def test_a_model_of_another_training_set_is_not_found(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    world.training_set("letters", "shop")
    world.model("letters-cnn", "letters")
    assert post(client, shop, {"index": 1}, models=["letters-cnn"]).status_code == 404


@pytest.mark.parametrize("status", [TrainingSetStatus.REGISTERING, TrainingSetStatus.FAILED])
def test_nothing_is_deleted_from_a_set_that_is_not_ready(
    status: TrainingSetStatus, client: TestClient, world: Any, shop: Headers
) -> None:
    world.training_set("digits", "shop", status)
    assert post(client, shop, {"index": 1}).status_code == 409


def test_without_a_model_there_is_nothing_to_make_forget(client: TestClient, world: Any, shop: Headers) -> None:
    world.training_set("digits", "shop")
    assert post(client, shop, {"index": 1}).status_code == 409
    assert post(client, shop, {"index": 41}).status_code == 202


@pytest.mark.parametrize("status", [ModelStatus.FAILED, ModelStatus.RETIRED])
def test_models_that_serve_no_more_are_no_targets(
    status: ModelStatus, client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    world.model("gone", "digits", status)
    assert post(client, shop, {"index": 1}).json()["models"] == ["digits-cnn"]
    answer = post(client, shop, {"index": 2}, models=["gone"])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/models/0"


@pytest.mark.parametrize("status", [ModelStatus.TRAINING, ModelStatus.WITHDRAWN])
def test_models_that_will_serve_again_are_targets(
    status: ModelStatus, client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    world.model("later", "digits", status)
    assert post(client, shop, {"index": 1}).json()["models"] == ["digits-cnn", "later"]


def test_only_the_named_models_are_asked(client: TestClient, world: Any, digits: uuid.UUID, shop: Headers) -> None:
    world.model("second", "digits")
    assert post(client, shop, {"index": 1}, models=["second", "second"]).json()["models"] == ["second"]


# Large requests


@pytest.mark.fault(16)
def test_a_request_for_every_training_image_is_refused(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    assert post(client, shop, *({"index": index} for index in range(40))).status_code == 422
    assert count(world, DeletionRequest) == 0


@pytest.mark.fault(16)
def test_requests_cannot_empty_the_set_one_after_another(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    assert post(client, shop, *({"index": index} for index in range(20))).status_code == 202
    assert post(client, shop, *({"index": index} for index in range(20, 40))).status_code == 422


@pytest.mark.fault(16)
def test_more_than_the_policys_share_waits_for_approval(client: TestClient, world: Any, shop: Headers) -> None:
    world.training_set("digits", "shop")
    world.model("digits-cnn", "digits", approval_share=0.2)
    at_most = post(client, shop, *({"index": index} for index in range(4, 12))).json()
    more = post(client, shop, *({"index": index} for index in range(20, 29))).json()
    assert (at_most["approval_required"], at_most["status"]) == (False, "queued")
    assert (more["approval_required"], more["status"]) == (True, "awaiting_approval")


@pytest.mark.fault(16)
@pytest.mark.parametrize("probe", [0, 64])
def test_a_whole_class_waits_for_approval(
    probe: int, client: TestClient, digits: uuid.UUID, shop: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.approval.PROBE", probe)  # without a probe every label is looked at one by one
    most = post(client, shop, *({"index": index} for index in range(0, 36, 4))).json()
    assert most["approval_required"] is False
    rest = post(client, shop, {"index": 36})
    assert rest.json()["approval_required"] is True
    assert client.get(rest.headers["Location"], headers=shop).json()["status"] == "awaiting_approval"


# Idempotency


def test_the_same_key_and_body_give_the_same_answer(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    headers = {**shop, "Idempotency-Key": "a key"}
    first = post(client, headers, {"index": 7})
    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(first.json()["id"], "digits-cnn", version)
    again = post(client, headers, {"index": 7})
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert ("Idempotency-Replayed" in first.headers, again.headers["Idempotency-Replayed"]) == (False, "true")
    assert (count(world, DeletionRequest), count(world, Event)) == (1, 2)  # accepted, and completed


def test_the_same_key_with_another_body_is_refused(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    headers = {**shop, "Idempotency-Key": "a key"}
    post(client, headers, {"index": 7})
    answer = post(client, headers, {"index": 8})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"
    assert count(world, DeletionRequest) == 1


def test_a_key_that_met_a_refusal_can_be_used_again(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    headers = {**shop, "Idempotency-Key": "a key"}
    assert post(client, headers, {"key": "nothing"}).status_code == 422
    assert post(client, headers, {"index": 7}).status_code == 202


def test_two_applications_may_use_the_same_key(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, rival: Headers
) -> None:
    world.model("rivals-cnn", "rivals")
    first = post(client, {**shop, "Idempotency-Key": "k"}, {"index": 7})
    second = post(client, {**rival, "Idempotency-Key": "k"}, {"index": 7}, training_set="rivals")
    assert first.json()["id"] != second.json()["id"]


def test_without_a_key_each_post_is_a_request(client: TestClient, world: Any, digits: uuid.UUID, shop: Headers) -> None:
    post(client, shop, {"index": 7})
    post(client, shop, {"index": 7})
    assert count(world, DeletionRequest) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\u00e9"])
def test_a_key_that_is_too_long_or_not_printable_is_refused(
    key: str, client: TestClient, digits: uuid.UUID, shop: Headers
) -> None:
    headers = {**shop, "Idempotency-Key": key.encode("latin-1")}
    assert client.post(URL, headers=headers, json=body({"index": 7})).status_code == 422


@pytest.mark.fault(14)
def test_a_hundred_equal_posts_at_once_make_one_request(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    headers = {**shop, "Idempotency-Key": "a key"}
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: post(client, headers, {"index": 7}), range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 99
    assert (count(world, DeletionRequest), count(world, Erasure), count(world, Event)) == (1, 1, 1)


def test_a_hundred_posts_and_reads_at_once_find_a_thread_to_end_on(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    def call(number: int) -> int:
        if number % 2:
            return int(client.get(URL, headers=shop).status_code)
        return int(post(client, shop, {"index": number % 40}).status_code)

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(call, range(100))) == {200, 202}
    assert count(world, DeletionRequest) == 50


# Tenancy


def test_another_applications_set_looks_as_if_it_were_not_there(
    client: TestClient, digits: uuid.UUID, rival: Headers
) -> None:
    others = post(client, rival, {"index": 1})
    nobodys = post(client, rival, {"index": 1}, training_set="nothing")
    assert others.status_code == nobodys.status_code == 404
    assert others.json()["detail"] == nobodys.json()["detail"]


def test_another_applications_request_looks_as_if_it_were_not_there(
    client: TestClient, digits: uuid.UUID, shop: Headers, rival: Headers
) -> None:
    mine = post(client, shop, {"index": 1}).headers["Location"]
    others = client.get(mine, headers=rival)
    nobodys = client.get(f"{URL}/{uuid.uuid4()}", headers=rival)
    assert others.status_code == nobodys.status_code == 404
    assert others.json()["detail"] == nobodys.json()["detail"]
    assert client.get(URL, headers=rival).json()["data"] == []


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.COMPLIANCE])
def test_operator_and_compliance_see_every_request(
    role: Role, client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    location = post(client, shop, {"index": 1}).headers["Location"]
    headers = world.key(role)
    assert client.get(location, headers=headers).json()["application"] == "shop"
    assert len(client.get(URL, headers=headers).json()["data"]) == 1


def test_two_keys_of_one_application_see_the_same(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    location = post(client, shop, {"index": 1}).headers["Location"]
    assert client.get(location, headers=world.key(Role.APPLICATION, "shop")).status_code == 200


# Reading


def test_a_request_shows_its_erasures_with_job_version_and_report(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    location = post(client, shop, {"index": 1}).headers["Location"]
    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(location.rsplit("/", 1)[1], "digits-cnn", version)
    report = world.report("digits-cnn", 2, "pass")
    erasure = client.get(location, headers=shop).json()["erasures"][0]
    assert (erasure["model"], erasure["status"], erasure["job"], erasure["version"], erasure["report"]) == (
        "digits-cnn",
        "done",
        str(version.job_id),
        2,
        str(report),
    )


def test_days_left_follow_from_when_the_person_asked(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    asked_at = now() - timedelta(days=100)
    answer = post(client, shop, {"index": 1}, regulation="CCPA", submitted_at=asked_at.isoformat())
    due = (asked_at + timedelta(days=45)).date()
    assert datetime.fromisoformat(answer.json()["due_at"]).date() == due
    read = client.get(answer.headers["Location"], headers=shop).json()
    assert read["days_left"] == (due - now().date()).days < 0


def test_a_request_from_the_future_is_refused(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    answer = post(client, shop, {"index": 1}, submitted_at=(now() + timedelta(hours=1)).isoformat())
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/submitted_at"


def test_requests_are_listed_by_status_model_and_due_date(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    world.model("second", "digits")
    first = post(client, shop, {"index": 1}, models=["digits-cnn"]).json()["id"]
    second = post(client, shop, {"index": 2}, models=["second"], regulation="LGPD").json()["id"]
    with world.database.write() as session:
        of_first = Erasure.request_id == uuid.UUID(first)
        session.execute(
            update(Erasure)
            .where(of_first)
            .values(status=ErasureStatus.DONE, version_id=session.scalars(select(ModelVersion.id)).first())
        )
        settle_all(session)
    soon = (now() + timedelta(days=20)).isoformat()

    def listed(**query: str) -> list[str]:
        return [request["id"] for request in client.get(URL, headers=shop, params=query).json()["data"]]

    assert listed() == [second, first]
    assert listed(status="completed") == [first]
    assert listed(status="queued") == [second]
    assert listed(model="second") == [second]
    assert listed(due_before=soon) == [second]
    assert listed(status="failed") == []
    assert client.get(URL, headers=shop, params={"status": "lost"}).status_code == 422


def test_more_than_half_of_the_controls_wait_for_approval(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, operator: Headers
) -> None:
    few = [{"index": TRAIN + row} for row in range(CONTROLS // 2)]
    assert post(client, shop, *few).json()["status"] == "queued"
    most = [{"index": TRAIN + row} for row in range(CONTROLS // 2 + 1)]
    answer = post(client, shop, *most).json()
    assert (answer["status"], answer["approval_required"]) == ("awaiting_approval", True)
    assert client.get(f"{URL}/{answer['id']}", headers=shop).json()["status"] == "awaiting_approval"


# Size


def test_ten_thousand_selectors_are_resolved_in_one_request(client: TestClient, world: Any, shop: Headers) -> None:
    training_set = world.training_set("digits", "shop")
    with world.database.write() as session:
        session.execute(
            insert(Sample),
            [
                {
                    "training_set_id": training_set,
                    "index": index,
                    "key": f"train/{index:05d}",
                    "sha256": f"{index:064x}",
                    "file_sha256": f"{index:064x}",
                    "label": index % 4,
                    "split": Split.TRAIN,
                }
                for index in range(100, 30_000)
            ],
        )
    world.model("digits-cnn", "digits")
    samples = [
        {"sha256": f"{index:064x}"} if index % 2 else {"key": f"train/{index:05d}"} for index in range(100, 10_100)
    ]
    statements: list[str] = []
    engine = client.app.state.database.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    answer = post(client, shop, *samples)
    assert set(outcomes(answer)) == {"matched"}
    assert asked(world, answer.json()["id"]) == list(range(100, 10_100))
    assert len(statements) < 100  # not one for each selector
