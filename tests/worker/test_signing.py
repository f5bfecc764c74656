"""The key that signs evidence: made once, kept closed, never lost, replaced by rotation."""

from __future__ import annotations

import base64
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, update

from models import secrets
from models.base import now
from models.records import SigningKey
from models.secrets import UnusableSecret
from models.session import Database
from models.settings import Settings
from models.verify import AUDIT_REPORT, thumbprint
from worker.signing import Key, active_key, sign


def active(database: Database, settings: Settings) -> Key:
    with database.write() as session:
        return active_key(session, settings)


def published(database: Database) -> list[SigningKey]:
    with database.read() as session:
        return list(session.scalars(select(SigningKey).order_by(SigningKey.created_at)))


def private_file(settings: Settings) -> Path:
    (path,) = settings.secrets.glob("signing-*.pem")
    return path


def test_the_first_signature_makes_a_key_and_later_ones_use_it(database: Database, settings: Settings) -> None:
    key = active(database, settings)
    assert active(database, settings).key_id == key.key_id
    (row,) = published(database)
    assert row.key_id == key.key_id == thumbprint(bytes.fromhex(row.public_key))
    assert private_file(settings).name == f"signing-{key.key_id}.pem"
    assert stat.S_IMODE(private_file(settings).stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(key)
    assert "CryptoSigner" not in repr(key)


def test_workers_that_sign_first_at_once_share_one_key(database: Database, settings: Settings) -> None:
    together = threading.Barrier(6)

    def first(_: int) -> str:
        opened = Database(settings.database)  # each worker has an engine of its own
        try:
            together.wait(timeout=30)
            return active(opened, settings).key_id
        finally:
            opened.dispose()

    with ThreadPoolExecutor(6) as pool:
        made = set(pool.map(first, range(6)))
    assert made == {row.key_id for row in published(database)}
    assert len(made) == len(list(settings.secrets.glob("signing-*.pem"))) == 1


def test_a_transaction_that_is_rolled_back_publishes_no_key(database: Database, settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        active_key(session, settings)
        raise ZeroDivisionError
    assert published(database) == []
    key = active(database, settings)
    assert [row.key_id for row in published(database)] == [key.key_id]


def test_a_retired_key_signs_no_more_and_stays_published(database: Database, settings: Settings) -> None:
    first = active(database, settings)
    with database.write() as session:
        session.execute(update(SigningKey).values(retired_at=now()))
    second = active(database, settings)
    assert second.key_id != first.key_id
    assert [(row.key_id, row.retired_at is None) for row in published(database)] == [
        (first.key_id, False),
        (second.key_id, True),
    ]


def test_a_worker_without_the_private_file_makes_a_key_of_its_own(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    here = active(database, settings)
    elsewhere = settings.model_copy(update={"secrets_dir": tmp_path / "elsewhere"})
    there = active(database, elsewhere)
    assert there.key_id != here.key_id
    assert (active(database, settings).key_id, active(database, elsewhere).key_id) == (here.key_id, there.key_id)


def test_a_private_key_that_others_can_read_is_refused(database: Database, settings: Settings) -> None:
    active(database, settings)
    private_file(settings).chmod(0o640)
    with pytest.raises(UnusableSecret, match="chmod 600"):
        active(database, settings)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_private_key_that_was_damaged_is_refused(content: bytes, database: Database, settings: Settings) -> None:
    active(database, settings)
    private_file(settings).write_bytes(content)
    with pytest.raises(UnusableSecret, match="back-up"):
        active(database, settings)


def test_a_private_key_under_the_name_of_another_is_refused(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    active(database, settings)
    other = settings.model_copy(update={"secrets_dir": tmp_path / "elsewhere"})
    active(database, other)
    private_file(settings).write_bytes(private_file(other).read_bytes())
    with pytest.raises(UnusableSecret, match="another key"):
        active(database, settings)


def test_a_secret_that_is_already_there_is_never_replaced(tmp_path: Path) -> None:
    secrets.keep(tmp_path, "name", b"first")
    secrets.keep(tmp_path, "name", b"second")
    assert secrets.read(tmp_path, "name") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_an_envelope_holds_an_in_toto_statement_that_names_its_key(
    sqlite_settings: Settings,
) -> None:
    database = Database(sqlite_settings.database)
    key = active(database, sqlite_settings)
    database.dispose()
    subjects = [("report.json", "0" * 64), ("report.pdf", "1" * 64)]
    envelope = sign(key, subjects, AUDIT_REPORT, {"document_id": "some", "verdict": "pass"})
    assert envelope == sign(key, subjects, AUDIT_REPORT, {"verdict": "pass", "document_id": "some"})
    assert json.loads(base64.b64decode(json.loads(envelope)["payload"])) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "report.json", "digest": {"sha256": "0" * 64}},
            {"name": "report.pdf", "digest": {"sha256": "1" * 64}},
        ],
        "predicateType": AUDIT_REPORT,
        "predicate": {"document_id": "some", "verdict": "pass", "key_id": key.key_id},
    }
