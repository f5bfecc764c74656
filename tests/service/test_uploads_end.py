"""The end of uploads: used, forgotten, deleted, or never finished."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models import artifacts
from models.base import now
from models.records import Event, Model, ModelStatus, Upload
from models.session import Database
from models.settings import Settings
from service import uploads
from service.dispatcher import Dispatcher
from service.duties import sweeping

Headers = dict[str, str]
SHA = "ab" * 32
CONTENT = b"weights that know people"


@pytest.fixture
def file(database: Database, settings: Settings) -> Path:
    """The file of an upload that has its row."""
    file = settings.data_dir / uploads.relative_path(SHA)
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    uploads.enter(database, SHA, len(CONTENT), key_id="0" * 12, actor="test")
    return file


def use(world: Any, *states: ModelStatus) -> None:
    """Models that were made of the upload."""
    for number, status in enumerate(states):
        world.model(f"uploaded-{number}", "digits", status)
        with world.database.write() as session:
            session.execute(update(Model).where(Model.name == f"uploaded-{number}").values(checkpoint=SHA))


def age(database: Database, hours: float) -> None:
    with database.write() as session:
        session.execute(update(Upload).values(created_at=now() - timedelta(hours=hours)))


def rows(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Upload.sha256)))


def destroyed(database: Database) -> list[Event]:
    with database.read() as session:
        return list(session.scalars(select(Event).where(Event.name == "upload.destroyed")))


@pytest.mark.parametrize(
    ("states", "hours", "goes"),
    [
        ([], 23.9, False),
        ([], 24.1, True),
        ([ModelStatus.TRAINING], 0, False),
        ([ModelStatus.TRAINING], 100, False),
        ([ModelStatus.READY], 0, True),
        ([ModelStatus.READY, ModelStatus.TRAINING], 100, False),
        ([ModelStatus.WITHDRAWN], 0, True),
        ([ModelStatus.RETIRED], 0, True),
        ([ModelStatus.FAILED], 0, False),
        ([ModelStatus.FAILED], 25, True),
        ([ModelStatus.FAILED, ModelStatus.READY], 0, True),
    ],
)
def test_an_upload_goes_once_a_model_was_made_of_it_or_unused(
    states: list[ModelStatus],
    hours: float,
    goes: bool,
    world: Any,
    digits: uuid.UUID,
    database: Database,
    settings: Settings,
    file: Path,
) -> None:
    age(database, hours)
    use(world, *states)
    assert uploads.destroy_uploads(database, settings) == goes
    assert (file.exists(), rows(database)) == ((False, []) if goes else (True, [SHA]))
    assert [(event.record_id, event.actor) for event in destroyed(database)] == [(SHA, "dispatcher")] * goes
    made = bool({ModelStatus.READY, ModelStatus.WITHDRAWN, ModelStatus.RETIRED} & set(states))
    assert {event.data["reason"] for event in destroyed(database)} <= {"a model was made of it" if made else "unused"}
    assert list(file.parent.iterdir()) == ([] if goes else [file])


def test_an_upload_that_came_again_waits_for_its_next_model(
    world: Any, digits: uuid.UUID, database: Database, settings: Settings, file: Path
) -> None:
    use(world, ModelStatus.READY)
    assert uploads.destroy_uploads(database, settings) == 1
    file.write_bytes(CONTENT)
    uploads.enter(database, SHA, len(CONTENT), key_id="0" * 12, actor="test")
    assert uploads.destroy_uploads(database, settings) == 0
    assert file.exists()
    world.model("second", "digits", ModelStatus.READY)
    with database.write() as session:
        session.execute(update(Model).where(Model.name == "second").values(checkpoint=SHA))
    assert uploads.destroy_uploads(database, settings) == 1


def test_what_is_destroyed_was_overwritten_first(database: Database, settings: Settings, file: Path) -> None:
    other_name = file.parent.parent / "the same blocks"
    os.link(file, other_name)
    age(database, 25)
    uploads.destroy_uploads(database, settings)
    assert other_name.read_bytes() == bytes(len(CONTENT))


def test_the_dispatcher_does_it(database: Database, settings: Settings, file: Path) -> None:
    age(database, 25)
    stray = file.with_name(f".{SHA}.0123456789abcdef")
    stray.write_bytes(CONTENT)
    os.utime(stray, (0, 0))
    Dispatcher(database, settings).round()
    assert list(file.parent.iterdir()) == []


def test_a_row_that_lost_its_file_goes_too(database: Database, settings: Settings, file: Path) -> None:
    file.unlink()
    age(database, 25)
    assert uploads.destroy_uploads(database, settings) == 1
    assert rows(database) == []


def test_what_a_crash_left_half_destroyed_is_overwritten_before_the_log_tells_of_it(
    database: Database, settings: Settings, file: Path
) -> None:
    condemned = file.with_name(f".{SHA}.condemned")
    other_name = file.parent.parent / "the same blocks"
    os.rename(file, condemned)
    os.link(condemned, other_name)
    age(database, 25)
    assert uploads.destroy_uploads(database, settings) == 1
    assert other_name.read_bytes() == bytes(len(CONTENT))
    assert list(file.parent.iterdir()) == []
    assert len(destroyed(database)) == 1


def test_an_upload_that_comes_again_while_it_is_destroyed_stays(
    database: Database, settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destroy = artifacts.destroy

    def slowly(path: Path) -> None:
        there = path.exists()
        destroy(path)
        if not there:
            return
        file.write_bytes(CONTENT)  # what a PUT does at this moment
        uploads.enter(database, SHA, len(CONTENT), key_id="0" * 12, actor="test")

    monkeypatch.setattr(artifacts, "destroy", slowly)
    age(database, 25)
    assert uploads.destroy_uploads(database, settings) == 0
    monkeypatch.undo()
    assert (file.read_bytes(), rows(database)) == (CONTENT, [SHA])
    assert uploads.destroy_uploads(database, settings) == 0


def test_an_operator_deletes_an_upload(
    client: TestClient, world: Any, digits: uuid.UUID, database: Database, operator: Headers, file: Path
) -> None:
    answer = client.delete(f"/v1/uploads/{SHA}", headers=operator)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not file.exists()
    (event,) = destroyed(database)
    assert event.actor.startswith("key:")
    assert event.data["reason"] == "deleted"
    assert client.delete(f"/v1/uploads/{SHA}", headers=operator).status_code == 404


def test_an_upload_that_a_model_is_being_made_of_is_not_deleted(
    client: TestClient, world: Any, digits: uuid.UUID, database: Database, operator: Headers, file: Path
) -> None:
    use(world, ModelStatus.TRAINING)
    answer = client.delete(f"/v1/uploads/{SHA}", headers=operator)
    assert answer.status_code == 409
    assert file.exists()
    uploads.enter(database, "0" * 64, 1, key_id="0" * 12, actor="test")
    assert client.delete(f"/v1/uploads/{'0' * 64}", headers=operator).status_code == 204
    assert rows(database) == [SHA]


def test_files_that_were_never_finished_go_after_an_hour(database: Database, settings: Settings, file: Path) -> None:
    draft, condemned, unnamed = (
        file.with_name(name) for name in (f".{SHA}.0123", f".{'0' * 64}.4567", f"{'1' * 64}.safetensors")
    )
    for stray in (draft, condemned, unnamed):
        stray.write_bytes(CONTENT)
    sweeping.orphaned_files(database, settings)
    assert uploads.remove_strays(database, settings) == 0
    for each in (draft, unnamed, file):
        os.utime(each, (time.time() - 3700,) * 2)
    assert uploads.remove_strays(database, settings) == 2
    assert sorted(file.parent.iterdir()) == sorted([condemned, file])
