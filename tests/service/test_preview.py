"""POST /v1/deletion-requests/preview"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from models.base import now
from models.records import (
    Base,
    Job,
    JobKind,
    JobStatus,
    Model,
    NearDuplicate,
    Sample,
    TrainingSet,
    TrainingSetStatus,
    VersionStatus,
)

Headers = dict[str, str]
URL = "/v1/deletion-requests"
STRENGTH = {
    "size": 4,
    "learning_rate": 0.05,
    "weight_scale": 1.0,
    "requests": 8,
    "models": 4,
    "auc_z_mean": None,
    "auc_z_sd": None,
    "membership": 0.05,
    "membership_standard_error": 0.05,
    "membership_before": 1.0,
    "accuracy_change_mean": -0.01,
    "boundary_auc_mean": None,
}


def ask(client: TestClient, headers: Headers, *samples: dict[str, Any], path: str = "/preview", **more: Any) -> Any:
    return client.post(URL + path, headers=headers, json={"training_set": "digits", "samples": list(samples), **more})


def preview(client: TestClient, headers: Headers, *samples: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = ask(client, headers, *samples, **more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def of_model(told: dict[str, Any], name: str = "digits-cnn") -> dict[str, Any]:
    return dict(next(model for model in told["models"] if model["model"] == name))


def train(world: Any, training: dict[str, Any] | None, name: str = "digits-cnn") -> None:
    with world.database.write() as session:
        session.execute(update(Model).where(Model.name == name).values(training=training))


def finished_job(world: Any, seconds: float, **measured: float) -> None:
    job = world.job("digits-cnn")
    with world.database.write() as session:
        found = session.get_one(Job, job)
        found.finished_at = now()
        found.started_at = found.finished_at - timedelta(seconds=seconds)
        found.measured = measured or None


def near(world: Any, training_set: uuid.UUID, *pairs: tuple[int, int, float]) -> None:
    """The set was searched, and these pairs were found."""
    with world.database.write() as session:
        session.get_one(TrainingSet, training_set).near_duplicates = {"pairs": len(pairs)}
        session.add_all(
            NearDuplicate(training_set_id=training_set, first=first, second=second, distance=distance)
            for first, second, distance in pairs
        )


def test_a_preview_writes_nothing(client: TestClient, world: Any, digits: uuid.UUID, shop: Headers) -> None:
    def rows() -> dict[str, int]:
        with world.database.read() as session:
            return {
                name: session.scalar(select(func.count()).select_from(table)) or 0
                for name, table in Base.metadata.tables.items()
            }

    before = rows()
    assert preview(client, shop, {"subject": "user-42"}, {"key": "train/00002"}, {"index": 41})["accepted"] is True
    assert preview(client, shop, {"key": "nothing"})["accepted"] is False
    assert rows() == before


def test_a_preview_resolves_selectors_as_the_receipt_does(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    ask(client, shop, {"index": 9}, path="")
    samples = [{"key": "train/00002"}, {"subject": "user-42"}, {"index": 9}, {"index": 3}, {"key": "nothing"}]
    told = preview(client, shop, *samples, partial=True, regulation="LGPD")
    receipt = ask(client, shop, *samples, path="", partial=True, regulation="LGPD").json()
    assert told["samples"] == receipt["samples"]
    assert told["due_at"] == receipt["due_at"]
    assert told["approval_required"] is receipt["approval_required"] is False
    assert told["outcomes"] == {"matched": 2, "pending": 1, "duplicate": 1, "not_found": 1}
    assert told["rows"] == {"matched": 4, "pending": 1, "control": 1}
    assert [model["model"] for model in told["models"]] == receipt["models"]


def test_each_model_tells_what_it_would_have_to_forget(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    first = ask(client, shop, {"index": 7}, path="").json()["id"]
    world.finish(first, "digits-cnn", world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1))
    world.model("second", "digits")
    train(world, {"never_trained": [8]}, "second")
    told = preview(client, shop, {"index": 7}, {"index": 8}, {"index": 9}, {"index": 41})
    assert [(model["model"], model["samples"], model["share"]) for model in told["models"]] == [
        ("digits-cnn", 2, 2 / 40),
        ("second", 2, 2 / 40),
    ]
    assert [model["model"] for model in preview(client, shop, {"index": 7})["models"]] == ["second"]
    assert preview(client, shop, {"index": 41})["models"] == []


def test_why_a_person_must_approve_is_told_for_each_model(client: TestClient, world: Any, shop: Headers) -> None:
    world.training_set("digits", "shop")
    world.model("strict", "digits", approval_share=0.1)
    world.model("usual", "digits")
    told = preview(client, shop, *({"index": index} for index in range(4, 9)))
    assert told["approval_required"] is True
    assert of_model(told, "strict")["approval"] == {
        "required": True,
        "reasons": ["it is more than 10% of the training images"],
    }
    assert of_model(told, "usual")["approval"] == {"required": False, "reasons": []}
    whole_class = preview(client, shop, *({"index": index} for index in range(0, 40, 4)))
    assert of_model(whole_class, "usual")["approval"]["reasons"] == ["it takes the last training images of class 'a'"]


# What is refused


@pytest.mark.parametrize(
    "samples",
    [
        [{"key": "nothing"}],
        [{"key": "nothing"}, {"index": 7}],
        [{"index": index} for index in range(40)],
    ],
    ids=["none found", "some not found", "everything"],
)
def test_a_refusal_for_what_was_found_is_told_with_every_selector(
    samples: list[dict[str, Any]], client: TestClient, digits: uuid.UUID, shop: Headers
) -> None:
    told = preview(client, shop, *samples)
    refused = ask(client, shop, *samples, path="")
    problem = refused.json()
    del problem["trace_id"]
    assert refused.status_code == told["problem"]["status"] == 422
    assert (told["accepted"], told["problem"]) == (False, problem)
    assert len(told["samples"]) == len(samples)
    assert told["approval_required"] is None
    assert all(model["approval"] is None for model in told["models"])


def test_a_set_without_a_model_is_refused_in_the_preview_too(client: TestClient, world: Any, shop: Headers) -> None:
    world.training_set("digits", "shop")
    told = preview(client, shop, {"index": 7})
    assert (told["accepted"], told["problem"]["status"], told["models"]) == (False, 409, [])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"training_set": "nothing"}, 404),
        ({"training_set": "rivals"}, 404),
        ({"training_set": "unready"}, 409),
        ({"models": ["nothing"]}, 404),
        ({"submitted_at": "2999-01-01T00:00:00Z"}, 422),
        ({"samples": []}, 422),
        ({"regulation": "nothing"}, 422),
    ],
    ids=str,
)
def test_where_there_is_nothing_to_look_in_preview_and_post_answer_alike(
    body: dict[str, Any], status: int, client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, rival: Headers
) -> None:
    world.training_set("unready", "shop", TrainingSetStatus.REGISTERING)
    told, refused = (ask(client, shop, {"index": 7}, path=path, **body) for path in ("/preview", ""))
    assert told.status_code == refused.status_code == status
    assert told.json()["detail"] == refused.json()["detail"]


def test_another_applications_sample_is_not_told_of(client: TestClient, digits: uuid.UUID, rival: Headers) -> None:
    assert ask(client, rival, {"index": 7}).status_code == 404


# What to expect


def test_nothing_is_estimated_where_nothing_was_measured(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    told = of_model(preview(client, shop, {"index": 7}))
    assert (told["estimate"], told["accuracy_change"]) == (None, None)
    assert told["rehearsed"] == {"passed": False, "size": None, "reason": "nothing was rehearsed"}
    assert told["inconclusive"]["released"] is False


def test_an_estimate_rests_on_the_models_jobs_of_about_this_size(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    for seconds, forget, after in ((10, 1, 0.9), (30, 2, 0.88), (20, 3, 0.89), (900, 500, 0.5)):
        finished_job(world, seconds, forget=forget, accuracy_before=0.9, accuracy_after=after)
    told = of_model(preview(client, shop, {"index": 7}))
    assert told["estimate"] == {
        "seconds": {"median": 20, "lowest": 10, "highest": 30},
        "jobs": 3,
        "comparable": True,
    }
    change = told["accuracy_change"]
    assert (change["source"], change["count"], change["comparable"]) == ("earlier_jobs", 3, True)
    assert [change[name] for name in ("lowest", "change", "highest")] == pytest.approx([-0.02, -0.01, 0])


def test_jobs_of_other_sizes_are_told_as_they_were_measured(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    finished_job(world, 100)
    finished_job(world, 300, forget=500, accuracy_before=0.9, accuracy_after=0.8)
    told = of_model(preview(client, shop, {"index": 7}))
    assert told["estimate"] == {
        "seconds": {"median": 200, "lowest": 100, "highest": 300},
        "jobs": 2,
        "comparable": False,
    }
    assert (told["accuracy_change"]["count"], told["accuracy_change"]["comparable"]) == (1, False)


def test_jobs_that_did_not_succeed_or_do_not_unlearn_tell_nothing(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    for kind, status in ((JobKind.AUDIT, JobStatus.SUCCEEDED), (JobKind.UNLEARN, JobStatus.FAILED)):
        job = world.job("digits-cnn", kind, status)
        with world.database.write() as session:
            found = session.get_one(Job, job)
            found.started_at = found.finished_at = now()
    assert of_model(preview(client, shop, {"index": 7}))["estimate"] is None


def test_before_the_first_job_rehearsal_tells_what_accuracy_to_expect(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    train(world, {"rehearsal": [STRENGTH, STRENGTH | {"size": 100, "accuracy_change_mean": -0.5}]})
    told = of_model(preview(client, shop, {"index": 7}, {"index": 8}))
    change = told["accuracy_change"]
    assert (change["source"], change["change"], change["size"], change["count"]) == ("rehearsal", -0.01, 4, 8)
    assert told["rehearsed"] == {"passed": True, "size": 4, "reason": None}
    assert told["inconclusive"]["released"] is True


@pytest.mark.parametrize(
    ("policy", "released", "word"),
    [("release", False, "kept back"), ("wait_for_batch", False, "waits"), ("retrain", None, "retrained")],
)
def test_what_follows_where_too_few_samples_tell_is_the_models_policy(
    policy: str, released: bool | None, word: str, client: TestClient, world: Any, shop: Headers
) -> None:
    world.training_set("digits", "shop")
    world.model("digits-cnn", "digits", inconclusive=policy)
    train(world, {"rehearsal": [STRENGTH | {"membership": 0.9}]})
    told = of_model(preview(client, shop, {"index": 7}))
    assert told["rehearsed"]["reason"].startswith("the rehearsed R")
    assert (told["inconclusive"]["policy"], told["inconclusive"]["released"]) == (policy, released)
    assert word in told["inconclusive"]["meaning"]


def test_the_queue_tells_what_the_model_has_to_do_now(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    assert of_model(preview(client, shop, {"index": 7}))["queue"] == {
        "running": False,
        "queued": 0,
        "requests": 0,
        "starts_by": None,
    }
    world.job("digits-cnn", JobKind.UNLEARN, JobStatus.RUNNING)
    world.job("digits-cnn", JobKind.AUDIT, JobStatus.QUEUED)
    ask(client, shop, {"index": 8}, path="")
    assert of_model(preview(client, shop, {"index": 7}))["queue"] == {
        "running": True,
        "queued": 1,
        "requests": 1,
        "starts_by": None,
    }


def starts_by(client: TestClient, headers: Headers, *samples: dict[str, Any], **more: Any) -> datetime | None:
    told = of_model(preview(client, headers, *samples, **more))["queue"]["starts_by"]
    return None if told is None else datetime.fromisoformat(told)


def test_a_model_that_gathers_tells_when_it_starts_at_the_latest_with_this_request(
    client: TestClient, world: Any, shop: Headers, operator: Headers
) -> None:
    world.training_set("digits", "shop")
    world.model(
        "digits-cnn", "digits", batching={"mode": "gather", "requests": 2, "window_hours": 480, "margin_days": 2}
    )
    before = now()
    alone = starts_by(client, shop, {"index": 7})
    assert alone is not None
    assert before + timedelta(hours=480) <= alone <= now() + timedelta(hours=480)
    # LGPD: due on the fifteenth day, and two days before that is earlier than the window's end.
    due = datetime.fromisoformat(preview(client, shop, {"index": 7}, regulation="LGPD")["due_at"])
    assert starts_by(client, shop, {"index": 7}, regulation="LGPD") == due - timedelta(days=2)
    most = [{"index": index} for index in range(30)]
    assert starts_by(client, shop, *most) is None  # a person must approve it first
    assert starts_by(client, shop, {"index": 7}, {"index": 4096}) is None  # it would be refused
    ask(client, shop, {"index": 8}, path="")
    second = starts_by(client, shop, {"index": 7})
    assert second is not None
    assert second <= now()  # enough have come
    reason = {"reason": "out of service for a while"}
    withdrawn = client.post("/v1/models/digits-cnn/versions/1/quarantine", headers=operator, json=reason)
    assert withdrawn.status_code == 202
    assert starts_by(client, shop, {"index": 7}) is None


def test_a_request_is_due_from_when_the_person_asked(client: TestClient, digits: uuid.UUID, shop: Headers) -> None:
    asked_at = now() - timedelta(days=10)
    told = preview(client, shop, {"index": 1}, regulation="CCPA", submitted_at=asked_at.isoformat())
    assert datetime.fromisoformat(told["due_at"]).date() == (asked_at + timedelta(days=45)).date()


# Near-duplicates


def test_rows_that_look_nearly_alike_are_reported_and_not_added(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    near(world, digits, (7, 20, 0.3), (8, 20, 0.1), (7, 8, 0.05), (11, 41, 0.2), (30, 31, 0.01), (1, 7, 0.4))
    told = preview(client, shop, {"index": 7}, {"index": 8}, {"index": 41})
    assert told["near_duplicates"] == {
        "total": 3,
        "data": [
            {"index": 20, "of": 8, "distance": 0.1},
            {"index": 11, "of": 41, "distance": 0.2},
            {"index": 1, "of": 7, "distance": 0.4},
        ],
    }
    assert of_model(told)["samples"] == 2
    read = client.get(ask(client, shop, {"index": 7}, {"index": 8}, path="").headers["Location"], headers=shop)
    assert read.json()["near_duplicates"] == 2


def test_a_row_that_was_erased_since_is_no_near_duplicate(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers
) -> None:
    near(world, digits, (7, 20, 0.3))
    location = ask(client, shop, {"index": 7}, path="").headers["Location"]
    assert client.get(location, headers=shop).json()["near_duplicates"] == 1
    with world.database.write() as session:
        session.execute(
            update(Sample).where(Sample.training_set_id == digits, Sample.index == 20).values(erased_at=now())
        )
    assert client.get(location, headers=shop).json()["near_duplicates"] == 0
    assert preview(client, shop, {"index": 7})["near_duplicates"] == {"total": 0, "data": []}


def test_where_nobody_looked_for_near_duplicates_nothing_is_claimed(
    client: TestClient, digits: uuid.UUID, shop: Headers
) -> None:
    assert preview(client, shop, {"index": 7})["near_duplicates"] is None
    location = ask(client, shop, {"index": 7}, path="").headers["Location"]
    assert client.get(location, headers=shop).json()["near_duplicates"] is None


def test_the_list_of_near_duplicates_ends_and_their_number_does_not(
    client: TestClient, world: Any, digits: uuid.UUID, shop: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.preview.MOST_NEAR_DUPLICATES", 2)
    near(world, digits, *((7, other, other / 100) for other in range(10, 15)))
    told = preview(client, shop, {"index": 7})["near_duplicates"]
    assert (told["total"], [each["index"] for each in told["data"]]) == (5, [10, 11])
