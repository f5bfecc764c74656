"""A backup of a service in use, restored into an empty place: the log verifies, nothing accepted is lost, work goes on."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient
from typer.testing import CliRunner

from models.chain import verify_chain
from models.records import DeletionRequest, Erasure, ErasureStatus, Event, Job, RequestStatus, Role
from models.revisions import WrongSchema
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.backups import databases, keeping, making, restoring
from service.cli import app as amun
from service.dispatcher import Dispatcher
from service.duties import sealing
from service.security import revoke_key
from tests.service.conftest import Headers, World

URL = "/v1/deletion-requests"
CONTROL = 41


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """An empty place of the same kind."""
    url = settings.database_url
    if url is None:
        yield Settings(data_dir=tmp_path / "restored")
        return
    server = url.replace("+psycopg", "").rsplit("/", 1)[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE amun_restored")
        yield Settings(data_dir=tmp_path / "restored", database_url=url.rsplit("/", 1)[0] + "/amun_restored")
        connection.execute("DROP DATABASE amun_restored WITH (FORCE)")


def post(client: TestClient, key: Headers, index: int, **more: Any) -> uuid.UUID:
    body = {"training_set": "digits", "samples": [{"index": index}]} | more
    answer = client.post(URL, headers=key, json=body)
    assert answer.status_code == 202, answer.text
    return uuid.UUID(answer.json()["id"])


def seal(database: Database) -> None:
    while sealing.seal_events(database):
        pass


def test_a_restored_service_knows_what_was_accepted_and_goes_on(
    client: TestClient,
    database: Database,
    world: World,
    digits: uuid.UUID,
    settings: Settings,
    elsewhere: Settings,
    shop: Headers,
    tmp_path: Path,
) -> None:
    world.files(digits)
    leaver = world.key(Role.APPLICATION, "shop")
    before = post(client, shop, 1)
    seal(database)
    made = making.make(settings, tmp_path / "backup")
    assert making.check(made.folder)["head"]["position"] > 0

    # Life goes on: a training image and a control are asked for, the control goes, a key is revoked.
    after = post(client, shop, 7, external_id="crm-7")
    controls = post(client, shop, CONTROL)
    Dispatcher(database, settings).round()
    assert world.zeroed("set/1/pixels.u8") == [CONTROL]
    with database.write() as session:
        revoke_key(session, leaver["Authorization"].split("_")[1], actor="test")
    with database.read() as session:
        making.write_ledger(session, tmp_path / "ledger.jsonl")

    done = restoring.restore(elsewhere, made.folder, tmp_path / "ledger.jsonl")
    assert done.whole, done
    assert done.applied.requests == [after, controls]
    assert len(done.applied.keys) == 1
    restored = World(Database(elsewhere.database), elsewhere)
    assert restored.zeroed("set/1/pixels.u8") == []  # the backup brought the control back
    with TestClient(create_app(elsewhere, dispatch=False)) as again:
        assert again.get(URL, headers=leaver).status_code == 401
        assert {each["id"] for each in again.get(URL, headers=shop).json()["data"]} == {
            str(request) for request in (before, after, controls)
        }
        found = again.get(f"{URL}/{after}", headers=shop).json()
        assert (found["status"], found["external_id"]) == ("queued", "crm-7")
        Dispatcher(restored.database, elsewhere).round()
        assert restored.zeroed("set/1/pixels.u8") == [CONTROL]  # and it went once more
        assert again.get(f"{URL}/{controls}", headers=shop).json()["status"] == "completed"
        post(again, shop, 8)
    with restored.database.read() as session:
        job = session.scalars(select(Job.id).where(Job.status == "queued", Job.kind == "unlearn")).one()
        served = session.scalars(select(Erasure.request_id).where(Erasure.job_id == job))
        assert set(served) == {before, after}
        assert verify_chain(session).intact
        names = set(session.scalars(select(Event.name)))
        assert {"backup.begun", "backup.restored", "deletion_request.restored"} <= names
    restored.database.dispose()


def test_a_request_that_was_called_off_since_is_named_and_one_on_hold_is_held(
    client: TestClient,
    database: Database,
    digits: uuid.UUID,
    settings: Settings,
    elsewhere: Settings,
    shop: Headers,
    operator: Headers,
    tmp_path: Path,
) -> None:
    cancelled = post(client, shop, 1)
    made = making.make(settings, tmp_path / "backup")
    assert client.post(f"{URL}/{cancelled}/cancel", headers=shop, json={"reason": "x"}).status_code == 202
    held = post(client, shop, 7)
    assert client.post(f"{URL}/{held}/hold", headers=operator, json={"reason": "x"}).status_code == 202
    never = post(client, shop, 8)
    assert client.post(f"{URL}/{never}/cancel", headers=shop, json={"reason": "x"}).status_code == 202
    with database.read() as session:
        making.write_ledger(session, tmp_path / "ledger.jsonl")
    applied = restoring.restore(elsewhere, made.folder, tmp_path / "ledger.jsonl").applied
    assert (applied.called_off, applied.requests) == ([cancelled], [held])
    restored = Database(elsewhere.database)
    with restored.read() as session:
        assert session.get_one(DeletionRequest, held).status is RequestStatus.ON_HOLD
        assert session.scalars(select(Erasure.status).where(Erasure.request_id == held)).all() == [
            ErasureStatus.ON_HOLD
        ]
    restored.dispose()


@pytest.fixture
def copied(sqlite_settings: Settings, tmp_path: Path) -> Path:
    database = Database(sqlite_settings.database)
    world = World(database, sqlite_settings)
    world.training_set("digits", "shop")
    world.model("digits-cnn", "digits")
    database.dispose()
    return making.make(sqlite_settings, tmp_path / "backup").folder


class TestRefused:
    """Nothing is restored then."""

    @pytest.fixture
    def settings(self, sqlite_settings: Settings) -> Settings:
        return sqlite_settings

    def refused(self, elsewhere: Settings, folder: Path, error: type[Exception], why: str) -> None:
        with pytest.raises(error, match=why):
            restoring.restore(elsewhere, folder)
        assert not (elsewhere.data_dir / "amun.sqlite3").exists()

    def test_a_backup_that_was_changed_names_the_file(self, copied: Path, elsewhere: Settings) -> None:
        (checkpoint,) = copied.rglob("checkpoint.safetensors")
        checkpoint.write_bytes(b"other")
        self.refused(elsewhere, copied, making.NotABackup, "checkpoint.safetensors is not what was written")

    def test_a_backup_that_was_not_finished(self, copied: Path, elsewhere: Settings) -> None:
        (copied / "manifest.json").unlink()
        self.refused(elsewhere, copied, making.NotABackup, "not finished")

    def test_a_place_that_is_not_empty(self, copied: Path, elsewhere: Settings) -> None:
        (elsewhere.data_dir / "store" / "x").mkdir(parents=True)
        self.refused(elsewhere, copied, restoring.NotEmpty, "empty place")

    def test_another_kind_of_database(self, copied: Path, elsewhere: Settings) -> None:
        other = elsewhere.model_copy(update={"database_url": "postgresql+psycopg://nobody@127.0.0.1:9/x"})
        with pytest.raises(databases.CannotCopy, match="other kind"):
            restoring.restore(other, copied)

    def test_a_backup_of_a_newer_release(
        self, sqlite_settings: Settings, elsewhere: Settings, copied: Path, tmp_path: Path
    ) -> None:
        database = Database(sqlite_settings.database)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        database.dispose()
        newer = making.make(sqlite_settings, tmp_path / "newer").folder
        with pytest.raises(WrongSchema, match="newer release"):
            restoring.restore(elsewhere, newer)


def test_a_file_that_is_not_what_its_row_says_is_named(sqlite_settings: Settings, copied: Path, tmp_path: Path) -> None:
    database = Database(sqlite_settings.database)
    with database.read() as session:
        assert restoring.wrong_files(session, sqlite_settings) == []
        (checkpoint,) = sqlite_settings.data_dir.rglob("checkpoint.safetensors")
        checkpoint.write_bytes(b"flipped")
        (wrong,) = restoring.wrong_files(session, sqlite_settings)
    database.dispose()
    assert wrong.endswith("checkpoint.safetensors")


def test_nothing_is_overwritten_while_a_backup_copies(
    client: TestClient, database: Database, world: World, digits: uuid.UUID, settings: Settings, shop: Headers
) -> None:
    world.files(digits)
    post(client, shop, CONTROL)
    dispatcher = Dispatcher(database, settings)
    with keeping.copying(settings.data_dir, 1):
        dispatcher.round()
        assert world.zeroed("set/1/pixels.u8") == []
    dispatcher.round()
    assert world.zeroed("set/1/pixels.u8") == [CONTROL]
    assert dispatcher.failures == {}


def test_a_backup_waits_for_what_is_being_destroyed(tmp_path: Path) -> None:
    order: list[str] = []
    begun = threading.Event()

    def destroy() -> None:
        with keeping.destroying(tmp_path) as allowed:
            assert allowed
            begun.set()
            with pytest.raises(keeping.Busy), keeping.copying(tmp_path, 0.2):
                pass
            order.append("destroyed")

    thread = threading.Thread(target=destroy)
    thread.start()
    begun.wait(5)
    with keeping.copying(tmp_path, 10):
        order.append("copied")
    thread.join()
    assert order == ["destroyed", "copied"]


def test_the_commands_say_what_they_did_and_files_are_closed_to_others(
    sqlite_settings: Settings, copied: Path, tmp_path: Path
) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(amun, [str(each) for each in arguments], catch_exceptions=False)
        return done.exit_code, done.output

    folder, back = tmp_path / "by-command", tmp_path / "back"
    status, said = run("backup", folder, "--data", sqlite_settings.data_dir)
    assert (status, str(folder) in said) == (0, True)
    assert {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")]} == {0}
    assert run("backup", folder, "--data", sqlite_settings.data_dir)[0] == 2
    assert run("restore", folder, "--check", "--data", back) == (0, run("restore", folder, "--check")[1])
    assert not back.exists()
    status, said = run("restore", folder, "--data", back)
    assert (status, "WITHOUT A NEWER LEDGER" in said, "intact" in said) == (0, True, True)
    assert run("ledger", tmp_path / "ledger.jsonl", "--data", back)[0] == 0
    status, said = run("restore", folder, "--data", back)
    assert (status, "empty place" in said) == (1, True)
    secret = (sqlite_settings.secrets / "api-key-pepper").read_bytes()
    assert (back / "secrets" / "api-key-pepper").read_bytes() == secret


def test_the_ledger_of_the_backup_itself_changes_nothing(
    client: TestClient, digits: uuid.UUID, settings: Settings, elsewhere: Settings, shop: Headers, tmp_path: Path
) -> None:
    request = post(client, shop, 1)
    made = making.make(settings, tmp_path / "backup")
    done = restoring.restore(elsewhere, made.folder, made.folder / making.LEDGER)
    assert (done.applied.requests, done.applied.keys) == ([], [])
    assert json.loads((made.folder / making.LEDGER).read_text().splitlines()[-1])["request"] == str(request)
