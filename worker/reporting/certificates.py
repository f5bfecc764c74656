"""The erasure certificate of one request over all its models."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from models import holdings
from models.base import now
from models.evidence import sample_reference
from models.records import (
    AuditReport,
    Certificate,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Event,
    Model,
    ModelStatus,
    ModelVersion,
    NearDuplicate,
    Sample,
    Split,
    Suppression,
    TrainingSet,
    VersionStatus,
)
from models.release import released_version
from models.secrets import SAMPLE_REFERENCES, load_or_create
from models.session import Database
from models.settings import Settings
from worker import report
from worker.claim import Claim
from worker.report import wording
from worker.reporting import rows
from worker.reporting.audits import load_document
from worker.reporting.issuing import Written, head, issue, signing_key

MOST_CHECKPOINTS = 32  # that an envelope signs; the document holds the sha256 of each in any case
GONE = {
    "signals.erased": "reference signals",
    "signals.destroyed": "reference signals",
    "samples.erased": "pixels and names",
    "controls.erased": "controls",
    "adversarial_set.gone": "adversarial set",
    "version.destroyed": "checkpoint",
}

Json = dict[str, Any]


def write_certificate(database: Database, settings: Settings, taken: Claim, folder: Path) -> Written:
    """The signed certificate of the request that a certify job is about, into ``folder``."""
    key = signing_key(database, settings)
    issued_at = now()
    with database.read() as session:
        request = session.get_one(DeletionRequest, taken.job.about_id)
        facts = gather(session, settings, request)
        facts["request"] = rows.request(session, request, issued_at)
        facts["head"] = head(settings, key, "erasure_certificate", issued_at) | _edition(session, request)
    document = report.certificate(facts)
    versions = [erasure for erasure in document["erasures"] if erasure["version"] is not None]
    checkpoints = {
        f"version-{erasure['version_id']}.safetensors": erasure["version"]["sha256"]
        for erasure in versions[:MOST_CHECKPOINTS]
    }
    return issue(folder, key, document, checkpoints)


def gather(session: Session, settings: Settings, request: DeletionRequest) -> Json:
    """What the rows, and the signed reports that they name, know of a request that has ended."""
    key = load_or_create(settings.secrets, SAMPLE_REFERENCES)
    training_set = session.get_one(TrainingSet, request.training_set_id)
    samples, controls = (rows.samples_of(session, request, split) for split in (Split.TRAIN, Split.CONTROL))
    references = {index: sample_reference(key, training_set.id, index) for index in (*samples, *controls)}
    erasures = session.execute(
        select(Erasure, Model)
        .join(Model, Model.id == Erasure.model_id)
        .where(Erasure.request_id == request.id)
        .order_by(Model.name)
    ).all()
    own = {references[index] for index in samples}
    return {
        "outcome": "rejected" if request.rejected_at is not None else "completed",
        "scope": {
            "training_set": rows.training_set(training_set),
            "samples": [references[index] for index in samples],
            "controls": [references[index] for index in controls],
            "near_duplicates": _near_duplicates(session, key, training_set, references),
            "excluded_models": _excluded(session, request, {erasure.model_id for erasure, _ in erasures}, samples),
        },
        "erasures": [_line(session, settings, erasure, model, own, samples) for erasure, model in erasures],
        "destroyed": _destroyed(session, request, [tuple(pair) for pair in erasures], samples),
        "kept": _kept(session, settings, request, [tuple(pair) for pair in erasures], samples, controls),
        "trail": rows.trail(session, settings, _about(session, [tuple(pair) for pair in erasures], samples)),
    }


def _near_duplicates(session: Session, key: bytes, training_set: TrainingSet, own: dict[int, str]) -> list[Json]:
    """Images nearly the same as the request's ``own``, rows to references, that it does not name; closest first."""
    pairs: dict[tuple[int, int], float] = {}
    for column, other in ((NearDuplicate.first, NearDuplicate.second), (NearDuplicate.second, NearDuplicate.first)):
        for some in rows.some_at_once(own):
            found = select(column, other, NearDuplicate.distance).where(
                NearDuplicate.training_set_id == training_set.id, column.in_(some)
            )
            for sample, near, distance in session.execute(found):
                if near not in own:
                    pairs[sample, near] = distance
    now = _state(session, training_set, {near for _, near in pairs})
    listed: list[Json] = [
        {
            "sample": own[sample],
            "near": sample_reference(key, training_set.id, near),
            "distance": distance,
            "now": now[near],
        }
        for (sample, near), distance in pairs.items()
    ]
    return sorted(listed, key=lambda line: (line["distance"], line["sample"], line["near"]))


def _state(session: Session, training_set: TrainingSet, indices: Collection[int]) -> dict[int, str]:
    """What became of rows by now. That somebody asked to erase one, and waits, is not for this request to know."""
    states = {}
    for some in rows.some_at_once(indices):
        found = select(Sample.index, Sample.split, Sample.erased_at).where(
            Sample.training_set_id == training_set.id, Sample.index.in_(some)
        )
        for index, split, erased_at in session.execute(found):
            kept = "trained_on" if split is Split.TRAIN else "control"
            states[index] = kept if erased_at is None else "erased"
    return states


def _edition(session: Session, request: DeletionRequest) -> Json:
    earlier = session.scalars(
        select(Certificate).where(Certificate.request_id == request.id).order_by(Certificate.edition.desc()).limit(1)
    ).one_or_none()
    return {"edition": earlier.edition + 1, "supersedes": str(earlier.id)} if earlier else {}


def _line(
    session: Session, settings: Settings, erasure: Erasure, model: Model, own: set[str], samples: list[int]
) -> Json:
    version = _evidence(session, erasure, samples)
    nothing: Json = {"steps": [], "gate": None, "overrides": [], "other_requests_in_batch": None, "own": None}
    row = _newest_report(session, version) if version else None
    said = nothing
    if row is not None and row.envelope_path is not None:
        said = report.from_report(load_document(settings, row), str(erasure.request_id), own)
    decided = rows.overrides(session, model, version.number) if version else []
    return {
        "model": model.name,
        "status": erasure.status.value,
        "reason": erasure.reason,
        "version": rows.version(version) if version else None,
        "version_id": str(version.id) if version else None,
        "released_at": rows.at_or_none(version.released_at) if version else None,
        "finished_at": rows.at_or_none(erasure.finished_at),
        "verdict": version.verdict if version else None,
        "report": {"id": str(row.id), "edition": row.edition, "json_sha256": row.json_sha256} if row else None,
        "recipients": rows.recipients(session, _knowing(session, model, samples)),
        **said,
        "overrides": decided,
    }


def _evidence(session: Session, erasure: Erasure, samples: list[int]) -> ModelVersion | None:
    """The version that has forgotten the samples, or the first where its model was never trained on them.

    An erasure that came later names the version served at that time, which was made and audited for others.
    """
    if erasure.version_id is None:
        return None
    version = session.get_one(ModelVersion, erasure.version_id)
    ancestry = rows.by_ids(session, holdings.lineage(session, version))
    return next((made for made in ancestry if set(samples) <= holdings.forgotten(session, made)), version)


def _newest_report(session: Session, version: ModelVersion) -> AuditReport | None:
    return session.scalars(
        select(AuditReport)
        .where(AuditReport.version_id == version.id, AuditReport.kind == "audit_report")
        .order_by(AuditReport.edition.desc())
        .limit(1)
    ).one_or_none()


def _knowing(session: Session, model: Model, samples: list[int]) -> list[ModelVersion]:
    """Versions of a model, gone or not, that know some of the samples."""
    versions = session.scalars(
        select(ModelVersion).where(ModelVersion.model_id == model.id).order_by(ModelVersion.number)
    )
    return [made for made in versions if set(samples) - holdings.forgotten(session, made)]


def _destroyed(session: Session, request: DeletionRequest, erasures: list[Any], samples: list[int]) -> list[Json]:
    """Group 7: what the dispatcher saw gone, from its events, oldest first."""
    lines = [
        _gone(line, name=None)
        for line in rows.history(session, request)
        if line["event"] in ("samples.erased", "controls.erased")
    ]
    for erasure, model in erasures:
        of_erasure = and_(Event.record == "erasure", Event.record_id == str(erasure.id), Event.name == "signals.erased")
        numbers = [made.number for made in _knowing(session, model, samples)]
        of_versions = and_(
            Event.record == "model",
            Event.record_id == str(model.id),
            Event.name == "version.destroyed",
            Event.data["version"].as_integer().in_(numbers),
        )
        of_model = and_(Event.record == "model", Event.record_id == str(model.id), Event.name == "signals.destroyed")
        which = or_(of_erasure, of_versions, of_model)
        version = _evidence(session, erasure, samples)
        if version is not None:
            of_job = and_(
                Event.record == "job", Event.record_id == str(version.job_id), Event.name == "adversarial_set.gone"
            )
            which = or_(which, of_job)
        lines += [_gone(line, model.name) for line in rows.events(session, which)]
    return sorted(lines, key=lambda line: (str(line["at"]), line["position"] or math.inf))


def _gone(line: Json, name: str | None) -> Json:
    data = line["data"]
    return {
        "what": GONE[line["event"]],
        "model": name,
        "version": data.get("version"),
        "sha256": data.get("sha256"),
        "samples": data.get("samples"),
        "at": line["at"],
        "method": data["method"],
        "verified": bool(data.get("verified", False)),
        "position": line["position"],
    }


def _kept(
    session: Session,
    settings: Settings,
    request: DeletionRequest,
    erasures: list[Any],
    samples: list[int],
    controls: list[int],
) -> list[Json]:
    """What stays, how much of it, and why."""
    kept: list[Json] = []
    if request.rejected_at is not None:
        kept.append(_stays("samples and their files", len(samples) + len(controls), "the request was rejected"))
    elif request.samples_erased_at is None and request.samples_kept:
        told = request.samples_kept
        why = f"{told['reason']}: {', '.join(told['models'])}"
        kept.append(_stays("pixels and names of samples", int(told["samples"]), why))
    for _, model in erasures:
        known = [made for made in _knowing(session, model, samples) if made.status is not VersionStatus.DESTROYED]
        if known and request.rejected_at is None:
            why = f"{model.name} is {model.status.value}: none of them is served"
            kept.append(_stays("checkpoints that know the samples", len(known), why))
    ledger = _ledger(session, request, [*samples, *controls])
    if ledger:
        kept.append(_stays("keyed hashes in the ledger of erased content", ledger, wording.LEDGER_KEPT))
    months = f"{wording.REQUEST_KEPT}, for {settings.record_retention_months} months"
    kept.append(_stays("rows of the request, without names of samples once these are erased", 1, months))
    return kept


def _stays(what: str, count: int, reason: str) -> Json:
    return {"what": what, "count": count, "reason": reason}


def _ledger(session: Session, request: DeletionRequest, indices: list[int]) -> int:
    found = 0
    for some in rows.some_at_once(indices):
        found += (
            session.scalar(
                select(func.count())
                .select_from(Suppression)
                .where(Suppression.training_set_id == request.training_set_id, Suppression.sample_index.in_(some))
            )
            or 0
        )
    return found


def _excluded(session: Session, request: DeletionRequest, reached: set[Any], samples: list[int]) -> list[Json]:
    """Models of the set that have no erasure of this request, and why."""
    models = session.scalars(select(Model).where(Model.training_set_id == request.training_set_id).order_by(Model.name))
    return [
        {"model": model.name, "reason": _why_excluded(session, model, samples)}
        for model in models
        if model.id not in reached
    ]


def _why_excluded(session: Session, model: Model, samples: list[int]) -> str:
    if not samples:
        return "the request names controls only, which no model was trained on"
    if model.status in (ModelStatus.FAILED, ModelStatus.RETIRED):
        return f"it is {model.status.value}: no version of it is served"
    version = released_version(session, model)
    if version is not None and set(samples) <= holdings.forgotten(session, version):
        return "what it serves was never trained on the samples, or was made to forget them before"
    return "the request does not name it"


def _about(session: Session, erasures: list[Any], samples: list[int]) -> ColumnElement[bool]:
    """Events of the versions that did the forgetting: made, released, kept back."""
    which: ColumnElement[bool] = Event.id.is_(None)
    for erasure, model in erasures:
        version = _evidence(session, erasure, samples)
        if version is not None and erasure.status is ErasureStatus.DONE:
            of_version = and_(
                Event.record == "model",
                Event.record_id == str(model.id),
                Event.data["version"].as_integer() == version.number,
            )
            which = or_(which, of_version)
    return which
