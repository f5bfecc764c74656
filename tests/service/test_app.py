"""The application as a process starts it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from models.records import Lease
from models.session import Database
from models.settings import Settings
from service.app import create_app


def test_the_dispatcher_runs_as_long_as_the_application(sqlite_settings: Settings) -> None:
    def dispatchers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "dispatcher"]

    with TestClient(create_app(sqlite_settings)) as client:
        assert client.get("/readyz").status_code == 200
        assert len(dispatchers()) == 1
    assert dispatchers() == []


def test_a_stopped_application_has_given_its_lease_back(sqlite_settings: Settings) -> None:
    with TestClient(create_app(sqlite_settings)) as client:
        client.app.state.dispatcher.round()  # type: ignore[attr-defined]
    database = Database(sqlite_settings.database)
    with database.read() as session:
        lease = session.scalars(select(Lease)).one()
        assert lease.expires_at <= lease.expires_at.now(lease.expires_at.tzinfo)
    database.dispose()


@pytest.mark.fault(7)
def test_without_a_dispatcher_celery_is_not_even_loaded() -> None:
    script = "import sys, service.app; print(sorted({'celery', 'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["AMUN_WEBHOOK_CA", "AMUN_IMPORT_ROOT", "AMUN_SECRETS_DIR"])
def test_a_path_that_is_set_to_nothing_is_not_the_working_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert getattr(Settings(), name.removeprefix("AMUN_").lower()) is None
