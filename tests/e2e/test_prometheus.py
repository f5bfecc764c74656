"""A real Prometheus, with the files of docs/operating: with a key it reads a real API process, and raises the alerts."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from models.base import now
from models.records import DeletionRequest, Erasure, RequestStatus, Role
from models.session import Database
from models.settings import Settings
from service import security
from service.embedded import api_command, environment
from service.plain import NO_AUTHORITY
from tests import plain
from tests.conftest import Server, find_program, free_port, missing, unprivileged
from tests.operations import ROOT
from tests.service.conftest import World
from tests.service.serving import eventually
from tests.service.test_following import answers

FOLDER = ROOT / "docs" / "operating"
PATIENCE_SECONDS = 60.0
HOST = "127.0.0.2"  # to its own 127.0.0.1 the API tells its metrics without a key
OF_THE_DISK = {"AmunDiskFilling", "AmunDiskAlmostFull"}  # as full as the machine's is


@pytest.fixture
def api(sqlite_settings: Settings, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An API process with its dispatcher: its host and port, and the process."""
    port = free_port()
    address, log = f"{HOST}:{port}", tmp_path / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            api_command(HOST, port), env=environment(sqlite_settings), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        assert eventually(lambda: answers(f"http://{address}"), PATIENCE_SECONDS), log.read_text()[-2000:]
        yield address, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def prometheus(
    api: tuple[str, subprocess.Popen[bytes]], sqlite_settings: Settings, server_folder: Callable[[str], Path]
) -> Iterator[Callable[[str], Any]]:
    """Asks the API of a Prometheus that looks every two seconds and raises alerts without waiting."""
    program = find_program("prometheus")
    if program is None:
        missing("prometheus")
    folder = server_folder("prometheus")
    database = Database(sqlite_settings.database)
    key = World(database, sqlite_settings).key(Role.OPERATOR)["Authorization"].removeprefix("Bearer ")
    database.dispose()
    write_configuration(folder, api[0], key)
    port = free_port()
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    server = Server([str(program), *options], folder, signal.SIGTERM)

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30, verify=NO_AUTHORITY) as client:

        def ask(path: str) -> Any:
            return client.get(f"/api/v1/{path}").raise_for_status().json()["data"]

        def ready() -> bool:
            try:
                return client.get("/-/ready").status_code == 200
            except httpx.TransportError:
                return False

        try:
            server.wait(ready)
            yield ask
        finally:
            server.stop()


def write_configuration(folder: Path, address: str, key: str) -> None:
    """The files of docs/operating with this key and address, and without their patience."""
    found = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    found["global"] = {"evaluation_interval": "1s", "scrape_timeout": "2s"}
    (scrape,) = found["scrape_configs"]
    scrape["scrape_interval"] = "2s"
    scrape["authorization"]["credentials_file"] = "key"
    scrape["static_configs"] = [{"targets": [address]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(found))
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
    (folder / "key").write_text(key)
    (folder / "key").chmod(0o600)
    if (user := unprivileged()) is not None:
        for path in folder.iterdir():
            shutil.chown(path, user.pw_uid, user.pw_gid)


def store_overdue(settings: Settings) -> None:
    """A request that waits for approval, past its due date."""
    database = Database(settings.database)
    world = World(database, settings)
    training_set = world.training_set("digits", "shop")
    model = world.model("digits-cnn", "digits")
    with database.write() as session:
        request = DeletionRequest(
            application_id=security.application_named(session, "shop").id,
            training_set_id=training_set,
            status=RequestStatus.AWAITING_APPROVAL,
            submitted_by="key",
            regulation="GDPR",
            received_at=now() - timedelta(days=40),
            due_at=now() - timedelta(days=10),
            fingerprint=b"",
            approval_required=True,
            has_controls=False,
        )
        session.add(request)
        session.flush()
        session.add(Erasure(request_id=request.id, model_id=model))
    database.dispose()


def test_a_request_past_its_due_date_and_a_killed_process_raise_their_alerts_and_nothing_else_does(
    api: tuple[str, subprocess.Popen[bytes]], prometheus: Callable[[str], Any], sqlite_settings: Settings
) -> None:
    def firing() -> set[str]:
        names = {alert["labels"]["alertname"] for alert in prometheus("alerts")["alerts"] if alert["state"] == "firing"}
        return names - OF_THE_DISK

    def scraped() -> bool:
        return [(target["health"], target["lastError"]) for target in prometheus("targets")["activeTargets"]] == [
            ("up", "")
        ]

    def evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in prometheus("rules")["groups"][0]["rules"])

    assert plain.get(f"http://{api[0]}/metrics").status_code == 401
    assert eventually(scraped, PATIENCE_SECONDS), prometheus("targets")
    assert eventually(evaluated, PATIENCE_SECONDS), prometheus("rules")
    assert eventually(lambda: firing() == set(), PATIENCE_SECONDS), firing()
    store_overdue(sqlite_settings)
    overdue = {"AmunOverdue", "AmunDueSoonWithoutJob"}  # the second after an hour: nothing waits here
    assert eventually(lambda: firing() == overdue, PATIENCE_SECONDS), firing()
    api[1].kill()
    assert eventually(lambda: firing() == {"AmunDown"}, PATIENCE_SECONDS), firing()
