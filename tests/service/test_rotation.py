"""API keys on the command line and in the log: made, followed by another, revoked."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from models.base import now
from models.records import ApiKey, Event, Role
from models.session import Database
from models.settings import Settings, get_settings
from service import security
from service.cli import app
from service.embedded import environment
from tests import plain
from tests.service.sent import Headers
from tests.service.serving import serving

DAY = timedelta(hours=24)


def key_id(headers: Headers) -> str:
    return headers["Authorization"].split("_")[1]


def rotate(world: Any, headers: Headers, overlap: timedelta = DAY) -> Headers:
    with world.database.write() as session:
        secret, _ = security.rotate_key(session, world.pepper, key_id(headers), overlap, actor="cli")
    return {"Authorization": f"Bearer {secret}"}


def row(database: Database, headers: Headers) -> ApiKey:
    with database.read() as session:
        return session.get_one(ApiKey, key_id(headers))


def told(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        events = session.scalars(select(Event).where(Event.record == "api_key").order_by(Event.id)).all()
    assert {event.actor for event in events} <= {"cli"}
    return [(event.name, event.record_id) for event in events]


def test_a_new_key_takes_the_place_of_an_old_one_which_lives_on_for_the_overlap(
    client: TestClient, world: Any, database: Database, digits: object
) -> None:
    old = world.key(Role.APPLICATION, "shop", label="web shop")
    new = rotate(world, old)
    for key in (old, new):
        assert client.get("/v1/deletion-requests", headers=key).status_code == 200
    was, made = row(database, old), row(database, new)
    assert (made.role, made.application_id, made.label) == (was.role, was.application_id, "web shop")
    assert made.expires_at is None
    assert was.expires_at is not None
    assert abs(was.expires_at - now() - DAY) < timedelta(minutes=1)
    assert told(database) == [("key.rotated", key_id(old)), ("key.created", key_id(new))]


def test_without_an_overlap_the_old_key_ends_at_once(client: TestClient, world: Any, operator: Headers) -> None:
    new = rotate(world, operator, timedelta(0))
    assert client.get("/v1/jobs", headers=operator).status_code == 401
    assert client.get("/v1/jobs", headers=new).status_code == 200


def test_a_rotation_never_lengthens_a_key_and_its_successor_lives_as_long(world: Any, database: Database) -> None:
    old = world.key(Role.OPERATOR, expires_at=now() + timedelta(hours=2))
    new = rotate(world, old)
    was, made = row(database, old), row(database, new)
    assert was.expires_at is not None
    assert made.expires_at is not None
    assert was.expires_at - now() < timedelta(hours=2)
    assert abs((made.expires_at - made.created_at) - timedelta(hours=2)) < timedelta(seconds=5)


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_key_that_has_ended_has_no_successor(how: str, world: Any, database: Database) -> None:
    key = world.key(Role.OPERATOR, expires_at=now() - DAY if how == "expired" else None)
    if how == "revoked":
        with database.write() as session:
            security.revoke_key(session, key_id(key), actor="cli")
    with pytest.raises(security.KeyEnded):
        rotate(world, key)
    with pytest.raises(security.NoSuchKey):
        rotate(world, {"Authorization": "Bearer unl_ffffffffffff_"})


def test_a_key_is_revoked_once(database: Database, operator: Headers) -> None:
    with database.write() as session:
        first, new = security.revoke_key(session, key_id(operator), actor="cli")
    with database.write() as session:
        again, new_again = security.revoke_key(session, key_id(operator), actor="cli")
    assert (new, new_again) == (True, False)
    assert again.revoked_at == first.revoked_at
    assert told(database) == [("key.revoked", key_id(operator))]
    with pytest.raises(security.NoSuchKey), database.write() as session:
        security.revoke_key(session, "nothing", actor="cli")


def test_the_log_holds_no_secret_and_no_label(world: Any, database: Database) -> None:
    old = world.key(Role.APPLICATION, "shop", label="for alice")
    new = rotate(world, old)
    with database.read() as session:
        data = [event.data for event in session.scalars(select(Event))]
    assert [set(each) & {"role", "application", "expires_at"} for each in data]
    text = repr(data)
    assert "alice" not in text
    for key in (old, new):
        assert key["Authorization"].split("_", 2)[2] not in text


def amun(settings: Settings, *arguments: str) -> Result:
    environ = {name: value for name, value in environment(settings).items() if name.startswith("AMUN_")}
    get_settings.cache_clear()
    try:
        return CliRunner(env=environ).invoke(app, ["keys", *arguments])
    finally:
        get_settings.cache_clear()


def in_another_process(settings: Settings, *arguments: str) -> str:
    command = [sys.executable, "-c", "from service.cli import app; app()", "keys", *arguments]
    done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_commands_make_follow_and_revoke_a_key_of_a_running_server(sqlite_settings: Settings) -> None:
    settings, database = sqlite_settings, Database(sqlite_settings.database)
    with serving(settings) as (_, url):

        def status(secret: str) -> int:
            return plain.get(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {secret}"}).status_code

        first = amun(settings, "create", "--role", "operator", "--label", "night shift").stdout.strip()
        assert status(first) == 200
        done = amun(settings, "rotate", first.split("_")[1], "--overlap-hours", "0.5")
        second = done.stdout.strip()
        assert (status(first), status(second)) == (200, 200)
        assert "expires" in done.stderr
        listed = amun(settings, "list").stdout.splitlines()
        assert ["never" in line for line in listed] == [False, True]
        assert all("night shift" in line and "live" in line for line in listed)
        revoked = in_another_process(settings, "revoke", second.split("_")[1])
        ended = time.monotonic()
        assert status(second) == 401
        assert time.monotonic() - ended < 1
        assert "operator, night shift" in revoked
        assert "refused from now on" in revoked
        assert "already" in amun(settings, "revoke", second.split("_")[1]).stdout
        assert amun(settings, "rotate", second.split("_")[1]).exit_code != 0
        assert amun(settings, "revoke", "nothing").exit_code != 0
    assert [name for name, _ in told(database)] == ["key.created", "key.rotated", "key.created", "key.revoked"]
    database.dispose()
