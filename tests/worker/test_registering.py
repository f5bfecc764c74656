"""What a finished register job writes: subjects, near-duplicates, and neither for content that was refused."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from models import artifacts
from models.evidence import content_digest
from models.records import Job, JobKind, NearDuplicate, Sample, Suppression, TrainingSet
from models.secrets import SUPPRESSION, load_or_create
from models.session import Database
from models.settings import Settings
from worker import finish
from worker.claim import claim
from worker.materials import CannotPlan
from worker.plan import Environment, OutputFile, RegisterPlan, Result
from worker.plans import make_plan

ROWS = 6
PAIRS = [{"first": 0, "second": 5, "distance": 0.01}, {"first": 1, "second": 2, "distance": 0.02}]
FOUND = {"method": "thumbnails", "searched": 6, "threshold": 0.05, "median_distance": 0.2, "pairs": 2}


def finished(database: Database, settings: Settings, *, searched: bool = True) -> uuid.UUID:
    """A registered set of six images, written as the pipeline writes them."""
    with database.write() as session:
        made = TrainingSet(name="set", source={"kind": "builtin", "path": "digits"}, controls={"share": 0.5})
        session.add(made)
        session.flush()
        job = Job(kind=JobKind.REGISTER, training_set_id=made.id, seed=1)
        session.add(job)
    taken = claim(database, settings, job.id, "here")
    assert taken is not None
    folder = artifacts.staging(settings.data_dir, job.id, taken.token)
    folder.mkdir(parents=True)
    lines = [
        {
            "index": row,
            "key": f"train/{row}",
            "sha256": hashlib.sha256(bytes([row]) * 4).hexdigest(),
            "file_sha256": None,
            "label": 0,
            "split": "train",
            "subject": f"person {row}" if row % 2 else None,
        }
        for row in range(ROWS)
    ]
    contents = {
        "pixels.u8": b"".join(bytes([row]) * 4 for row in range(ROWS)),
        "labels.i32": bytes(4 * ROWS),
        "digests.bin": b"".join(bytes.fromhex(str(line["sha256"])) for line in lines),
        "manifest.jsonl": _lines(lines),
        "near_duplicates.jsonl": _lines(PAIRS),
    }
    outcome: dict[str, Any] = {"rows": ROWS, "shape": [1, 2, 2], "classes": ["a"], "manifest_sha256": "0" * 64}
    if searched:
        outcome["near_duplicates"] = FOUND
    else:
        del contents["near_duplicates.jsonl"]
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = [OutputFile(name, hashlib.sha256(content).hexdigest(), len(content)) for name, content in contents.items()]
    environment = Environment("cpu", "here", 1, "3", "2", "1")
    result = Result("register", "succeeded", {}, environment, files, outcome=outcome)
    finish.finish(database, settings, taken, folder, result)
    return made.id


def _lines(entries: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def pairs(database: Database) -> list[tuple[int, int, float]]:
    with database.read() as session:
        found = session.scalars(select(NearDuplicate).order_by(NearDuplicate.first))
        return [(pair.first, pair.second, pair.distance) for pair in found]


def test_pairs_and_subjects_become_rows_and_no_file_with_either_is_kept(database: Database, settings: Settings) -> None:
    made = finished(database, settings)
    assert pairs(database) == [(0, 5, 0.01), (1, 2, 0.02)]
    with database.read() as session:
        training_set = session.get_one(TrainingSet, made)
        subjects = list(session.scalars(select(Sample.subject).order_by(Sample.index)))
    assert training_set.near_duplicates == FOUND
    assert subjects == [None, "person 1", None, "person 3", None, "person 5"]
    assert training_set.folder is not None
    names = {path.name for path in (settings.data_dir / training_set.folder).iterdir()}
    assert names == {"pixels.u8", "labels.i32", "digests.bin"}


def test_content_that_was_refused_has_no_subject_and_no_pair(database: Database, settings: Settings) -> None:
    key = load_or_create(settings.secrets, SUPPRESSION)
    with database.write() as session:
        other = TrainingSet(name="other", source={}, controls={})
        session.add(other)
        session.flush()
        erased = content_digest(key, "sha256", hashlib.sha256(bytes([5]) * 4).hexdigest())
        session.add(Suppression(training_set_id=other.id, digest=erased, sample_index=0))
    made = finished(database, settings)
    assert pairs(database) == [(1, 2, 0.02)]
    with database.read() as session:
        training_set = session.get_one(TrainingSet, made)
        refused = session.get_one(Sample, (made, 5))
    assert training_set.near_duplicates == FOUND | {"pairs": 1}
    assert (refused.subject, refused.key, refused.erased_at is not None) == (None, None, True)


def test_a_result_from_before_pairs_were_searched_for_says_that_they_were_not(
    database: Database, settings: Settings
) -> None:
    made = finished(database, settings, searched=False)
    with database.read() as session:
        assert session.get_one(TrainingSet, made).near_duplicates is None
    assert pairs(database) == []


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "folder", "path": "faces", "subjects": "subjects.csv"},
        {"kind": "arrays", "path": "faces.npz"},
        {"kind": "torchvision", "path": "data/torch", "dataset": "CIFAR10"},
    ],
)
def test_a_path_is_below_the_import_root_and_the_rest_of_a_source_goes_along(
    source: dict[str, str], database: Database, settings: Settings, tmp_path: Path
) -> None:
    with database.write() as session:
        made = TrainingSet(name="set", source=source, controls={"folder": "test"})
        session.add(made)
        session.flush()
        job = Job(kind=JobKind.REGISTER, training_set_id=made.id, seed=1)
        session.add(job)
    with database.read() as session:
        plan = make_plan(session, settings.model_copy(update={"import_root": tmp_path}), job, tmp_path)
        with pytest.raises(CannotPlan, match="AMUN_IMPORT_ROOT"):
            make_plan(session, settings, job, tmp_path)
    assert isinstance(plan, RegisterPlan)
    assert plan.source.path == str(tmp_path.resolve() / source["path"])
    assert (plan.source.dataset, plan.source.subjects) == (source.get("dataset"), source.get("subjects"))
