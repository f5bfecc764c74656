"""Signed documents out of the rows of a real database, around results that were recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from models import artifacts, verify
from models.base import now
from models.chain import head_of_log
from models.evidence import sample_reference
from models.parameters import DEMO
from models.records import (
    AuditReport,
    Certificate,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    NearDuplicate,
    Role,
    Sample,
    SigningKey,
    Split,
    TrainingSet,
    TrainingSetApplication,
    TrainingSetStatus,
    VersionStatus,
)
from models.secrets import SAMPLE_REFERENCES, load_or_create
from models.session import Database
from models.settings import Settings
from service.app import create_app
from service.bundle import bundle
from service.duties import certifying, destroying, erasing, planning, sealing
from service.security import application_named
from tests.printed import pages
from tests.service.conftest import Headers, World, digest
from tests.settled import settle_all
from tests.worker.report import cases
from worker import finish, gate, report
from worker.claim import Claim, claim
from worker.plan import PLAN_FILE, OutputFile, Result, dump
from worker.plans import make_plan
from worker.report import wording
from worker.reporting import Written, write_certificate, write_edition, write_report
from worker.reporting.audits import DocumentDamaged

Json = dict[str, Any]

ROWS, SHAPE, REFERENCES = 1797, (1, 8, 8), 16
NEW = b"the new checkpoint"
MODEL = "digits-cnn"
BATCHES = (100, 72, 3)  # of the recorded job with three requests
WHY = "Reviewed with the data protection officer."


class Office:
    """The demo's training set and model as rows and files, and what dispatcher and worker do with a request."""

    def __init__(self, database: Database, settings: Settings, client: TestClient, folder: Path) -> None:
        self.database, self.settings, self.client, self.folder = database, settings, client, folder
        world = World(database, settings)
        self.shop, self.operator = world.key(Role.APPLICATION, "shop"), world.key(Role.OPERATOR)
        outcome = cases.recorded("pass").outcome
        assert outcome is not None
        self.forgotten = sorted(sample["index"] for sample in outcome["after"]["audit"]["samples"])
        files = self._files("store/set", {"pixels.u8": 64, "labels.i32": 4, "digests.bin": 32})
        with database.write() as session:
            made = TrainingSet(
                name="digits",
                status=TrainingSetStatus.READY,
                source={"kind": "builtin", "path": "digits"},
                controls={"share": 0.5},
                shape=list(SHAPE),
                classes=[str(label) for label in range(10)],
                rows=ROWS,
                manifest_sha256=digest("manifest"),
                folder=files,
                suppressed=0,
            )
            session.add(made)
            session.flush()
            granted = application_named(session, "shop")
            session.add(TrainingSetApplication(training_set_id=made.id, application_id=granted.id))
            session.execute(
                insert(Sample),
                [
                    {
                        "training_set_id": made.id,
                        "index": index,
                        "key": f"digits/{index}",
                        "sha256": digest(f"pixels {index}"),
                        "label": index // 2 % 10,
                        "split": Split.TRAIN if index in self.forgotten or index % 2 else Split.CONTROL,
                    }
                    for index in range(ROWS)
                ],
            )
        self.training_set = made.id
        self.model(MODEL)

    def _files(self, folder: str, row_sizes: dict[str, int]) -> str:
        (self.settings.data_dir / folder).mkdir(parents=True)
        for name, size in row_sizes.items():
            (self.settings.data_dir / folder / name).write_bytes(b"\x07" * ROWS * size)
        return folder

    def model(self, name: str, never_trained: tuple[int, ...] = ()) -> None:
        """A trained model, version 1 of which is served."""
        folder = self._files(f"store/{name}", {"phi.f32": 4 * REFERENCES, "members.u8": REFERENCES})
        content = f"checkpoint of {name}".encode()
        (self.settings.data_dir / folder / "checkpoint.safetensors").write_bytes(content)
        rehearsal = json.loads((cases.DATA / "rehearsed.json").read_text())
        with self.database.write() as session:
            made = Model(
                name=name,
                status=ModelStatus.READY,
                training_set_id=self.training_set,
                network=DEMO.network.model_dump(mode="json"),
                recipe=DEMO.recipe.model_dump(mode="json"),
                policy=DEMO.policy.model_dump(mode="json") | {"approval_share": 1.0},
                training={"references": REFERENCES, "rehearsal": rehearsal, "never_trained": list(never_trained)},
                folder=folder,
                released_number=1,
            )
            session.add(made)
            session.flush()
            trained = {"model_id": made.id, "training_set_id": self.training_set, "seed": 1}
            job = Job(kind=JobKind.TRAIN, status="succeeded", **trained)
            session.add(job)
            session.flush()
            session.add(
                ModelVersion(
                    model_id=made.id,
                    number=1,
                    job_id=job.id,
                    status=VersionStatus.RELEASED,
                    path=f"{folder}/checkpoint.safetensors",
                    sha256=hashlib.sha256(content).hexdigest(),
                    size=len(content),
                    released_at=now(),
                )
            )

    def ask(self, indices: list[int], **more: Any) -> str:
        body = {"training_set": "digits", "samples": [{"index": index} for index in indices], **more}
        answer = self.client.post("/v1/deletion-requests", json=body, headers=self.shop)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def ask_three(self) -> list[str]:
        starts = (0, BATCHES[0], BATCHES[0] + BATCHES[1])
        return [self.ask(self.forgotten[start : start + size]) for start, size in zip(starts, BATCHES, strict=True)]

    def take(self, kind: JobKind, about: uuid.UUID | None = None) -> tuple[Claim, Path]:
        """Claim the only queued job of a kind, and make the folder in which it works, with its plan."""
        with self.database.read() as session:
            queued = select(Job.id).where(Job.kind == kind, Job.status == JobStatus.QUEUED)
            job = session.scalars(queued.where(Job.about_id == about) if about else queued).one()
        taken = claim(self.database, self.settings, job, "gpu-1")
        assert taken is not None
        folder = artifacts.staging(self.settings.data_dir, job, taken.token)
        folder.mkdir(parents=True)
        if kind is not JobKind.CERTIFY:
            with self.database.read() as session:
                plan = make_plan(session, self.settings, taken.job, folder)
            (folder / PLAN_FILE).write_text(dump(plan))
        return taken, folder

    def unlearn(self, case: str) -> tuple[Claim, Path, Result]:
        """An unlearn job up to the recorded end of its pipeline."""
        assert planning.plan(self.database, self.settings) == 1
        sealing.seal_events(self.database, everything=True)
        taken, folder = self.take(JobKind.UNLEARN)
        (folder / "checkpoint.safetensors").write_bytes(NEW)
        made = OutputFile("checkpoint.safetensors", hashlib.sha256(NEW).hexdigest(), len(NEW))
        return taken, folder, dataclasses.replace(cases.recorded(case), files=[made])

    def finished(self, case: str) -> AuditReport:
        """The same with what its end commits; returns the row of the report."""
        finish.finish(self.database, self.settings, *self.unlearn(case))
        with self.database.read() as session:
            return session.scalars(select(AuditReport).order_by(AuditReport.edition.desc()).limit(1)).one()

    def release(self, number: int) -> None:
        url = f"/v1/models/{MODEL}/versions/{number}/release"
        answer = self.client.post(url, json={"reason": WHY}, headers=self.operator)
        assert answer.status_code == 202, answer.text

    def supersede(self, number: int) -> None:
        """A next version is served, made for others and found within tolerance."""
        with self.database.write() as session:
            parent = session.scalars(select(ModelVersion).where(ModelVersion.number == number)).one()
            parent.status = VersionStatus.SUPERSEDED
            job = Job(kind=JobKind.UNLEARN, status="succeeded", model_id=parent.model_id, seed=1)
            session.add(job)
            session.flush()
            session.add(
                ModelVersion(
                    model_id=parent.model_id,
                    number=number + 1,
                    parent_id=parent.id,
                    job_id=job.id,
                    status=VersionStatus.RELEASED,
                    path="store/next.safetensors",
                    sha256="3" * 64,
                    size=10,
                    verdict="pass",
                )
            )

    def rounds(self) -> None:
        """What the dispatcher does once a version is released, up to the jobs that write documents."""
        destroying.destroy_versions(self.database, self.settings)
        erasing.erase_signals(self.database, self.settings)
        erasing.erase_samples(self.database, self.settings)
        sealing.seal_events(self.database, everything=True)
        certifying.plan_documents(self.database, self.settings)

    def certify(self, request: str) -> tuple[Written, Json, Path]:
        taken, folder = self.take(JobKind.CERTIFY, uuid.UUID(request))
        written = write_certificate(self.database, self.settings, taken, folder)
        return written, json.loads((folder / "certificate.json").read_bytes()), folder

    def again(self, request: str) -> None:
        """Queue what a later fact about a certified request asks for."""
        with self.database.write() as session:
            about = {"about": "deletion_request", "about_id": uuid.UUID(request)}
            session.execute(update(Job).where(Job.kind == JobKind.CERTIFY).values(status=JobStatus.SUCCEEDED))
            session.add(Job(kind=JobKind.CERTIFY, seed=1, **about))

    def reference(self, index: int) -> str:
        key = load_or_create(self.settings.secrets, SAMPLE_REFERENCES)
        return sample_reference(key, self.training_set, index)

    def check(self, written: Written, folder: Path, checkpoint: bytes | None = None) -> verify.Result:
        """What the verifier says of the bundle, given the published key and, where there is one, the checkpoint."""
        with self.database.read() as session:
            key = session.scalars(select(SigningKey)).one()
        x = urlsafe_b64encode(bytes.fromhex(key.public_key)).decode().rstrip("=")
        jwks, packed = self.folder / "jwks.json", self.folder / "bundle.zip"
        jwks.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}))
        packed.write_bytes(bundle({name: (folder / name).read_bytes() for name in written.files}))
        given = None
        if checkpoint is not None:
            given = self.folder / "given.safetensors"
            given.write_bytes(checkpoint)
        return verify.verify(packed, [jwks], given)


@pytest.fixture
def office(database: Database, settings: Settings, tmp_path: Path) -> Iterator[Office]:
    with TestClient(create_app(settings, dispatch=False)) as client:
        yield Office(database, settings, client, tmp_path)


def read(folder: Path, name: str = "report.json") -> Json:
    found: Json = json.loads((folder / name).read_bytes())
    return found


def printed(path: Path) -> str:
    return " ".join(pages(path))


def actor(headers: Headers) -> str:
    return f"key:{headers['Authorization'].split('_')[1]}"


def test_each_slice_is_the_request_s_whose_samples_it_holds(office: Office) -> None:
    requests = office.ask_three()
    taken, folder, result = office.unlearn("retrained")
    write_report(office.database, office.settings, taken, folder, result)
    document = read(folder)
    slices = document["audit"]["after"]["slices"]
    assert [part["request"] for part in slices] == requests
    assert [request["id"] for request in document["requests"]] == requests
    assert [request["samples"] for request in document["requests"]] == list(BATCHES)
    first, third = office.forgotten[: BATCHES[0]], office.forgotten[-BATCHES[2] :]
    assert slices[0]["worst_sample"] in map(office.reference, first)
    assert slices[2]["worst_sample"] in map(office.reference, third)
    shown = {sample["reference"] for sample in document["audit"]["after"]["samples"]}
    assert shown == set(map(office.reference, office.forgotten))


def test_two_requests_for_the_same_samples_have_a_slice_each(office: Office) -> None:
    requests = [office.ask(office.forgotten[:3]) for _ in range(2)]
    taken, folder, result = office.unlearn("few")
    outcome = dict(result.outcome or {})
    for model in ("before", "after"):
        outcome[model] = outcome[model] | {"slices": outcome[model]["slices"] * 2}
    write_report(office.database, office.settings, taken, folder, dataclasses.replace(result, outcome=outcome))
    assert [part["request"] for part in read(folder)["audit"]["after"]["slices"]] == requests


def test_a_slice_whose_erasure_was_ended_meanwhile_is_nobody_else_s(office: Office) -> None:
    requests = office.ask_three()
    taken, folder, result = office.unlearn("retrained")
    with office.database.write() as session:
        ended = Erasure.request_id == uuid.UUID(requests[1])
        session.execute(update(Erasure).where(ended).values(status=ErasureStatus.DONE))
        settle_all(session)
    write_report(office.database, office.settings, taken, folder, result)
    document = read(folder)
    assert [part["request"] for part in document["audit"]["after"]["slices"]] == [requests[0], None, requests[2]]
    assert [request["id"] for request in document["requests"]] == [requests[0], requests[2]]


def test_a_report_holds_the_gate_the_recipients_the_history_and_the_head_of_the_log(office: Office) -> None:
    fetched = office.client.get(f"/v1/models/{MODEL}/checkpoint", headers=office.shop)
    assert fetched.status_code == 200
    office.ask(office.forgotten[:3])
    taken, folder, result = office.unlearn("few")
    write_report(office.database, office.settings, taken, folder, result)
    document = read(folder)
    with office.database.read() as session:
        model = session.scalars(select(Model)).one()
        head = head_of_log(session)
        base = session.scalars(select(ModelVersion)).one()
    assert result.outcome is not None
    strength = cases.rehearsed(3)
    assert strength is not None
    made = gate.of_outcome(result.outcome, DEMO.policy, strength["strength"])
    assert (document["gate"]["decision"], document["gate"]["reason"]) == (made.decision, made.reason)
    assert document["gate"]["rule"] == gate.RULE
    assert document["audit"]["policy_sha256"] == report.digest(model.policy)
    (recipient,) = document["downloads"]
    assert recipient["actor"] == actor(office.shop)
    assert (recipient["application"], recipient["version"], recipient["sha256"]) == ("shop", 1, base.sha256)
    request = document["requests"][0]
    accepted = request["history"][0]
    assert (accepted["event"], accepted["actor"]) == ("deletion_request.accepted", actor(office.shop))
    assert accepted["position"] is not None
    assert request["acknowledged_at"] == accepted["at"]
    assert (request["application"], request["identified_by"]) == ("shop", {"index": 3})
    assert request["due_rule"]
    assert head is not None
    assert document["trail"]["head"] == {"position": head.position, "hash": head.hash}
    told = [(line["event"], line["actor"]) for line in document["trail"]["excerpt"]]
    assert told == [("job.planned", "dispatcher"), ("job.started", "worker:gpu-1")]
    versions = document["scope"]["base_version"], document["scope"]["new_version"]
    assert [(version["number"], version["sha256"]) for version in versions] == [
        (1, base.sha256),
        (2, hashlib.sha256(NEW).hexdigest()),
    ]
    assert not [
        name for name in ("digits/", digest("pixels 1"), str(office.settings.data_dir)) if name in str(document)
    ]


def test_the_files_of_a_report_are_those_that_were_signed(office: Office) -> None:
    office.ask(office.forgotten[:3])
    taken, folder, result = office.unlearn("few")
    written = write_report(office.database, office.settings, taken, folder, result)
    assert set(written.files) == {"report.json", "report.pdf", "samples.csv", "envelope.json"}
    assert (written.verdict, written.edition, written.supersedes) == ("inconclusive", 1, None)
    assert str(written.document_id) == read(folder)["document"]["id"]
    assert str(written.document_id) in printed(folder / "report.pdf")
    checked = office.check(written, folder, NEW)
    assert checked.status == verify.VERIFIED, checked.lines
    assert "given.safetensors: its sha256 is that of the signed checkpoint" in "\n".join(checked.lines)
    assert office.check(written, folder, b"another").status == verify.WRONG


def test_a_re_audit_is_signed_about_the_version_that_is_served(office: Office) -> None:
    answer = office.client.post(f"/v1/models/{MODEL}/audits", headers=office.operator)
    assert answer.status_code == 202, answer.text
    taken, folder = office.take(JobKind.AUDIT)
    written = write_report(office.database, office.settings, taken, folder, cases.recorded("audit"))
    document = read(folder)
    assert (document["document"]["kind"], written.verdict) == ("re_audit", "not_audited")
    assert (document["gate"], document["scope"]["new_version"], document["requests"]) == (None, None, [])
    assert document["scope"]["base_version"]["number"] == 1
    checked = office.check(written, folder, f"checkpoint of {MODEL}".encode())
    assert checked.status == verify.VERIFIED, checked.lines


def test_a_release_by_a_person_makes_an_edition_with_who_and_why_and_the_same_measurements(office: Office) -> None:
    office.ask(office.forgotten[:3])
    first = office.finished("few")
    office.release(2)
    office.rounds()
    taken, folder = office.take(JobKind.CERTIFY, first.id)
    written = write_edition(office.database, office.settings, taken, folder)
    earlier, document = read(office.settings.data_dir / Path(first.json_path).parent), read(folder)
    assert (written.edition, written.supersedes) == (2, first.id)
    assert document["document"]["supersedes"] == earlier["document"]["id"] != document["document"]["id"]
    (override,) = document["overrides"]
    assert (override["action"], override["actor"], override["reason"]) == ("released", actor(office.operator), WHY)
    for name in ("audit", "utility", "action", "gate", "finding", "requests", "scope", "policy"):
        assert document[name] == earlier[name]
    assert "version.released" in [line["event"] for line in document["trail"]["excerpt"]]
    page = pages(folder / "report.pdf")[0]
    assert WHY in page
    assert str(first.id) in page
    assert office.check(written, folder, NEW).status == verify.VERIFIED


@pytest.mark.parametrize("write", [write_edition, write_certificate])
@pytest.mark.parametrize("change", [lambda path: path.write_bytes(path.read_bytes() + b" "), Path.unlink])
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_stored_report_that_was_changed_or_is_gone_makes_no_later_document(
    write: Callable[..., Written], change: Callable[[Path], Any], office: Office
) -> None:
    request = office.ask(office.forgotten[:3])
    first = office.finished("few")
    office.release(2)
    office.rounds()
    about = first.id if write is write_edition else uuid.UUID(request)
    if write is write_certificate:
        office.again(request)
    taken, folder = office.take(JobKind.CERTIFY, about)
    change(office.settings.data_dir / first.json_path)
    with pytest.raises(DocumentDamaged):
        write(office.database, office.settings, taken, folder)
    assert list(folder.iterdir()) == []


def test_a_certificate_lists_what_is_gone_and_what_stays_and_names_nobody_else(office: Office) -> None:
    office.client.get(f"/v1/models/{MODEL}/checkpoint", headers=office.shop)
    office.model("digits-old")
    with office.database.write() as session:
        session.execute(update(Model).where(Model.name == "digits-old").values(status=ModelStatus.RETIRED))
    requests = office.ask_three()
    first = office.finished("retrained")
    office.rounds()
    written, document, folder = office.certify(requests[0])
    own = office.forgotten[: BATCHES[0]]
    assert (written.verdict, document["outcome"], document["finding"]["verdict"]) == ("completed", "completed", "exact")
    assert document["scope"]["samples"] == list(map(office.reference, own))
    gone = {line["what"]: line for line in document["destroyed"]}
    assert set(gone) == {"checkpoint", "adversarial set", "reference signals", "pixels and names"}
    assert all(line["verified"] and line["position"] for line in gone.values())
    with office.database.read() as session:
        base = session.scalars(
            select(ModelVersion).join(Model).where(Model.name == MODEL, ModelVersion.number == 1)
        ).one()
    assert (gone["checkpoint"]["version"], gone["checkpoint"]["sha256"]) == (1, base.sha256)
    assert (gone["reference signals"]["samples"], gone["pixels and names"]["samples"]) == (100, 100)
    (ledger,) = (line for line in document["kept"] if "ledger" in line["what"])
    assert ledger["count"] == 4 * len(own)  # row, key and the pixels' digest, here and in any set
    (excluded,) = document["scope"]["excluded_models"]
    assert excluded["model"] == "digits-old"
    assert "retired" in excluded["reason"]
    (line,) = document["erasures"]
    assert line["report"] == {"id": str(first.id), "edition": 1, "json_sha256": first.json_sha256}
    assert line["other_requests_in_batch"] == 2
    assert [recipient["actor"] for recipient in line["recipients"]] == [actor(office.shop)]
    assert {sample["reference"] for sample in line["own"]["after"]} == set(document["scope"]["samples"])
    with office.database.read() as session:
        others = [
            str(name)
            for row in session.scalars(select(Erasure))
            for name in (row.id, row.request_id)
            if str(row.request_id) != requests[0]
        ]
    others += map(office.reference, office.forgotten[BATCHES[0] :])
    content = "".join((folder / name).read_text() for name in ("certificate.json", "samples.csv", "envelope.json"))
    content += printed(folder / "certificate.pdf")
    assert requests[0] in content
    assert not [name for name in others if name in content]
    assert office.check(written, folder, NEW).status == verify.VERIFIED


SEARCHED = {
    "method": "thumbnails",
    "searched": ROWS,
    "why_not": None,
    "threshold": 0.0598,
    "median_distance": 0.126,
    "neighbours": 10,
    "capped": 0,
    "pairs": 5,
}


def test_a_certificate_names_near_duplicates_that_its_request_does_not(office: Office) -> None:
    own, other, erased = office.forgotten[:3], office.forgotten[3], office.forgotten[4]
    control = next(index for index in range(ROWS) if index not in office.forgotten and index % 2 == 0)
    pairs = [(own[0], own[1]), (own[0], other), (own[2], erased), (own[1], control), (other, erased)]
    with office.database.write() as session:
        session.get_one(TrainingSet, office.training_set).near_duplicates = SEARCHED
        for place, pair in enumerate(pairs, start=1):
            first, second = sorted(pair)
            made = {"first": first, "second": second, "distance": place / 100}
            session.add(NearDuplicate(training_set_id=office.training_set, **made))
        session.get_one(Sample, (office.training_set, erased)).erased_at = now()
    request = office.ask(own)
    office.finished("few")
    office.release(2)
    office.rounds()
    office.again(request)
    _, document, folder = office.certify(request)
    reference = office.reference
    assert document["scope"]["near_duplicates"] == [
        {"sample": reference(own[0]), "near": reference(other), "distance": 0.02, "now": "trained_on"},
        {"sample": reference(own[2]), "near": reference(erased), "distance": 0.03, "now": "erased"},
        {"sample": reference(own[1]), "near": reference(control), "distance": 0.04, "now": "control"},
    ]
    assert document["scope"]["training_set"]["near_duplicates"] == SEARCHED
    assert wording.near_duplicates_left(1) in document["finding"]["notes"]
    words = printed(folder / "certificate.pdf")
    assert all(reference(index) in words for index in (other, erased, control))
    assert "Near-duplicates were not searched for" not in str(document)


def test_of_a_set_in_which_nobody_searched_both_documents_say_so(office: Office) -> None:
    request = office.ask(office.forgotten[:3])
    first = office.finished("few")
    office.release(2)
    office.rounds()
    office.again(request)
    _, document, _ = office.certify(request)
    told = read(office.settings.data_dir / Path(first.json_path).parent)
    for written in (document, told):
        assert written["scope"]["training_set"]["near_duplicates"] is None
        (limit,) = (limit for limit in written["limits"] if "Near-duplicates" in limit)
        assert "were not searched for in this set" in limit
    assert document["scope"]["near_duplicates"] == []


def test_a_report_says_that_the_model_was_uploaded_and_why_z_holds(office: Office) -> None:
    with office.database.write() as session:
        session.execute(update(Model).values(checkpoint="a" * 64))
    office.ask(office.forgotten[:3])
    taken, folder, result = office.unlearn("few")
    write_report(office.database, office.settings, taken, folder, result)
    document = read(folder)
    assert document["scope"]["uploaded_checkpoint"] == "a" * 64
    assert wording.UPLOADED in document["finding"]["notes"]
    words = printed(folder / "report.pdf")
    assert "trained elsewhere and uploaded" in words
    assert "a" * 64 in words.replace(" ", "")


def test_a_later_certificate_supersedes_the_one_before(office: Office) -> None:
    request = office.ask(office.forgotten[:3])
    office.finished("few")
    office.release(2)
    office.rounds()
    office.again(request)
    taken, folder = office.take(JobKind.CERTIFY, uuid.UUID(request))
    finish.certify(office.database, office.settings, taken, folder)
    office.again(request)
    written, document, _ = office.certify(request)
    with office.database.read() as session:
        earlier = session.scalars(select(Certificate)).one()
    assert (written.edition, written.supersedes) == (2, earlier.id)
    assert document["document"]["supersedes"] == str(earlier.id) != document["document"]["id"]
    assert wording.RELEASED_BY_A_PERSON in document["finding"]["notes"]


def test_samples_that_another_model_still_learns_from_are_said_to_be_kept(office: Office) -> None:
    office.model("digits-wide")
    request = office.ask(office.forgotten[:3], models=[MODEL])
    office.finished("few")
    office.release(2)
    office.rounds()
    office.again(request)
    _, document, _ = office.certify(request)
    assert "pixels and names" not in {line["what"] for line in document["destroyed"]}
    (kept,) = (line for line in document["kept"] if line["what"] == "pixels and names of samples")
    assert kept["count"] == 3
    assert "digits-wide" in kept["reason"]
    assert document["scope"]["excluded_models"] == [{"model": "digits-wide", "reason": "the request does not name it"}]


def test_a_rejected_request_is_certified_as_rejected_with_nothing_destroyed(office: Office) -> None:
    request = office.ask(office.forgotten[:3])
    with office.database.write() as session:
        session.execute(update(DeletionRequest).values(rejected_at=now()))
        session.execute(update(Erasure).values(status=ErasureStatus.CANCELLED, reason="it was rejected"))
        settle_all(session)
    office.rounds()
    written, document, folder = office.certify(request)
    assert (written.verdict, document["destroyed"]) == ("rejected", [])
    assert document["kept"][0]["what"] == "samples and their files"
    assert office.check(written, folder).status == verify.VERIFIED


@pytest.mark.parametrize("never_trained", [False, True])
def test_a_request_that_came_when_all_was_forgotten_rests_on_the_version_that_forgot(
    never_trained: bool, office: Office
) -> None:
    """Not on the one that is served now, whose audit looked at the samples of others."""
    samples = office.forgotten[:3]
    office.ask(samples)
    job = office.unlearn("few")
    later = office.ask(office.forgotten[-1:] if never_trained else samples)
    if never_trained:
        with office.database.write() as session:
            model = session.scalars(select(Model)).one()
            model.training = (model.training or {}) | {"never_trained": office.forgotten[-1:]}
    finish.finish(office.database, office.settings, *job)
    office.release(2)
    office.supersede(2)
    assert planning.plan(office.database, office.settings) == 0
    office.again(later)
    _, document, _ = office.certify(later)
    (line,) = document["erasures"]
    assert line["status"] == "done"
    if never_trained:
        assert (line["verdict"], line["own"], document["finding"]["verdict"]) == (None, None, "not_audited")
        assert "never trained on the samples" in document["finding"]["reasons"][0]
    else:
        assert (line["version"]["number"], line["verdict"]) == (2, "inconclusive")
        assert [sample["reference"] for sample in line["own"]["after"]] == document["scope"]["samples"]
