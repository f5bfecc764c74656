"""A registered training set: its samples as rows, without the content that was erased elsewhere."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from models import artifacts
from models.base import now
from models.moves import advance
from models.records import Job, NearDuplicate, Sample, Split, TrainingSet, TrainingSetStatus, record_event
from models.secrets import SUPPRESSION, load_or_create
from models.session import Database
from models.settings import Settings
from models.suppression import suppressed
from worker.commits.finished import Finished

ROWS_AT_ONCE = 5000
MANIFEST = "manifest.jsonl"
REFUSED = "suppressed.json"
NEAR_DUPLICATES = "near_duplicates.jsonl"


def suppress(database: Database, settings: Settings, job: Job, folder: Path, outcome: dict[str, Any]) -> None:
    """Overwrite, before they are published, rows whose content was erased before; their indices go into ``folder``."""
    channels, height, width = outcome["shape"]
    with (folder / MANIFEST).open(encoding="utf-8") as manifest:
        samples = [Sample(**row) for row in _sample_rows(job.training_set_id, manifest)]
    with database.read() as session:
        refused = sorted(suppressed(session, load_or_create(settings.secrets, SUPPRESSION), samples))
    artifacts.erase_rows(folder / "pixels.u8", channels * height * width, refused)
    artifacts.erase_rows(folder / "digests.bin", 32, refused)
    (folder / REFUSED).write_text(json.dumps(refused))


def register(session: Session, finished: Finished) -> None:
    taken, outcome = finished.taken, finished.outcome
    training_set_id = taken.job.training_set_id
    refused = set(json.loads((finished.folder / REFUSED).read_text()))
    with (finished.folder / MANIFEST).open(encoding="utf-8") as manifest:
        samples = (
            _tombstone(row) if row["index"] in refused else row for row in _sample_rows(training_set_id, manifest)
        )
        while rows := list(islice(samples, ROWS_AT_ONCE)):
            session.execute(insert(Sample), rows)
    near_duplicates = _near_duplicates(session, finished, refused)
    advance(
        session,
        TrainingSet,
        TrainingSet.id == training_set_id,
        TrainingSetStatus.READY,
        shape=list(outcome["shape"]),
        classes=list(outcome["classes"]),
        rows=outcome["rows"],
        manifest_sha256=outcome["manifest_sha256"],
        folder=finished.relative,
        suppressed=len(refused),
        near_duplicates=near_duplicates,
    )
    record_event(
        session,
        "training_set.ready",
        "training_set",
        training_set_id,
        taken.actor,
        rows=outcome["rows"],
        manifest_sha256=outcome["manifest_sha256"],
        suppressed=len(refused),
    )


def _sample_rows(training_set_id: uuid.UUID | None, lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        entry = json.loads(line)
        yield {
            "training_set_id": training_set_id,
            "index": entry["index"],
            "key": entry["key"],
            "sha256": entry["sha256"],
            "file_sha256": entry["file_sha256"],
            "label": entry["label"],
            "split": Split(entry["split"]),
            "subject": entry.get("subject"),
            "erased_at": None,
        }


def _tombstone(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"key": None, "sha256": None, "file_sha256": None, "subject": None, "erased_at": now()}


def _near_duplicates(session: Session, finished: Finished, refused: set[int]) -> dict[str, Any] | None:
    """Pairs as rows, but for those of refused content; returns how they were found, or None where nobody searched."""
    found: dict[str, Any] | None = finished.outcome.get("near_duplicates")
    if found is None:
        return None
    kept = 0
    with (finished.folder / NEAR_DUPLICATES).open(encoding="utf-8") as lines:
        pairs = (json.loads(line) for line in lines)
        rows = (
            {"training_set_id": finished.taken.job.training_set_id, **pair}
            for pair in pairs
            if refused.isdisjoint((pair["first"], pair["second"]))
        )
        while some := list(islice(rows, ROWS_AT_ONCE)):
            session.execute(insert(NearDuplicate), some)
            kept += len(some)
    return found | {"pairs": kept}
