"""The key that signs evidence, as the service publishes and retires it; evidence on the command line."""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from models.records import SigningKey
from models.session import Database
from models.settings import Settings
from models.verify import thumbprint
from service.cli import app
from worker import signing


def amun(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def sign_once(database: Database, settings: Settings) -> str:
    with database.write() as session:
        return signing.active_key(session, settings).key_id


def test_before_the_first_signature_no_key_is_published(client: TestClient) -> None:
    assert client.get("/.well-known/jwks.json").json() == {"keys": []}


def test_keys_are_published_as_rfc_8037_has_them(client: TestClient, world: Any) -> None:
    with world.database.write() as session:
        raw = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
        session.add(SigningKey(key_id=thumbprint(raw), public_key=raw.hex()))
    assert client.get("/.well-known/jwks.json").json()["keys"] == [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            "use": "sig",
            "alg": "EdDSA",
        }
    ]


@pytest.fixture
def folder(sqlite_settings: Settings) -> Path:
    return sqlite_settings.data_dir


def test_a_rotation_retires_the_key_and_the_worker_makes_the_next(sqlite_settings: Settings, folder: Path) -> None:
    database = Database(sqlite_settings.database)
    assert amun("keys", "rotate-signing", "--data", folder)[1].startswith("there is no signing key")
    first = sign_once(database, sqlite_settings)
    status, said = amun("keys", "rotate-signing", "--data", folder)
    assert (status, said.splitlines()[0].split()[:2]) == (0, [first, "retired:"])
    second = sign_once(database, sqlite_settings)
    assert second != first
    assert first not in amun("keys", "rotate-signing", "--data", folder)[1]
    with database.read() as session:
        assert session.get_one(SigningKey, first).retired_at < session.get_one(SigningKey, second).retired_at
    database.dispose()


def test_evidence_is_verified_on_the_command_line(
    client: TestClient, world: Any, digits: uuid.UUID, compliance: dict[str, str], tmp_path: Path
) -> None:
    report = world.report("digits-cnn", 1, "pass")
    bundle, keys = tmp_path / "bundle.zip", tmp_path / "jwks.json"
    bundle.write_bytes(client.get(f"/v1/reports/{report}/bundle", headers=compliance).content)
    keys.write_text(json.dumps(client.get("/.well-known/jwks.json").json()))
    assert amun("verify", bundle, "--key", keys)[0] == 0
    assert amun("verify", bundle)[0] == 3
    assert amun("verify", tmp_path / "nothing", "--key", keys)[0] == 2
    status, said = amun("verify", bundle, "--key", keys, "--checkpoint", keys)
    assert (status, "WRONG: jwks.json" in said) == (1, True)
