"""The real application on a migrated database, with two applications that must not see each other."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import rfc8785
from fastapi import FastAPI
from sqlalchemy import insert, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from models.base import new_id, now
from models.log import configure_logging
from models.parameters import Network, Policy, Recipe
from models.records import (
    AuditReport,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    ModelVersion,
    Role,
    Sample,
    Split,
    TrainingSet,
    TrainingSetApplication,
    TrainingSetStatus,
    VersionStatus,
)
from models.secrets import API_KEY_PEPPER, load_or_create
from models.session import Database
from models.settings import Settings
from models.verify import AUDIT_REPORT
from service import security
from service.app import create_app
from service.limiting import RateLimits
from worker import signing

Headers = dict[str, str]
TRAIN, CONTROLS, CLASSES = 40, 10, 4
REFERENCES = 4


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class World:
    """Makes the rows that a worker would have made by now. Every method is one transaction, but where they go together."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
        self._shared: Session | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """One transaction for all methods that are called within, by this thread alone."""
        with self.database.write() as session:
            self._shared = session
            try:
                yield
            finally:
                self._shared = None

    @contextmanager
    def _write(self) -> Iterator[Session]:
        if self._shared is None:
            with self.database.write() as session:
                yield session
        else:
            yield self._shared
            self._shared.flush()

    def key(self, role: Role, application: str | None = None, **more: Any) -> Headers:
        with self._write() as session:
            secret = security.create_key(session, self.pepper, role, application=application, **more)
        return {"Authorization": f"Bearer {secret}"}

    def training_set(
        self, name: str, application: str, status: TrainingSetStatus = TrainingSetStatus.READY
    ) -> uuid.UUID:
        """40 training images of 4 classes (row 3 is a copy of row 2; rows 5, 6 and 45 show user-42), 10 controls."""
        with self._write() as session:
            made = TrainingSet(
                name=name,
                status=status,
                source={"kind": "builtin", "path": "digits"},
                controls={"share": 0.2},
                shape=[1, 2, 2],
                classes=["a", "b", "c", "d"],
                rows=TRAIN + CONTROLS,
            )
            session.add(made)
            session.flush()
            granted = security.application_named(session, application)
            session.add(TrainingSetApplication(training_set_id=made.id, application_id=granted.id))
            session.execute(
                insert(Sample),
                [
                    {
                        "training_set_id": made.id,
                        "index": index,
                        "key": f"train/{index:05d}",
                        "sha256": digest(f"pixels {2 if index == 3 else index}"),
                        "file_sha256": digest(f"file {index}"),
                        "label": index % CLASSES,
                        "split": Split.TRAIN if index < TRAIN else Split.CONTROL,
                        "subject": "user-42" if index in (5, 6, 45) else None,
                    }
                    for index in range(TRAIN + CONTROLS)
                ],
            )
            return made.id

    def model(self, name: str, training_set: str, status: ModelStatus = ModelStatus.READY, **policy: Any) -> uuid.UUID:
        """A model; unless it is training or failed, with version 1 released."""
        with self._write() as session:
            found = session.scalars(select(TrainingSet).where(TrainingSet.name == training_set)).one()
            made = Model(
                name=name,
                training_set_id=found.id,
                status=status,
                network=Network(name="small-cnn").model_dump(mode="json"),
                recipe=Recipe().model_dump(mode="json"),
                policy=Policy(**policy).model_dump(mode="json"),
            )
            session.add(made)
        if status in (ModelStatus.READY, ModelStatus.WITHDRAWN, ModelStatus.RETIRED):
            self.version(name, 1, VersionStatus.RELEASED)
        return made.id

    def job(self, model: str, kind: JobKind = JobKind.UNLEARN, status: JobStatus = JobStatus.SUCCEEDED) -> uuid.UUID:
        with self._write() as session:
            found = session.scalars(select(Model).where(Model.name == model)).one()
            made = Job(kind=kind, status=status, model_id=found.id, training_set_id=found.training_set_id, seed=1)
            session.add(made)
        return made.id

    def version(self, model: str, number: int, status: VersionStatus, parent: int | None = None) -> ModelVersion:
        """A version with its file; a released one supersedes the one before."""
        content = f"checkpoint {model} {number}".encode()
        path = f"store/{model}/{number}/checkpoint.safetensors"
        (self.settings.data_dir / path).parent.mkdir(parents=True)
        (self.settings.data_dir / path).write_bytes(content)
        job = self.job(model)
        with self._write() as session:
            found = session.scalars(select(Model).where(Model.name == model)).one()
            versions = {
                version.number: version
                for version in session.scalars(select(ModelVersion).where(ModelVersion.model_id == found.id))
            }
            if status is VersionStatus.RELEASED:
                for version in versions.values():
                    if version.status is VersionStatus.RELEASED:
                        version.status = VersionStatus.SUPERSEDED
                session.flush()
                found.released_number = number
            made = ModelVersion(
                model_id=found.id,
                number=number,
                parent_id=versions[parent].id if parent is not None else None,
                job_id=job,
                status=status,
                path=path,
                sha256=hashlib.sha256(content).hexdigest(),
                size=len(content),
            )
            session.add(made)
        return made

    def report(self, model: str, number: int, verdict: str, *, signed: bool = True) -> uuid.UUID:
        """A report; unless it is signed, as it was made before reports were."""
        with self._write() as session:
            version = session.scalars(
                select(ModelVersion).join(Model).where(Model.name == model, ModelVersion.number == number)
            ).one()
            folder = self.settings.data_dir / "reports" / str(version.id)
            folder.mkdir(parents=True)
            made = AuditReport(
                id=new_id(),
                job_id=version.job_id,
                model_id=version.model_id,
                version_id=version.id,
                verdict=verdict,
            )
            document = {"document": {"id": str(made.id)}, "verdict": verdict}
            contents = {"report.json": rfc8785.dumps(document), "report.pdf": b"%PDF-1.7 pages"}
            if signed:
                contents["samples.csv"] = b"sample,z\r\n"
                key = signing.active_key(session, self.settings)
                subjects = [(name, hashlib.sha256(content).hexdigest()) for name, content in contents.items()]
                predicate = {"document_id": str(made.id), "kind": "audit_report", "verdict": verdict}
                contents["envelope.json"] = signing.sign(key, subjects, AUDIT_REPORT, predicate)
                made.key_id = key.key_id
            for name, content in contents.items():
                (folder / name).write_bytes(content)
                kind = {"report.json": "json", "report.pdf": "pdf", "samples.csv": "csv"}.get(name, "envelope")
                setattr(made, f"{kind}_path", f"reports/{version.id}/{name}")
                setattr(made, f"{kind}_sha256", hashlib.sha256(content).hexdigest())
            session.add(made)
        return made.id

    def files(self, training_set: uuid.UUID) -> None:
        """Arrays of the set and reference signals of its models, without a single zero byte."""
        rows = TRAIN + CONTROLS
        with self._write() as session:
            found = session.get_one(TrainingSet, training_set)
            found.folder = "store/set/1"
            folders = {found.folder: {"pixels.u8": 4, "digests.bin": 32}}
            for model in session.scalars(select(Model).where(Model.training_set_id == training_set)):
                model.folder, model.training = f"store/{model.name}/signals", {"references": REFERENCES}
                folders[model.folder] = {"phi.f32": 4 * REFERENCES, "members.u8": REFERENCES}
        for folder, names in folders.items():
            (self.settings.data_dir / folder).mkdir(parents=True)
            for name, size in names.items():
                (self.settings.data_dir / folder / name).write_bytes(b"\x07" * rows * size)

    def zeroed(self, path: str) -> list[int]:
        """Rows of a file below store/ that hold nothing but zeros."""
        content = (self.settings.data_dir / "store" / path).read_bytes()
        size = len(content) // (TRAIN + CONTROLS)
        return [row for row in range(TRAIN + CONTROLS) if content[row * size : (row + 1) * size] == bytes(size)]

    def finish(
        self, request: str, model: str, version: ModelVersion, status: ErasureStatus = ErasureStatus.DONE
    ) -> None:
        """What an unlearn job does with a request's erasure in one model."""
        with self._write() as session:
            erasure = session.scalars(
                select(Erasure).join(Model).where(Erasure.request_id == uuid.UUID(request), Model.name == model)
            ).one()
            erasure.status = status
            erasure.job_id = version.job_id
            erasure.version_id = version.id
            erasure.finished_at = now() if status is ErasureStatus.DONE else None


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return World(database, settings)


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """One for all tests: the first request builds the routes, which takes longer than most tests."""
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("application")), dispatch=False)


@pytest.fixture
def client(application: FastAPI, settings: Settings) -> Iterator[TestClient]:
    configure_logging()  # to where this test's standard error goes
    application.state.settings = settings
    application.state.limits = RateLimits(settings)
    with TestClient(application) as opened:
        yield opened


@pytest.fixture
def operator(world: World) -> Headers:
    return world.key(Role.OPERATOR)


@pytest.fixture
def compliance(world: World) -> Headers:
    return world.key(Role.COMPLIANCE)


@pytest.fixture
def shop(world: World) -> Headers:
    """A key of the application that may erase from `digits`."""
    return world.key(Role.APPLICATION, "shop")


@pytest.fixture
def rival(world: World) -> Headers:
    """A key of an application that has a training set of its own, and nothing to do with `digits`."""
    world.training_set("rivals", "rival")
    return world.key(Role.APPLICATION, "rival")


@pytest.fixture
def digits(world: World) -> uuid.UUID:
    """Training set `digits`, granted to shop, with the ready model `digits-cnn`."""
    with world.together():
        made = world.training_set("digits", "shop")
        world.model("digits-cnn", "digits")
    return made
