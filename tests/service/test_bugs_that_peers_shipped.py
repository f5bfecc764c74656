"""Fifteen bugs that other erasure services and unlearning demos shipped, each as the test that would have found it.

Bug 7, constants in certificates, is in tests/worker/report/test_certificate.py.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import uuid
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select, update
from starlette.testclient import TestClient

from models import artifacts, lifecycle, verify
from models.base import now
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Job,
    JobKind,
    JobStatus,
    Sample,
    SigningKey,
    VersionStatus,
)
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.bundle import bundle
from service.duties import certifying, sealing, sweeping
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import forget, posted, rounds
from tests.settled import settle_all
from worker.claim import claim
from worker.jobs.failures import Failed
from worker.jobs.loading import Data, check_controls_untouched
from worker.signing import active_key, sign
from worker.unlearning import statistics, verdict

URL = "/v1/deletion-requests"
NAMES = ("train/00007", "user-42", hashlib.sha256(b"pixels 7").hexdigest(), hashlib.sha256(b"file 7").hexdigest())


def status(client: TestClient, shop: Headers, request: str) -> str:
    return str(client.get(f"{URL}/{request}", headers=shop).json()["status"])


def test_01_another_body_under_the_same_key_does_not_drop_the_second_persons_erasure_in_silence(
    client: TestClient, database: Database, shop: Headers, digits: uuid.UUID
) -> None:
    def post(key: str, index: int) -> Any:
        body = {"training_set": "digits", "samples": [{"index": index}]}
        return client.post(URL, json=body, headers=shop | {"Idempotency-Key": key})

    first = post("one", 7)
    refused = post("one", 8)
    assert (first.status_code, refused.status_code) == (202, 422)
    assert "use a new key" in refused.json()["detail"]
    assert post("two", 8).status_code == 202
    assert post("one", 7).json()["id"] == first.json()["id"]
    with database.read() as session:
        assert len(session.scalars(select(DeletionRequest)).all()) == 2


@pytest.mark.fault(1)
def test_02_an_accepted_request_is_a_durable_row_before_the_answer_leaves(
    client: TestClient, settings: Settings, shop: Headers, digits: uuid.UUID
) -> None:
    request = posted(client, shop, {"index": 7})
    another_process = Database(settings.database)
    with another_process.read() as session:
        assert session.get(DeletionRequest, uuid.UUID(request)) is not None
        assert session.scalars(select(Erasure.status)).all() == [ErasureStatus.OPEN]
    another_process.dispose()


@pytest.mark.fault(2)
def test_03_a_killed_workers_job_is_taken_up_again_and_published_once(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    posted(client, shop, {"index": 7})
    job = world.job("digits-cnn", JobKind.AUDIT, JobStatus.QUEUED)
    killed = claim(database, settings, job, "killed")
    assert killed is not None
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(lease_expires_at=now() - timedelta(seconds=1)))
    assert sweeping.expired_leases(database) == 1
    heir = claim(database, settings, job, "heir")
    assert heir is not None
    assert heir.token == killed.token + 1
    assert claim(database, settings, job, "third") is None
    with database.write() as session:  # the killed one was only asleep, and comes back
        assert not lifecycle.fail(session, killed.job, killed.token, actor="killed", code="internal", detail="late")
        assert session.get_one(Job, job).status is JobStatus.RUNNING


@pytest.mark.parametrize("kind", list(JobKind))
def test_04_the_watchdog_leaves_live_work_alone_and_sees_every_kind_of_it(
    kind: JobKind, database: Database, world: World, digits: uuid.UUID
) -> None:
    with database.write() as session:
        session.add(Job(kind=kind, seed=1, status=JobStatus.RUNNING, lease_expires_at=now() + timedelta(seconds=30)))
    assert sweeping.expired_leases(database) == 0
    with database.write() as session:
        session.execute(
            update(Job).where(Job.status == JobStatus.RUNNING).values(lease_expires_at=now() - timedelta(seconds=1))
        )
    assert sweeping.expired_leases(database) == 1


@pytest.mark.parametrize("refused", [ErasureStatus.FAILED, ErasureStatus.CANCELLED, ErasureStatus.AWAITING_RELEASE])
def test_05_no_success_is_reported_while_one_of_several_models_refuses(
    refused: ErasureStatus,
    client: TestClient,
    database: Database,
    settings: Settings,
    shop: Headers,
    world: World,
    digits: uuid.UUID,
) -> None:
    world.model("other-cnn", "digits")
    world.files(digits)
    request = posted(client, shop, {"index": 7})
    forget(world, request)
    with database.write() as session:
        session.execute(update(Erasure).where(Erasure.status == ErasureStatus.OPEN).values(status=refused))
        settle_all(session)
    rounds(database, settings)
    assert status(client, shop, request) in ("partially_completed", "awaiting_release")
    assert certifying.plan_documents(database, settings) == 0
    assert client.get(f"{URL}/{request}/certificate", headers=shop).status_code == 409
    assert world.zeroed("set/1/pixels.u8") == []


def test_06_a_control_that_was_trained_on_is_refused_also_as_a_copy() -> None:
    digests = np.arange(6 * 32, dtype=np.uint8).reshape(6, 32)
    digests[5] = digests[1]
    data = Data(inputs=None, labels=None, digests=digests)  # type: ignore[arg-type]
    check_controls_untouched(data, np.array([0, 1, 2]), np.array([3, 4]))
    with pytest.raises(Failed, match="exact copy of a training image"):
        check_controls_untouched(data, np.array([0, 1, 2]), np.array([3, 4, 5]))


@pytest.mark.fault(19)
@pytest.mark.parametrize("tolerance", [0.05, 0.10])
def test_08_an_auc_of_0_40_is_over_unlearned_and_no_success(tolerance: float) -> None:
    controls = (np.arange(100) + 0.5) / 100
    forgotten = controls - 0.1056  # P(forget > control) = (1 - 0.1056)^2 / 2
    auc = statistics.auc(forgotten, controls)
    assert auc.value == pytest.approx(0.40, abs=0.005)
    primary = verdict.Estimate("z", verdict.Role.PRIMARY, auc.value - 0.5, auc.standard_error, tolerance)
    assert verdict.judge([primary], level=0.05, step=1, references=16).value is verdict.Value.OVER_UNLEARNED


def test_09_no_identifier_of_a_person_is_in_a_url_a_log_line_or_an_event(
    client: TestClient,
    database: Database,
    settings: Settings,
    shop: Headers,
    world: World,
    digits: uuid.UUID,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world.files(digits)
    names = [{"key": NAMES[0]}, {"subject": NAMES[1]}, {"sha256": NAMES[2]}, {"file_sha256": NAMES[3]}]
    request = posted(client, shop, *names)
    client.post(URL, json={"training_set": "digits", "samples": [{"key": "nobody/1"}]}, headers=shop)
    forget(world, request)
    rounds(database, settings)
    written = "".join(capsys.readouterr())
    with database.read() as session:
        written += " ".join(f"{event.data} {event.record_id}" for event in session.scalars(select(Event)))
    assert not [name for name in (*NAMES, "nobody/1") if name in written]
    paths = create_app(settings, dispatch=False).openapi()["paths"]
    parameters = {
        parameter["name"]
        for path, operations in paths.items()
        if not path.startswith("/v1/uploads")  # the sha256 there is a checkpoint's
        for operation in operations.values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] in ("path", "query")
    }
    assert not parameters & {"key", "subject", "sha256", "file_sha256", "external_id", "index"}


def test_10_no_get_answers_without_a_key(client: TestClient, settings: Settings, digits: uuid.UUID) -> None:
    pending: list[Any] = list(create_app(settings, dispatch=False).routes)
    asked = 0
    while pending:
        route = pending.pop()
        if hasattr(route, "original_router"):
            pending.extend(route.original_router.routes)
        elif isinstance(route, APIRoute) and route.path.startswith("/v1") and "GET" in route.methods:
            path = re.sub(r"\{(\w+)\}", lambda found: "1" if found[1] == "number" else str(uuid.uuid4()), route.path)
            assert client.get(path).status_code == 401, path
            asked += 1
    assert asked >= 15


def test_11_the_bytes_of_a_destroyed_file_are_overwritten_also_for_who_holds_it_open(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"weights" * 300_000)
    with path.open("rb") as held:
        artifacts.destroy(path)
        assert not path.exists()
        assert set(held.read()) == {0}
    artifacts.destroy(path)  # once more after a crash: nothing is left to do


def test_12_a_sample_that_two_requests_name_drops_neither_of_them(
    client: TestClient, database: Database, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    first = posted(client, shop, {"index": 7})
    second = posted(client, shop, {"index": 7}, {"index": 8})
    version = world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1)
    world.finish(first, "digits-cnn", version)
    assert (status(client, shop, first), status(client, shop, second)) == ("completed", "queued")
    third = world.version("digits-cnn", 3, VersionStatus.RELEASED, parent=2)
    world.finish(second, "digits-cnn", third)
    assert status(client, shop, second) == "completed"


def test_13_no_way_leads_back_to_a_version_that_knows_an_erased_sample(
    client: TestClient,
    database: Database,
    settings: Settings,
    shop: Headers,
    operator: Headers,
    world: World,
    digits: uuid.UUID,
) -> None:
    world.files(digits)
    forget(world, posted(client, shop, {"index": 7}))
    reason = {"reason": "the new one is worse"}
    assert client.post("/v1/models/digits-cnn/versions/1/release", json=reason, headers=operator).status_code == 409
    assert client.post("/v1/models/digits-cnn/versions/2/quarantine", json=reason, headers=operator).status_code == 202
    assert client.post("/v1/models/digits-cnn/versions/1/release", json=reason, headers=operator).status_code == 409
    assert client.get("/v1/models/digits-cnn/checkpoint", headers=shop).status_code == 409
    rounds(database, settings)
    assert client.get("/v1/models/digits-cnn/versions/1/checkpoint", headers=operator).status_code == 410


# Runs verify.py as if from a command line, with nothing but the standard library and what is linked in one folder.
ALONE = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
sys.argv.pop(0)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules} & {"models", "service", "worker"}))
"""


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_14_the_verifier_alone_checks_a_bundle_where_nothing_of_our_system_is_installed(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    contents, jwks = evidence(database, settings)
    desk = tmp_path / "desk"  # of somebody who has the bundle, the public key, Python and cryptography
    (desk / "elsewhere").mkdir(parents=True)
    (desk / "packages").mkdir()
    for name in ("cryptography", "cffi", "_cffi_backend"):
        (desk / "packages" / installed(name).name).symlink_to(installed(name))
    (desk / "verify.py").write_bytes(Path(verify.__file__).read_bytes())
    (desk / "bundle.zip").write_bytes(bundle(contents))
    (desk / "forged.zip").write_bytes(bundle(contents | {"samples.csv": b"sample\r\n"}))
    (desk / "jwks.json").write_text(json.dumps(jwks))

    def check(name: str, *key: str) -> tuple[int, str]:
        packages, verifier, given = desk / "packages", desk / "verify.py", desk / name
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", ALONE, packages, verifier, given, *key],
            cwd=desk / "elsewhere",
            env={},
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "loaded:"
        return done.returncode, done.stdout

    trusted = ("--key", str(desk / "jwks.json"))
    status, said = check("bundle.zip", *trusted)
    assert (status, "VERIFIED" in said, "This does not prove" in said) == (verify.VERIFIED, True, True), said
    assert check("bundle.zip")[0] == verify.INTEGRITY_ONLY
    status, said = check("forged.zip", *trusted)
    assert (status, "WRONG        samples.csv" in said) == (verify.WRONG, True), said
    with zipfile.ZipFile(desk / "bundle.zip") as archive:
        assert archive.read("verify.py") == (desk / "verify.py").read_bytes()


def evidence(database: Database, settings: Settings) -> tuple[dict[str, bytes], Any]:
    """Files of a signed report, and the public key in the form in which it is published."""
    with database.write() as session:
        key = active_key(session, settings)
        public = bytes.fromhex(session.scalars(select(SigningKey.public_key)).one())
    about = {"kind": "audit_report", "edition": 1}
    identifier = str(uuid.uuid4())
    document = {"document": {"id": identifier, "key_id": key.key_id} | about}
    contents = {
        "report.json": verify.canonical(document),
        "report.pdf": b"%PDF-1.7 pages",
        "samples.csv": b"sample,z\r\n",
    }
    subjects = [(name, hashlib.sha256(content).hexdigest()) for name, content in contents.items()]
    signed = sign(key, subjects, verify.AUDIT_REPORT, {"document_id": identifier, "verdict": "over_unlearned"} | about)
    x = base64.urlsafe_b64encode(public).decode().rstrip("=")
    return contents | {verify.ENVELOPE: signed}, {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}


def installed(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin)
    return path.parent if path.name == "__init__.py" else path


def test_15_pseudonymising_the_rows_breaks_no_link_of_the_log(
    client: TestClient,
    database: Database,
    settings: Settings,
    shop: Headers,
    compliance: Headers,
    world: World,
    digits: uuid.UUID,
) -> None:
    world.files(digits)
    request = posted(client, shop, {"key": NAMES[0]})
    sealing.seal_events(database, everything=True)
    before = client.get("/v1/events/verify", headers=compliance).json()
    forget(world, request)
    rounds(database, settings)
    with database.read() as session:
        assert session.get_one(Sample, (digits, 7)).key is None
    sealing.seal_events(database, everything=True)
    after = client.get("/v1/events/verify", headers=compliance).json()
    assert before["intact"]
    assert after["intact"]
    assert after["sealed"] > before["sealed"] > 0
