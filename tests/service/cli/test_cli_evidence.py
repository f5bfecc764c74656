"""amun reports and events: what compliance staff read, keep and check"""

from __future__ import annotations

import hashlib
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from models.records import Event, record_event
from service.duties.sealing import seal_events
from tests import plain
from tests.service.cli.conftest import Amun, at
from tests.service.cli.contract import KEY, Contract, as_json, problem
from tests.service.conftest import Headers, World
from tests.worker.report.cases import CASES, audit_document, re_audit_document


@pytest.fixture
def report(world: World, digits: uuid.UUID) -> str:
    return str(world.report("digits-cnn", 1, "pass"))


@pytest.fixture
def trusted(url: str, report: str, tmp_path: Path) -> Path:
    """Public keys that were kept elsewhere."""
    keys = tmp_path / "trusted.json"
    keys.write_bytes(plain.get(f"{url}/.well-known/jwks.json").content)
    return keys


def fetched(amun: Amun, compliance: Headers, report: str, folder: Path) -> Path:
    done = amun(compliance, "reports", "download", report, "--out", folder)
    assert done.status == 0, done.err
    return Path(done.out.strip())


def changed(bundle: Path) -> Path:
    """The same bundle with another table."""
    other = bundle.with_name("changed.zip")
    with zipfile.ZipFile(bundle) as right, zipfile.ZipFile(other, "w") as wrong:
        for name in right.namelist():
            wrong.writestr(name, b"sample,z\r\n1,2\r\n" if name == "samples.csv" else right.read(name))
    return other


def test_reports_are_listed_and_filtered(amun: Amun, report: str, compliance: Headers) -> None:
    shown = amun(compliance, "reports", "list").out
    for part in (report, "digits-cnn", "pass", "audit report", "yes"):
        assert part in shown, part
    for options, found in (
        (("--verdict", "pass", "--model", "digits-cnn", "--from", "2026-01-01"), [report]),
        (("--verdict", "inconclusive"), []),
        (("--to", "2026-01-01"), []),
    ):
        assert [each["id"] for each in amun(compliance, "reports", "list", *options, "--json").json] == found


def test_a_report_is_shown_byte_for_byte(amun: Amun, url: str, report: str, compliance: Headers) -> None:
    document = plain.get(f"{url}/v1/reports/{report}", headers=compliance).content
    assert amun(compliance, "reports", "show", report, "--json").out.encode() == document + b"\n"


@pytest.mark.parametrize("case", CASES)
def test_a_report_is_shown_with_its_verdict_and_figures(case: str, contract: Contract) -> None:
    document = audit_document(case)
    contract.answer("GET", "/v1/reports/r", as_json(document))
    done = at(contract.url)(KEY, "reports", "show", "r")
    assert done.status == 0, done.err
    assert document["document"]["id"] in done.out
    assert f"The verdict is {document['finding']['verdict'].replace('_', '-')}" in done.out
    assert "R, remaining" in done.out


def test_a_re_audit_is_shown_with_its_verdict(contract: Contract) -> None:
    document = re_audit_document()
    contract.answer("GET", "/v1/reports/r", as_json(document))
    done = at(contract.url)(KEY, "reports", "show", "r")
    assert done.status == 0, done.err
    assert document["finding"]["verdict"] in done.out


@pytest.mark.parametrize(("form", "start"), [("bundle", b"PK"), ("pdf", b"%PDF"), ("json", b"{"), ("csv", b"sample,")])
def test_each_form_of_a_report_is_saved(
    form: str, start: bytes, amun: Amun, report: str, compliance: Headers, tmp_path: Path
) -> None:
    done = amun(compliance, "reports", "download", report, "--format", form, "--out", tmp_path / "new" / "folder")
    assert done.status == 0, done.err
    content = Path(done.out.strip()).read_bytes()
    assert content.startswith(start)
    sha256 = hashlib.sha256(content).hexdigest()
    assert f"sha256 {sha256}" in done.err
    again = amun(compliance, "reports", "download", report, "--format", form, "--out", tmp_path, "--json")
    assert again.json["sha256"] == sha256


def test_a_report_is_verified_by_its_id(
    amun: Amun, report: str, trusted: Path, compliance: Headers, tmp_path: Path
) -> None:
    done = amun(compliance, "reports", "verify", report, "--trusted-keys", trusted, "--out", tmp_path)
    assert done.status == 0
    assert done.out.splitlines()[-1].startswith("VERIFIED")
    assert (tmp_path / f"report-{report}.zip").exists()


def test_the_services_own_keys_show_integrity_only_and_that_is_said_loudly(
    amun: Amun, report: str, compliance: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = amun(compliance, "reports", "verify", report)
    assert done.status == 3
    assert done.out.splitlines()[-1].startswith("INTEGRITY ONLY: the keys came from the service")
    assert "VERIFIED" not in done.out
    assert "signature of the service's own key" in done.out
    assert list(tmp_path.glob("*.zip")) == []
    machine = amun(compliance, "reports", "verify", report, "--json")
    assert (machine.status, machine.json["verdict"], machine.json["wrong"]) == (3, "integrity_only", [])


def test_a_bundle_is_verified_without_any_service(
    amun: Amun, report: str, trusted: Path, compliance: Headers, tmp_path: Path
) -> None:
    bundle = fetched(amun, compliance, report, tmp_path)
    alone = at("http://127.0.0.1:9")
    assert alone(None, "reports", "verify", bundle, "--trusted-keys", trusted).status == 0
    assert alone(None, "reports", "verify", bundle).status == 3
    done = alone(None, "reports", "verify", changed(bundle), "--trusted-keys", trusted, "--json")
    assert (done.status, done.json["wrong"][0]["file"]) == (1, "samples.csv")
    (tmp_path / "no.zip").write_bytes(b"nothing")
    assert alone(None, "reports", "verify", tmp_path / "no.zip", "--trusted-keys", trusted).status == 2


def test_what_is_neither_a_file_nor_an_id_is_wrong_usage(amun: Amun, compliance: Headers) -> None:
    done = amun(compliance, "reports", "verify", "nothing.zip")
    assert done.status == 2
    assert "neither a file nor the id of a report" in " ".join(done.err.replace("│", " ").split())


def test_a_report_that_is_not_there_is_unreadable_and_a_service_that_is_not_there_unavailable(
    amun: Amun, compliance: Headers
) -> None:
    assert amun(compliance, "reports", "verify", uuid.uuid4()).status == 2
    assert at("http://127.0.0.1:9")(KEY, "reports", "verify", uuid.uuid4()).status == 4


@pytest.mark.parametrize("etag", [None, '"' + 64 * "0" + '"', '"short"'])
def test_a_download_that_is_not_what_was_announced_is_not_kept(
    etag: str | None, contract: Contract, tmp_path: Path
) -> None:
    answer = as_json({"what": "ever"})
    if etag is not None:
        answer.headers["ETag"] = etag
    contract.answer("GET", "/v1/reports/r", answer)
    done = at(contract.url)(KEY, "reports", "download", "r", "--format", "json", "--out", tmp_path)
    assert (done.status, done.out) == (1, "")
    assert "nothing was saved" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(contract: Contract, tmp_path: Path) -> None:
    answer = as_json({"what": "ever"}, broken=True)
    answer.headers["ETag"] = '"' + hashlib.sha256(answer.body).hexdigest() + '"'
    contract.answer("GET", "/v1/reports/r", answer)
    (tmp_path / "report-r.json").write_text("kept")
    done = at(contract.url)(KEY, "reports", "download", "r", "--format", "json", "--out", tmp_path)
    assert done.status == 4
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report-r.json", "kept")]


def test_a_refused_download_leaves_nothing(contract: Contract, tmp_path: Path) -> None:
    contract.answer("GET", "/v1/reports/r/bundle", problem(500, "A stored file is missing or was changed"))
    assert at(contract.url)(KEY, "reports", "download", "r", "--out", tmp_path).status == 4
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def log(world: World) -> None:
    with world.database.write() as session:
        for name in ("job.queued", "job.started"):
            record_event(session, name, "job", "0190", "test", step=1)
            session.flush()
    seal_events(world.database)


def test_events_are_listed(amun: Amun, log: Any, compliance: Headers) -> None:
    listed = amun(compliance, "events", "list", "--record", "job", "--record-id", "0190", "--json").json
    assert [(event["position"], event["name"]) for event in listed] == [(1, "job.queued"), (2, "job.started")]
    assert "job 0190" in amun(compliance, "events", "list").out
    assert amun(compliance, "events", "list", "--record", "model", "--json").json == []


def test_a_log_that_was_changed_fails_its_check(amun: Amun, world: World, log: Any, compliance: Headers) -> None:
    done = amun(compliance, "events", "verify")
    assert done.status == 0
    assert "intact" in done.out
    with world.database.write() as session:
        session.execute(text("DROP TRIGGER events_no_update"))
        session.execute(update(Event).where(Event.name == "job.started").values(actor="nobody"))
    done = amun(compliance, "events", "verify", "--json")
    assert (done.status, done.json["intact"], done.json["first_bad"]["position"]) == (1, False, 2)
