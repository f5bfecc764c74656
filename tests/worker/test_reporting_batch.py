"""A batch of three requests from its recorded result to signed reports and certificates, in real rows and files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from models import artifacts, verify
from models.base import now
from models.evidence import sample_reference
from models.parameters import DEMO
from models.records import (
    Application,
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
    RequestSample,
    Sample,
    SigningKey,
    Split,
    TrainingSet,
    TrainingSetStatus,
    VersionStatus,
    record_event,
)
from models.secrets import SAMPLE_REFERENCES, load_or_create
from models.session import Database
from models.settings import Settings
from service.duties import certifying, destroying, erasing, planning, sealing
from service.releases import release_version
from service.security import Principal
from tests.worker.report import cases
from worker import finish
from worker.claim import Claim, claim
from worker.plan import PLAN_FILE, OutputFile, Result, dump
from worker.plans import make_plan
from worker.reporting.audits import DocumentDamaged, load_document

ROWS, REFERENCES = 1797, 16
WEIGHTS = b"weights that were made to forget"
OPERATOR = Principal(key_id="0f9a6c2b", role="operator", application_id=None)  # type: ignore[arg-type]
Json = dict[str, Any]


class Batch:
    """The demo's model, with the three requests of the recorded batch open."""

    def __init__(self, database: Database, settings: Settings, folder: Path, case: str) -> None:
        self.database, self.settings, self.folder, self.result = database, settings, folder, cases.recorded(case)
        outcome = self.result.outcome
        assert outcome is not None
        self.outcome = outcome
        self.sizes = [part["forget"] for part in outcome["after"]["slices"]]
        self.forget = [sample["index"] for sample in outcome["after"]["audit"]["samples"]]
        self._files()
        with database.write() as session:
            self.training_set, application = self._training_set(session)
            self.models = [self._model(session, name) for name in ("digits-cnn", "digits-wide")]
            rows = iter(self.forget)
            self.requests = [
                self._request(session, application, [next(rows) for _ in range(size)]) for size in self.sizes
            ]

    def _files(self) -> None:
        folders = {"store/set": {"pixels.u8": 64, "digests.bin": 32}}
        for name in ("digits-cnn", "digits-wide"):
            folders[f"store/{name}"] = {"phi.f32": 4 * REFERENCES, "members.u8": REFERENCES}
        for folder, files in folders.items():
            (self.settings.data_dir / folder).mkdir(parents=True)
            for name, size in files.items():
                (self.settings.data_dir / folder / name).write_bytes(b"\x07" * ROWS * size)
            (self.settings.data_dir / folder / "checkpoint.safetensors").write_bytes(b"weights that know")

    def _training_set(self, session: Any) -> tuple[uuid.UUID, uuid.UUID]:
        application = Application(name="shop")
        made = TrainingSet(
            name="digits",
            status=TrainingSetStatus.READY,
            source={"kind": "builtin", "path": "digits"},
            controls={"share": 0.5},
            shape=[1, 8, 8],
            classes=[str(digit) for digit in range(10)],
            rows=ROWS,
            manifest_sha256="c" * 64,
            folder="store/set",
            suppressed=0,
        )
        session.add_all([application, made])
        session.flush()
        known = set(self.forget) | {index for index in range(ROWS) if index % 2}
        for index in range(ROWS):
            split = Split.TRAIN if index in known else Split.CONTROL
            digest = hashlib.sha256(index.to_bytes(4, "big")).hexdigest()
            session.add(
                Sample(
                    training_set_id=made.id, index=index, key=f"person-{index:05d}", sha256=digest, label=0, split=split
                )
            )
        return made.id, application.id

    def _model(self, session: Any, name: str) -> uuid.UUID:
        never = [] if name == "digits-cnn" else self.forget
        rehearsal = [cases.rehearsed(size)["strength"] for size in (3, 175)]  # type: ignore[index]
        model = Model(
            name=name,
            status=ModelStatus.READY,
            training_set_id=self.training_set,
            network=DEMO.network.model_dump(mode="json"),
            recipe=DEMO.recipe.model_dump(mode="json"),
            policy=DEMO.policy.model_dump(mode="json"),
            training={"references": REFERENCES, "rehearsal": rehearsal, "never_trained": never},
            folder=f"store/{name}",
        )
        session.add(model)
        session.flush()
        job = Job(
            kind=JobKind.TRAIN,
            status=JobStatus.SUCCEEDED,
            model_id=model.id,
            training_set_id=self.training_set,
            seed=1,
        )
        session.add(job)
        session.flush()
        version = ModelVersion(
            model_id=model.id,
            number=1,
            job_id=job.id,
            status=VersionStatus.RELEASED,
            path=f"store/{name}/checkpoint.safetensors",
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            size=17,
        )
        session.add(version)
        session.flush()
        record_event(session, "checkpoint.downloaded", "version", version.id, "key:77aa01cd", application="shop")
        return uuid.UUID(str(model.id))

    def _request(self, session: Any, application: uuid.UUID, rows: list[int]) -> uuid.UUID:
        request = DeletionRequest(
            application_id=application,
            training_set_id=self.training_set,
            submitted_by="1f2e3d4c",
            regulation="GDPR",
            ground="17(1)(b)",
            due_at=now().replace(year=now().year + 1),
            fingerprint=b"",
            resolution={"outcomes": {"matched": len(rows)}, "identified_by": {"key": len(rows)}},
        )
        session.add(request)
        session.flush()
        for row in rows:
            session.add(RequestSample(request_id=request.id, sample_index=row, training_set_id=self.training_set))
        session.add(Erasure(request_id=request.id, model_id=self.models[0]))
        record_event(
            session,
            "deletion_request.accepted",
            "deletion_request",
            request.id,
            "key:1f2e3d4c",
            due_rule="Regulation (EU) 2016/679, Article 12(3)",
        )
        return uuid.UUID(str(request.id))

    def unlearn(self) -> None:
        """Plan and claim the job, then finish it with the recorded result."""
        self.end(*self.begin())

    def begin(self) -> tuple[Claim, Path]:
        """The claimed job, and the folder with its plan and what its pipeline has written."""
        assert planning.plan(self.database, self.settings) == 1
        taken = self._claimed(JobKind.UNLEARN)
        folder = artifacts.staging(self.settings.data_dir, taken.job.id, taken.token)
        folder.mkdir(parents=True)
        with self.database.read() as session:
            (folder / PLAN_FILE).write_text(dump(make_plan(session, self.settings, taken.job, folder)))
        (folder / finish.CHECKPOINT).write_bytes(WEIGHTS)
        return taken, folder

    def end(self, taken: Claim, folder: Path) -> None:
        """Commit the recorded result."""
        checkpoint = OutputFile(finish.CHECKPOINT, hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
        result: Result = dataclasses.replace(self.result, files=[checkpoint])
        finish.finish(self.database, self.settings, taken, folder, result)

    def _claimed(self, kind: JobKind) -> Claim:
        with self.database.read() as session:
            job = session.scalars(select(Job.id).where(Job.kind == kind, Job.status == JobStatus.QUEUED)).first()
        assert job is not None
        taken = claim(self.database, self.settings, job, "gpu-1")
        assert taken is not None
        return taken

    def round(self) -> None:
        """What the dispatcher does, and the certify jobs that it queues."""
        sealing.seal_events(self.database)
        destroying.destroy_versions(self.database, self.settings)
        erasing.erase_signals(self.database, self.settings)
        erasing.erase_samples(self.database, self.settings)
        destroying.destroy_signals(self.database, self.settings)
        sealing.seal_events(self.database)
        for _ in range(certifying.plan_documents(self.database, self.settings)):
            taken = self._claimed(JobKind.CERTIFY)
            folder = artifacts.staging(self.settings.data_dir, taken.job.id, taken.token)
            folder.mkdir(parents=True)
            finish.certify(self.database, self.settings, taken, folder)

    def reports(self) -> list[AuditReport]:
        with self.database.read() as session:
            return list(session.scalars(select(AuditReport).order_by(AuditReport.edition)))

    def certificates(self) -> list[tuple[Certificate, Json]]:
        with self.database.read() as session:
            found = session.scalars(select(Certificate).order_by(Certificate.request_id, Certificate.edition))
            return [(row, json.loads((self.settings.data_dir / row.json_path).read_bytes())) for row in found]

    def references(self, rows: list[int]) -> list[str]:
        key = load_or_create(self.settings.secrets, SAMPLE_REFERENCES)
        return [sample_reference(key, self.training_set, row) for row in rows]

    def verified(self, row: AuditReport | Certificate, tmp_path: Path) -> verify.Result:
        with self.database.read() as session:
            public = session.scalars(select(SigningKey.public_key).where(SigningKey.key_id == row.key_id)).one()
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": verify._base64url(bytes.fromhex(public))}
        (tmp_path / "key.json").write_text(json.dumps(jwk))
        return verify.verify((self.settings.data_dir / row.json_path).parent, [tmp_path / "key.json"])


@pytest.fixture
def three(database: Database, settings: Settings, tmp_path: Path) -> Batch:
    batch = Batch(database, settings, tmp_path, "retrained")
    batch.unlearn()
    return batch


def test_a_report_gives_each_request_its_slice_the_gate_and_who_fetched_the_old_checkpoint(
    three: Batch, tmp_path: Path
) -> None:
    row = three.reports()[0]
    document = load_document(three.settings, row)
    assert document["document"]["id"] == str(row.id)
    assert (row.verdict, document["gate"]["decision"]) == ("exact", "released")
    slices = document["audit"]["after"]["slices"]
    assert [part["request"] for part in slices] == [str(request) for request in three.requests]
    assert [part["forget"] for part in slices] == three.sizes
    assert {sample["reference"] for sample in document["audit"]["after"]["samples"]} == set(
        three.references(three.forget)
    )
    assert [fetched["actor"] for fetched in document["downloads"]] == ["key:77aa01cd"]
    first = document["requests"][0]
    assert first["due_rule"] == "Regulation (EU) 2016/679, Article 12(3)"
    assert [line["actor"] for line in first["history"]] == ["key:1f2e3d4c", "service"]  # accepted, and running
    assert {"job.planned", "job.started"} <= {line["event"] for line in document["trail"]["excerpt"]}
    assert three.verified(row, tmp_path).status == verify.VERIFIED
    assert "person-" not in json.dumps(document)


def test_each_certificate_says_what_is_gone_what_stays_and_which_models_were_left_alone(
    three: Batch, tmp_path: Path
) -> None:
    three.round()
    made = three.certificates()
    assert [row.request_id for row, _ in made] == three.requests
    rows = iter(three.forget)
    for (row, document), size in zip(made, three.sizes, strict=True):
        own = three.references([next(rows) for _ in range(size)])
        assert set(document["scope"]["samples"]) == set(own)
        assert {line["what"] for line in document["destroyed"]} == {
            "adversarial set",
            "checkpoint",
            "reference signals",
            "pixels and names",
        }
        assert all(line["verified"] and line["position"] for line in document["destroyed"])
        signals = next(line for line in document["destroyed"] if line["what"] == "reference signals")
        assert signals["samples"] == size
        ledger = next(line for line in document["kept"] if "ledger" in line["what"])
        assert ledger["count"] >= 2 * size
        excluded = document["scope"]["excluded_models"]
        assert [model["model"] for model in excluded] == ["digits-wide"]
        assert "never trained on" in excluded[0]["reason"]
        erasure = document["erasures"][0]
        assert (erasure["verdict"], erasure["other_requests_in_batch"]) == ("exact", 2)
        assert erasure["report"]["json_sha256"] == three.reports()[0].json_sha256
        assert [fetched["version"] for fetched in erasure["recipients"]] == [1]
        assert three.verified(row, tmp_path).status == verify.VERIFIED
        told = json.dumps(document)
        assert not [request for request in three.requests if request != row.request_id and str(request) in told]
        assert "person-" not in told
    assert not (three.settings.data_dir / "store/digits-cnn/checkpoint.safetensors").exists()
    assert (three.settings.data_dir / "store/digits-wide/checkpoint.safetensors").exists()


def test_after_a_release_by_a_person_the_report_has_an_edition_that_says_who_and_why(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    batch = Batch(database, settings, tmp_path, "over")
    batch.unlearn()
    with database.write() as session:
        model = session.get_one(Model, batch.models[0])
        assert model.status is ModelStatus.WITHDRAWN
        version = session.scalars(
            select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.number == 2)
        ).one()
        release_version(session, model, version, OPERATOR, "reviewed: served until the next training")
    batch.round()
    first, second = batch.reports()
    assert (second.edition, second.supersedes_id, second.verdict) == (2, first.id, "over_unlearned")
    document = load_document(settings, second)
    (override,) = document["overrides"]
    assert (override["action"], override["actor"]) == ("released", "key:0f9a6c2b")
    assert override["reason"] == "reviewed: served until the next training"
    assert load_document(settings, first)["overrides"] == []
    assert batch.verified(second, tmp_path).status == verify.VERIFIED
    batch.round()
    (_, certified), *more = batch.certificates()
    assert more == []
    assert certified["erasures"][0]["overrides"] == [override]
    assert certified["erasures"][0]["report"]["edition"] == 2
    with database.read() as session:
        assert session.scalars(select(Erasure.status)).one() is ErasureStatus.DONE


def test_a_later_fact_makes_a_second_edition_of_a_certificate(three: Batch) -> None:
    three.round()
    with three.database.write() as session:
        session.get_one(DeletionRequest, three.requests[0]).certified_at = None
    three.round()
    first, second = (document for row, document in three.certificates() if row.request_id == three.requests[0])
    assert (second["document"]["edition"], second["document"]["supersedes"]) == (2, first["document"]["id"])


def test_a_rejected_request_is_certified_with_everything_it_asked_for_kept(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    batch = Batch(database, settings, tmp_path, "few")
    with database.write() as session:
        session.get_one(DeletionRequest, batch.requests[0]).rejected_at = now()
    batch.round()
    ((row, document),) = batch.certificates()
    assert (row.outcome, document["destroyed"]) == ("rejected", [])
    assert document["kept"][0] == {
        "what": "samples and their files",
        "count": 3,
        "reason": "the request was rejected",
    }
    assert batch.verified(row, tmp_path).status == verify.VERIFIED


def test_a_stored_report_that_was_changed_certifies_nothing(three: Batch) -> None:
    row = three.reports()[0]
    path = three.settings.data_dir / row.json_path
    path.write_bytes(path.read_bytes().replace(b"exact", b"PASS!"))
    with pytest.raises(DocumentDamaged, match="restore it"):
        load_document(three.settings, row)
    with pytest.raises(DocumentDamaged):
        three.round()
    assert three.certificates() == []
