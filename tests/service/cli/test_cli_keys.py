"""amun keys and migrate: what works on the data folder of this machine"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.settings import Settings
from tests import plain
from tests.service.cli.conftest import at

amun = at("http://127.0.0.1:9")


def test_a_key_is_made_shown_once_listed_and_revoked(url: str, settings: Settings) -> None:
    data = ("--data", settings.data_dir)
    made = amun(None, "keys", "create", "--role", "operator", "--label", "night shift", "--days", 30, *data)
    key = made.out.strip()
    headers = {"Authorization": f"Bearer {key}"}
    assert plain.get(f"{url}/v1/jobs", headers=headers).status_code == 200
    listed = amun(None, "keys", "list", *data).out
    assert key.split("_")[1] in listed
    assert "night shift" in listed
    assert key.split("_", 2)[2] not in listed
    assert amun(None, "keys", "revoke", key.split("_")[1], *data).status == 0
    assert plain.get(f"{url}/v1/jobs", headers=headers).status_code == 401


@pytest.mark.parametrize("options", [("operator", "--application", "shop"), ("application",), ("king",)])
def test_a_key_of_no_such_form_is_wrong_usage(options: tuple[str, ...], settings: Settings) -> None:
    assert amun(None, "keys", "create", "--role", *options, "--data", settings.data_dir).status == 2


def test_a_key_that_is_not_there_can_not_be_revoked(settings: Settings) -> None:
    assert amun(None, "keys", "revoke", "0123456789ab", "--data", settings.data_dir).status == 2


def test_a_new_folder_gets_its_database(tmp_path: Path) -> None:
    assert amun(None, "migrate", "--data", tmp_path / "new").status == 0
    assert (tmp_path / "new" / "amun.sqlite3").exists()
    again = amun(None, "migrate", "--data", tmp_path / "new")
    assert (again.status, again.out) == (0, "")


def test_a_command_leaves_no_connection_open(tmp_path: Path) -> None:
    data = ("--data", tmp_path / "new")
    assert amun(None, "migrate", *data).status == 0
    assert amun(None, "keys", "create", "--role", "operator", *data).status == 0
    assert amun(None, "keys", "list", *data).status == 0
    opened = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert [each for each in opened if each.startswith(str(tmp_path))] == []
