"""What is erased once nothing lawful needs it any more: signals, pixels, names, checkpoints; and what is not."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from sqlalchemy import event, func, select, update
from starlette.testclient import TestClient

from models import artifacts
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Job,
    JobStatus,
    ModelVersion,
    Sample,
    Suppression,
    VersionStatus,
)
from models.session import Database
from models.settings import Settings
from service.duties import destroying, erasing
from tests.service.conftest import Headers, World
from tests.settled import settle_all


def posted(client: TestClient, shop: Headers, *samples: dict[str, Any], **more: Any) -> str:
    answer = client.post(
        "/v1/deletion-requests", json={"training_set": "digits", "samples": list(samples), **more}, headers=shop
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def request_of(database: Database, request: str) -> DeletionRequest:
    with database.read() as session:
        return session.get_one(DeletionRequest, uuid.UUID(request))


def events(database: Database, name: str) -> list[Event]:
    with database.read() as session:
        return list(session.scalars(select(Event).where(Event.name == name).order_by(Event.id)))


def forget(world: World, request: str, model: str = "digits-cnn") -> ModelVersion:
    """Version 2, made from version 1 and released, has forgotten the request's samples."""
    version = world.version(model, 2, VersionStatus.RELEASED, parent=1)
    world.finish(request, model, version)
    return version


def rounds(database: Database, settings: Settings) -> None:
    """What the dispatcher does in a round, in its order."""
    destroying.destroy_versions(database, settings)
    erasing.erase_signals(database, settings)
    erasing.erase_controls(database, settings)
    erasing.erase_samples(database, settings)


def test_once_forgotten_checkpoint_signals_pixels_and_names_are_gone(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"}, {"subject": "user-42"})
    forget(world, request)
    rounds(database, settings)
    assert not (settings.data_dir / "store/digits-cnn/1/checkpoint.safetensors").exists()
    assert (settings.data_dir / "store/digits-cnn/2/checkpoint.safetensors").exists()
    for path in ("digits-cnn/signals/phi.f32", "digits-cnn/signals/members.u8", "set/1/pixels.u8", "set/1/digests.bin"):
        assert world.zeroed(path) == [5, 6, 7, 45], path  # 45 is a control of the same person
    with database.read() as session:
        rows = session.scalars(select(Sample).where(Sample.index.in_([5, 6, 7, 45]))).all()
        version = session.scalars(select(ModelVersion).where(ModelVersion.number == 1)).one()
    assert {(row.key, row.sha256, row.file_sha256, row.subject) for row in rows} == {(None, None, None, None)}
    assert version.status is VersionStatus.DESTROYED
    assert version.destroyed_at is not None
    found = request_of(database, request)
    assert found.selectors is None
    assert found.resolution == {"outcomes": {"matched": 2}, "identified_by": {"key": 1, "subject": 1}}
    answer = client.get(f"/v1/deletion-requests/{request}", headers=shop).json()
    assert answer["status"] == "completed"
    assert answer["samples"] == []
    destroyed = events(database, "version.destroyed")[0]
    assert (destroyed.data["version"], destroyed.data["sha256"], destroyed.data["verified"]) == (
        1,
        version.sha256,
        True,
    )
    assert events(database, "signals.erased")[0].data["samples"] == 3
    assert events(database, "samples.erased")[0].data["samples"] == 3


def test_no_event_about_an_erasure_names_the_erased(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"}, {"subject": "user-42"})
    forget(world, request)
    rounds(database, settings)
    with database.read() as session:
        told = " ".join(str(event.data) + event.record_id for event in session.scalars(select(Event)))
    for name in ("train/00007", "user-42", hashlib.sha256(b"pixels 7").hexdigest()):
        assert name not in told


@pytest.mark.parametrize("duty", ["destroy", "erase_rows"])
def test_a_crash_in_the_middle_is_made_good_by_the_next_round(
    duty: str,
    client: TestClient,
    database: Database,
    settings: Settings,
    shop: Headers,
    world: World,
    digits: uuid.UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"})
    forget(world, request)
    real = getattr(artifacts, duty)

    def killed(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, duty, killed)
    with pytest.raises(KeyboardInterrupt):
        rounds(database, settings)
    monkeypatch.undo()
    assert request_of(database, request).samples_erased_at is None
    rounds(database, settings)
    rounds(database, settings)
    assert request_of(database, request).samples_erased_at is not None
    assert world.zeroed("set/1/pixels.u8") == [7]
    assert [len(events(database, name)) for name in ("version.destroyed", "signals.erased", "samples.erased")] == [
        1,
        1,
        1,
    ]


def test_pixels_stay_while_another_model_uses_them_and_the_request_says_why(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.model("other-cnn", "digits")
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"}, models=["digits-cnn"])
    forget(world, request)
    rounds(database, settings)
    assert world.zeroed("digits-cnn/signals/phi.f32") == [7]
    assert world.zeroed("other-cnn/signals/phi.f32") == []
    assert world.zeroed("set/1/pixels.u8") == []
    answer = client.get(f"/v1/deletion-requests/{request}", headers=shop).json()
    assert (answer["samples_kept"]["samples"], answer["samples_kept"]["models"]) == (1, ["other-cnn"])
    later = posted(client, shop, {"key": "train/00007"}, models=["other-cnn"])
    forget(world, later, "other-cnn")
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == [7]
    assert request_of(database, request).samples_erased_at is not None
    assert client.get(f"/v1/deletion-requests/{request}", headers=shop).json()["samples_kept"] is None


def test_pixels_stay_while_another_model_has_still_to_forget_them(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.model("other-cnn", "digits")
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"})
    forget(world, request)
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == []
    assert request_of(database, request).samples_kept is None
    forget(world, request, "other-cnn")
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == [7]


def test_nothing_is_destroyed_under_a_running_job(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"})
    forget(world, request)
    job = world.job("digits-cnn", status=JobStatus.RUNNING)
    rounds(database, settings)
    assert (settings.data_dir / "store/digits-cnn/1/checkpoint.safetensors").exists()
    assert world.zeroed("digits-cnn/signals/phi.f32") == []
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(status=JobStatus.SUCCEEDED))
    rounds(database, settings)
    assert not (settings.data_dir / "store/digits-cnn/1/checkpoint.safetensors").exists()
    assert world.zeroed("set/1/pixels.u8") == [7]


def test_a_quarantined_version_that_knows_an_erased_sample_is_destroyed_and_another_is_kept(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    first = posted(client, shop, {"key": "train/00007"})
    kept_back = world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.finish(first, "digits-cnn", kept_back, ErasureStatus.AWAITING_RELEASE)
    rounds(database, settings)
    assert (settings.data_dir / kept_back.path).exists()
    second = posted(client, shop, {"key": "train/00008"})
    released = world.version("digits-cnn", 3, VersionStatus.RELEASED, parent=1)
    world.finish(first, "digits-cnn", released)
    world.finish(second, "digits-cnn", released)
    rounds(database, settings)
    assert not (settings.data_dir / kept_back.path).exists()


def test_erased_content_is_known_by_keyed_hashes_only(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"})
    forget(world, request)
    rounds(database, settings)
    with database.read() as session:
        ledger = set(session.scalars(select(Suppression.digest)))
    assert len(ledger) == 6  # index, key, pixels and file in this set; pixels and file in any
    for named in (b"7", b"train/00007", b"pixels 7", b"file 7"):
        assert hashlib.sha256(named).hexdigest() not in ledger
    again = client.post(
        "/v1/deletion-requests",
        json={"training_set": "digits", "samples": [{"key": "train/00007"}]},
        headers=shop,
    )
    assert [answer["outcome"] for answer in again.json()["samples"]] == ["already_erased"]


def test_a_cancelled_erasure_erases_nothing(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": "train/00007"})
    with database.write() as session:
        session.execute(update(Erasure).values(status=ErasureStatus.CANCELLED))
        settle_all(session)
    rounds(database, settings)
    assert world.zeroed("set/1/pixels.u8") == []
    assert request_of(database, request).samples_erased_at is None


def test_a_control_sample_is_overwritten_everywhere_and_stays_known_as_erased(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    request = posted(client, shop, {"index": 41})
    assert client.get(f"/v1/deletion-requests/{request}", headers=shop).json()["status"] == "queued"
    assert erasing.erase_controls(database, settings) == 1
    for path in ("set/1/pixels.u8", "set/1/digests.bin", "digits-cnn/signals/phi.f32", "digits-cnn/signals/members.u8"):
        assert world.zeroed(path) == [41], path
    assert client.get(f"/v1/deletion-requests/{request}", headers=shop).json()["status"] == "completed"
    with database.read() as session:
        sample = session.get_one(Sample, (digits, 41))
    assert (sample.key, sample.sha256, sample.file_sha256) == (None, None, None)
    assert sample.erased_at is not None
    again = client.post(
        "/v1/deletion-requests",
        json={
            "training_set": "digits",
            "samples": [{"key": "train/00041"}, {"sha256": hashlib.sha256(b"pixels 41").hexdigest()}],
        },
        headers=shop,
    )
    assert [answer["outcome"] for answer in again.json()["samples"]] == ["already_erased", "duplicate"]


def test_controls_wait_for_running_jobs_whose_plan_may_name_them(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.files(digits)
    job = world.job("digits-cnn", status=JobStatus.RUNNING)
    posted(client, shop, {"index": 41})
    assert erasing.erase_controls(database, settings) == 0
    assert b"\x00" not in (settings.data_dir / "store/set/1/pixels.u8").read_bytes()
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(status=JobStatus.SUCCEEDED))
    assert erasing.erase_controls(database, settings) == 1


def test_ten_thousand_samples_do_not_hold_the_database(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    """A statement for each name of each sample would keep every writer of SQLite out for a minute."""
    world.files(digits)
    forget(world, posted(client, shop, *({"index": index} for index in range(8))))
    sent: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    destroying.destroy_versions(database, settings)
    event.listen(database.engine, "before_cursor_execute", note)
    erasing.erase_samples(database, settings)
    event.remove(database.engine, "before_cursor_execute", note)
    assert world.zeroed("set/1/pixels.u8") == list(range(8))
    assert len([statement for statement in sent if "suppressions" in statement]) == 1
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Suppression)) == 8 * 6 + 2  # two of them show user-42


def test_many_requests_whose_samples_are_kept_cost_a_round_no_more_than_one(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.model("other-cnn", "digits")
    world.files(digits)
    sent: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    def looked(*requests: str) -> int:
        for request in requests:
            world.finish(request, "digits-cnn", version)
        rounds(database, settings)
        assert {request_of(database, request).samples_kept is not None for request in requests} == {True}
        sent.clear()
        erasing.erase_samples(database, settings)
        return len(sent)

    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    event.listen(database.engine, "before_cursor_execute", note)
    one = looked(posted(client, shop, {"index": 7}, models=["digits-cnn"]))
    many = looked(*(posted(client, shop, {"index": index}, models=["digits-cnn"]) for index in range(10, 20)))
    event.remove(database.engine, "before_cursor_execute", note)
    assert many == one
