"""ERASE: signals, pixels and names of samples, each as soon as nothing lawful needs it any more.

Every step is repeated until the row says that it is done, and the row says so only after the files were read back.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from models import artifacts, holdings
from models.crashes import crash_point
from models.deletion_request import IS_UNERASED
from models.evidence import suppression_digests
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobStatus,
    Model,
    RequestSample,
    Sample,
    Split,
    Suppression,
    TrainingSet,
    record_event,
)
from models.secrets import SUPPRESSION, load_or_create
from models.session import Database, current_time
from models.settings import Settings
from models.settling import unsettle
from service.holders import holders_of, models_knowing

ACTOR = "dispatcher"
METHOD = "overwritten with zeros, synchronised, read back"
REQUESTS_AT_ONCE = 500
ENDED_WELL = (ErasureStatus.DONE, ErasureStatus.NOT_APPLICABLE)
NAMES_NOTHING = ("control", "already_erased", "duplicate")  # outcomes of selectors: nothing with that name is left
IN_USE = "models that this request does not name were trained on them, and so need them as retained images"


@dataclass(frozen=True)
class Waiting:
    """A request that is completed, and whose training samples are still there."""

    id: uuid.UUID
    training_set_id: uuid.UUID
    samples_kept: dict[str, Any] | None
    samples: int = 0


def erase_signals(database: Database, settings: Settings) -> int:
    """Overwrite what reference models say of samples whose erasure is done; returns how many erasures."""
    busy = exists().where(Job.model_id == Erasure.model_id, Job.status == JobStatus.RUNNING)
    with database.read() as session:
        waiting = [
            (erasure, session.get_one(Model, erasure.model_id), sorted(holdings.samples_of(session, [erasure.id])))
            for erasure in session.scalars(
                select(Erasure).where(Erasure.status == ErasureStatus.DONE, Erasure.signals_erased_at.is_(None), ~busy)
            )
        ]
    for erasure, model, rows in waiting:
        files = overwrite_signals(settings, [model], rows)
        crash_point("signals.overwritten")
        with database.write() as session:
            session.execute(
                update(Erasure).where(Erasure.id == erasure.id).values(signals_erased_at=current_time(session))
            )
            record_event(
                session,
                "signals.erased",
                "erasure",
                erasure.id,
                ACTOR,
                samples=len(rows),
                files=files,
                method=METHOD,
                verified=True,
            )
    return len(waiting)


def erase_samples(database: Database, settings: Settings) -> int:
    """Erase pixels and names of training samples that no live model knows any more; returns how many requests.

    Where a model that the request does not name still uses them, the row says why they are kept.
    """
    done = 0
    for request, knowing in _waiting(database):
        if knowing:
            _keep(database, request, knowing)
            continue
        with database.read() as session:  # once more: the work before it took its time
            rows = _rows(session, [request], Split.TRAIN)[request.id]
            still = models_knowing(holders_of(session, request.training_set_id), rows)
        if rows and still == []:
            done += _erase(database, settings, request, Split.TRAIN)
    return done


def _waiting(database: Database) -> list[tuple[Waiting, list[str]]]:
    """Requests whose samples may go by now, or are kept: with the names of models that need them.

    What the models of a set know is looked up once, for thousands of requests whose samples are kept are met each round.
    """
    found: list[tuple[Waiting, list[str]]] = []
    with database.read() as session:
        of_set: defaultdict[uuid.UUID, list[Waiting]] = defaultdict(list)
        for request in _forgotten_everywhere(session):
            of_set[request.training_set_id].append(request)
        for training_set_id, requests in of_set.items():
            holders = holders_of(session, training_set_id)
            rows = _rows(session, requests, Split.TRAIN)
            for request in requests:
                knowing = models_knowing(holders, rows[request.id])
                if rows[request.id] and knowing is not None:
                    found.append((replace(request, samples=len(rows[request.id])), knowing))
    return found


def erase_controls(database: Database, settings: Settings) -> int:
    """Erase control samples that requests name: no model was trained on them, so no job is needed.

    Returns how many requests had their last control erased.
    """
    with database.read() as session:
        waiting = list(session.scalars(select(DeletionRequest).where(_controls_due())))
    return sum(_erase(database, settings, request, Split.CONTROL) for request in waiting)


def _controls_due() -> ColumnElement[bool]:
    """Requests whose controls shall go now, and those whose controls are on their way already."""
    undecided = and_(DeletionRequest.cancelled_at.is_(None), DeletionRequest.held_at.is_(None))
    return and_(
        DeletionRequest.has_controls,
        DeletionRequest.controls_erased_at.is_(None),
        DeletionRequest.rejected_at.is_(None),
        or_(DeletionRequest.approval_required.is_(False), DeletionRequest.approved_at.is_not(None)),
        or_(undecided, controls_are_buried()),
    )


def controls_are_buried() -> ColumnElement[bool]:
    """Whether all controls of a request are tombstones: their names are gone, and nothing brings them back."""
    return ~exists().where(
        RequestSample.request_id == DeletionRequest.id,
        _of_request(),
        Sample.split == Split.CONTROL,
        Sample.erased_at.is_(None),
    )


def _forgotten_everywhere(session: Session) -> list[Waiting]:
    """Requests that are completed, and whose training samples are still there.

    Two looks: asked for both at once, PostgreSQL reads all erasures rather than those of a few requests.
    """
    columns = (DeletionRequest.id, DeletionRequest.training_set_id, DeletionRequest.samples_kept)
    completed = session.execute(select(*columns).where(IS_UNERASED).order_by(DeletionRequest.id)).all()
    ended: set[uuid.UUID] = set()
    for start in range(0, len(completed), REQUESTS_AT_ONCE):
        ids = [row.id for row in completed[start : start + REQUESTS_AT_ONCE]]
        well = Erasure.status.in_(ENDED_WELL)
        ended.update(session.scalars(select(Erasure.request_id).where(Erasure.request_id.in_(ids), well)))
    return [Waiting(*row) for row in completed if row.id in ended]


def _rows(session: Session, requests: Sequence[Waiting], split: Split) -> defaultdict[uuid.UUID, set[int]]:
    """Rows that the requests name, by request."""
    found: defaultdict[uuid.UUID, set[int]] = defaultdict(set)
    for start in range(0, len(requests), REQUESTS_AT_ONCE):
        ids = [request.id for request in requests[start : start + REQUESTS_AT_ONCE]]
        query = (
            select(RequestSample.request_id, RequestSample.sample_index)
            .join(Sample, _of_request())
            .where(RequestSample.request_id.in_(ids), Sample.split == split)
        )
        for request, index in session.execute(query):
            found[request].add(index)
    return found


def _of_request() -> Any:
    return (RequestSample.training_set_id == Sample.training_set_id) & (RequestSample.sample_index == Sample.index)


def _keep(database: Database, request: Waiting, models: list[str]) -> None:
    kept = {"samples": request.samples, "models": models, "reason": IN_USE}
    if request.samples_kept == kept:
        return
    with database.write() as session:
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request.id).values(samples_kept=kept))
        record_event(session, "samples.kept", "deletion_request", request.id, ACTOR, **kept)


def _erase(database: Database, settings: Settings, request: DeletionRequest | Waiting, split: Split) -> bool:
    """Tombstones first, so that no later plan uses the rows; once no running job can hold an older plan, their files."""
    with database.write() as session:
        if split is Split.CONTROL and not _still_due(session, request):
            return False
        indices = _bury(session, settings, request, split)
    crash_point("erase.buried")
    with database.read() as session:
        if _set_is_in_use(session, request.training_set_id):
            return False
        training_set = session.get_one(TrainingSet, request.training_set_id)
        models = list(session.scalars(select(Model).where(Model.training_set_id == training_set.id)))
    overwrite_pixels(settings, training_set, indices)
    overwrite_signals(settings, models, indices)
    crash_point("erase.overwritten")
    with database.write() as session:
        at = current_time(session)
        controls = split is Split.CONTROL
        gone: dict[str, Any] = {"controls_erased_at": at} if controls else {"samples_erased_at": at, "selectors": None}
        if controls:  # what names the training samples is still needed
            named = session.scalar(select(DeletionRequest.selectors).where(DeletionRequest.id == request.id)) or []
            gone["selectors"] = [each for each in named if each["outcome"] not in NAMES_NOTHING] or None
        values = gone | {"certified_at": None}  # a certificate that says they are kept is overtaken
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request.id).values(**values))
        unsettle(session, request.id)
        record_event(
            session,
            "controls.erased" if controls else "samples.erased",
            "deletion_request",
            request.id,
            ACTOR,
            samples=len(indices),
            method=METHOD,
            verified=True,
        )
    crash_point("erase.after_commit")
    return True


def _still_due(session: Session, request: DeletionRequest | Waiting) -> bool:
    """A person may have held or cancelled it since it was read; with its row locked, nobody does."""
    session.execute(select(DeletionRequest.id).where(DeletionRequest.id == request.id).with_for_update())
    due = select(DeletionRequest.id).where(DeletionRequest.id == request.id, _controls_due())
    return session.scalar(due) is not None


def _bury(session: Session, settings: Settings, request: DeletionRequest | Waiting, split: Split) -> list[int]:
    """Tombstones for the request's samples; what named them stays as keyed hashes only. Returns all their rows."""
    samples = list(
        session.scalars(
            select(Sample)
            .join(RequestSample, _of_request())
            .where(RequestSample.request_id == request.id, Sample.split == split)
        )
    )
    key = load_or_create(settings.secrets, SUPPRESSION)
    at = current_time(session)
    standing = [sample for sample in samples if sample.erased_at is None]
    names = [
        {"training_set_id": sample.training_set_id, "digest": digest, "sample_index": sample.index}
        for sample in standing
        for digest in suppression_digests(key, sample)
    ]
    if names:
        session.execute(insert(Suppression), names)
    for sample in standing:
        sample.key = sample.sha256 = sample.file_sha256 = sample.subject = None
        sample.erased_at = at
    return [sample.index for sample in samples]


def _set_is_in_use(session: Session, training_set_id: uuid.UUID) -> bool:
    return bool(
        session.scalar(select(exists().where(Job.training_set_id == training_set_id, Job.status == JobStatus.RUNNING)))
    )


def overwrite_pixels(settings: Settings, training_set: TrainingSet, indices: list[int]) -> None:
    """Zeros over the samples' pixels and digests. Raises artifacts.NotErased."""
    if training_set.folder is None or training_set.shape is None:
        raise ValueError(f"training set {training_set.id} has no files yet")
    channels, height, width = training_set.shape
    folder = settings.data_dir / training_set.folder
    artifacts.erase_rows(folder / "pixels.u8", channels * height * width, indices)
    artifacts.erase_rows(folder / "digests.bin", 32, indices)


def overwrite_signals(settings: Settings, models: Iterable[Model], indices: list[int]) -> list[str]:
    """Zeros over the samples' reference signals in these models; returns the files. Raises artifacts.NotErased."""
    files: list[str] = []
    for model in models:
        if model.folder is None or model.training is None:
            continue
        references = int(model.training["references"])
        for name, row_size in (("phi.f32", 4 * references), ("members.u8", references)):
            artifacts.erase_rows(settings.data_dir / model.folder / name, row_size, indices)
            files.append(name)
    return files
