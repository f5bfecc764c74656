"""What a worker's lines hold: the job, its kind and its token in each; of the pipeline's own output, nothing that names."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.log import configure_logging
from models.records import Job, JobKind, TrainingSet
from models.session import Database
from models.settings import Settings
from worker import tasks
from worker.supervise import nameless

CANARY = "canary-7f3a"
# Says the canary on both streams, and ends as its argument says.
CHILD = f"""
import json, sys
print("loading {CANARY}.png", flush=True)
print(json.dumps({{"phase": "load", "progress": 0.5}}), flush=True)
if sys.argv[1] == "raises":
    raise ValueError("{CANARY} is no image")
sys.exit("{CANARY}")
"""


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    return sqlite_settings


@pytest.fixture
def job(database: Database) -> uuid.UUID:
    with database.write() as session:
        made = TrainingSet(name="set", source={"kind": "folder", "path": CANARY}, controls={"share": 0.5})
        session.add(made)
        session.flush()
        queued = Job(kind=JobKind.REGISTER, training_set_id=made.id, seed=1)
        session.add(queued)
    return queued.id


def run(database: Database, settings: Settings, job: uuid.UUID, tmp_path: Path, mode: str) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    chosen = {"pipeline": f"{sys.executable} {child} {mode}", "heartbeat_seconds": 0.1, "import_root": tmp_path}
    configure_logging()
    tasks.run_job(database, settings.model_copy(update=chosen), job, "worker")


def lines(logged: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged.splitlines()]


@pytest.mark.parametrize("mode", ["raises", "exits"])
def test_every_line_of_a_job_names_the_job_and_nobody_else(
    mode: str, database: Database, settings: Settings, job: uuid.UUID, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / CANARY).mkdir()
    run(database, settings, job, tmp_path, mode)
    logged = capfd.readouterr().err
    assert CANARY not in logged
    told = lines(logged)
    assert {line["event"] for line in told} >= {
        "job.claimed",
        "pipeline.stray_output",
        "pipeline.ended",
        "pipeline.lost",
    }
    for line in told:
        assert (line["job"], line["kind"], line["token"]) == (str(job), "register", 1), line
    (lost,) = (line for line in told if line["event"] == "pipeline.lost")
    assert ("ValueError" in lost["tail"]) == (mode == "raises")


def test_the_heartbeats_lines_name_the_job_too(
    database: Database, settings: Settings, job: uuid.UUID, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CANARY).mkdir()

    def broken(_: object) -> bool:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("worker.supervise.Heartbeat._extend", broken)
    run(database, settings, job, tmp_path, "exits")
    failed = [line for line in lines(capfd.readouterr().err) if line["event"] == "heartbeat.failed"]
    assert failed
    assert all(line["job"] == str(job) and "message" not in line for line in failed)


def test_a_job_that_cannot_be_concluded_is_told_by_us_and_not_by_celery(
    database: Database, settings: Settings, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(tasks, "_database", lambda: database)
    monkeypatch.setattr(tasks, "run_job", broken)
    configure_logging()
    tasks.run(str(uuid.uuid4()))
    (line,) = lines(capfd.readouterr().err)
    assert (line["event"], line["error"]) == ("job.not_concluded", "RuntimeError")
    assert CANARY not in json.dumps([line.get("message"), line.get("causes")])


def test_of_standard_error_the_frames_are_kept_and_the_words_are_not() -> None:
    text = f"""/x/y.py:3: UserWarning: {CANARY}
Traceback (most recent call last):
  File "/opt/amun/worker/jobs/register.py", line 7, in register
    raise Failed("data_error", name)  # {CANARY}
worker.jobs.failures.Failed: {CANARY}.png is no image
torch.OutOfMemoryError: CUDA out of memory
Fatal Python error: Segmentation fault
"""
    assert nameless(text) == [
        '  File "/opt/amun/worker/jobs/register.py", line 7, in register',
        "worker.jobs.failures.Failed",
        "torch.OutOfMemoryError",
        "Fatal Python error",
    ]


@pytest.mark.parametrize(("revision", "said"), [("0001", "run `amun migrate`"), ("9999", "newer release")])
def test_a_worker_does_not_start_on_another_schema(
    revision: str, said: str, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    monkeypatch.setattr(tasks, "get_settings", lambda: settings)
    with pytest.raises(SystemExit):
        tasks._on_start()
    (line,) = lines(capfd.readouterr().err)
    assert line["event"] == "worker.wrong_schema"
    assert said in line["detail"]
