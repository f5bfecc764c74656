"""What must hold between rows and files: what a row names is there, what was erased is not, and nothing else lies about."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import artifacts, holdings
from models.records import (
    AuditReport,
    Certificate,
    DeletionRequest,
    Erasure,
    Job,
    JobStatus,
    Model,
    ModelVersion,
    RequestSample,
    Sample,
    Split,
    TrainingSet,
    Upload,
    VersionStatus,
)
from models.settings import Settings

ARRAYS = {"pixels.u8", "labels.i32", "digests.bin"}
SIGNALS = {"phi.f32", "members.u8"}
PARTS = ("json", "pdf", "csv", "envelope")


def wrong(session: Session, settings: Settings) -> Iterator[str]:
    for path, sha256, size in _hashed(session):
        yield from _differs(settings.data_dir / path, sha256, size)
    destroyed = select(ModelVersion).where(ModelVersion.status == VersionStatus.DESTROYED)
    for version in session.scalars(destroyed):
        if (settings.data_dir / version.path).exists():
            yield f"version {version.number} of model {version.model_id} is destroyed, and {version.path} is there"
    for made in session.scalars(select(TrainingSet).where(TrainingSet.folder.is_not(None))):
        yield from _arrays(session, settings, made)
    for model in session.scalars(select(Model).where(Model.folder.is_not(None))):
        yield from _signals(session, settings, model)


def unnamed(session: Session, settings: Settings) -> Iterator[str]:
    """Files and folders that neither a row nor a running attempt names."""
    running = session.execute(select(Job.id, Job.token).where(Job.status == JobStatus.RUNNING))
    attempts = {f"{row.id}.{row.token}" for row in running}
    staging = settings.data_dir / "staging"
    for folder in staging.iterdir() if staging.is_dir() else ():
        if folder.name not in attempts:
            yield f"{folder.relative_to(settings.data_dir)} is of no running attempt"
    named = _named(session)
    folders = {str(Path(path).parent) for path in named}
    # A destroyed version's folder may stay, empty: its row still says where it was.
    folders |= {str(Path(path).parent) for path in session.scalars(select(ModelVersion.path))}
    for path in (settings.data_dir / "store").rglob("*"):
        relative = path.relative_to(settings.data_dir)
        if attempts.intersection(relative.parts):
            continue
        if path.is_file() and str(relative) not in named:
            yield f"no row names {relative}"
        if path.is_dir() and len(relative.parts) == 3 and str(relative) not in folders:
            yield f"no row names {relative}/"


def _hashed(session: Session) -> Iterator[tuple[str, str, int | None]]:
    """Path, sha256 and, where it is known, size of what rows name one by one."""
    for version in session.scalars(select(ModelVersion).where(ModelVersion.status != VersionStatus.DESTROYED)):
        yield version.path, version.sha256, version.size
    for document in [*session.scalars(select(AuditReport)), *session.scalars(select(Certificate))]:
        for part in PARTS:
            if (path := getattr(document, f"{part}_path")) is not None:
                yield path, getattr(document, f"{part}_sha256"), None
    for upload in session.scalars(select(Upload)):
        yield upload.path, upload.sha256, upload.size


def _named(session: Session) -> set[str]:
    named = {path for path, _, _ in _hashed(session)}
    for folder in session.scalars(select(TrainingSet.folder).where(TrainingSet.folder.is_not(None))):
        named |= {f"{folder}/{name}" for name in ARRAYS}
    for folder in session.scalars(select(Model.folder).where(Model.folder.is_not(None))):
        named |= {f"{folder}/{name}" for name in SIGNALS}
    return named


def _differs(file: Path, sha256: str, size: int | None) -> Iterator[str]:
    if not file.is_file():
        yield f"{file.name} is named by a row and not there: {file}"
    elif artifacts.sha256_of(file) != sha256 or size not in (None, file.stat().st_size):
        yield f"{file.name} is not what its row says: {file}"


def _arrays(session: Session, settings: Settings, made: TrainingSet) -> Iterator[str]:
    """Every live row has the digest that was recorded; every erased one is zeros once its request says so."""
    channels, height, width = made.shape or (0, 0, 0)
    sizes = {"pixels.u8": channels * height * width, "labels.i32": 4, "digests.bin": 32}
    contents = yield from _rows(settings.data_dir / str(made.folder), sizes, made.rows or 0)
    if contents is None:
        return
    due = _zeros(session, made.id)
    for sample in session.scalars(select(Sample).where(Sample.training_set_id == made.id)):
        pixels, digest = (_row(contents[name], sizes[name], sample.index) for name in ("pixels.u8", "digests.bin"))
        if sample.erased_at is None:
            if sample.sha256 is not None and hashlib.sha256(pixels).hexdigest() != sample.sha256:
                yield f"pixels of live sample {sample.index} of {made.name} have changed"
            if sample.sha256 is not None and digest.hex() != sample.sha256:
                yield f"the digest of live sample {sample.index} of {made.name} has changed"
            if sample.index in due:
                yield f"sample {sample.index} of {made.name} is live, and its request says that it is erased"
        elif due.get(sample.index, True) and (any(pixels) or any(digest)):
            yield f"sample {sample.index} of {made.name} is erased, and its pixels are there"


def _zeros(session: Session, training_set: uuid.UUID) -> dict[int, bool]:
    """Samples that requests name: whether their files must be zeros by now. What none names was refused at registration."""
    found: dict[int, bool] = {}
    query = (
        select(RequestSample.sample_index, Sample.split, Sample.erased_at, DeletionRequest)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .join(
            Sample,
            (Sample.training_set_id == RequestSample.training_set_id) & (Sample.index == RequestSample.sample_index),
        )
        .where(RequestSample.training_set_id == training_set)
    )
    for index, split, erased_at, request in session.execute(query):
        said = request.controls_erased_at if split is Split.CONTROL else request.samples_erased_at
        if said is not None or erased_at is not None:
            found[index] = found.get(index, False) or said is not None
    return found


def _signals(session: Session, settings: Settings, model: Model) -> Iterator[str]:
    references = int((model.training or {})["references"])
    rows = session.get_one(TrainingSet, model.training_set_id).rows or 0
    sizes = {"phi.f32": 4 * references, "members.u8": references}
    contents = yield from _rows(settings.data_dir / str(model.folder), sizes, rows)
    if contents is None:
        return
    due: defaultdict[int, bool] = defaultdict(bool)
    erased = select(Erasure.id).where(Erasure.model_id == model.id, Erasure.signals_erased_at.is_not(None))
    for index in holdings.samples_of(session, erased):
        due[index] = True
    for index, must in _zeros(session, model.training_set_id).items():
        due[index] |= must
    for index in (index for index, must in due.items() if must):
        if any(any(_row(contents[name], sizes[name], index)) for name in sizes):
            yield f"signals of erased sample {index} are there in model {model.name}"


def _rows(folder: Path, sizes: dict[str, int], rows: int) -> Generator[str, None, dict[str, bytes] | None]:
    """Contents of files of fixed-size rows; as the generator's value, None where one is missing or cut."""
    contents: dict[str, bytes] = {}
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size * rows:
            yield f"{name} is missing or does not have {rows} rows: {file}"
        else:
            contents[name] = file.read_bytes()
    return contents if len(contents) == len(sizes) else None


def _row(content: bytes, size: int, index: int) -> bytes:
    return content[index * size : (index + 1) * size]
