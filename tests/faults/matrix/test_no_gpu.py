"""Row 6: a worker that is to use a GPU and finds none gives the job back with an alert, and never takes the CPU."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from sqlalchemy import select

from models.base import now
from models.parameters import Network, Policy, Recipe
from models.records import Event, Job, JobKind, JobStatus, Model, ModelStatus, TrainingSet
from models.session import Database
from models.settings import Settings
from tests.worker.test_tasks import look, replaying
from worker import tasks
from worker.claim import claim
from worker.jobs import device
from worker.jobs.failures import Failed

pytestmark = pytest.mark.fault(6)


@pytest.fixture
def train_job(database: Database, settings: Settings, job: uuid.UUID) -> uuid.UUID:
    """A model to be trained on a registered set."""
    tasks.run_job(database, replaying(settings, "ok"), job, "here")
    with database.write() as session:
        made = session.scalars(select(TrainingSet)).one()
        model = Model(
            name="cnn",
            training_set_id=made.id,
            status=ModelStatus.TRAINING,
            network=Network(name="small-cnn").model_dump(mode="json"),
            recipe=Recipe().model_dump(mode="json"),
            policy=Policy().model_dump(mode="json"),
        )
        session.add(model)
        session.flush()
        queued = Job(kind=JobKind.TRAIN, model_id=model.id, training_set_id=made.id, seed=1)
        session.add(queued)
    return queued.id


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: benchmarks/gpu_faults.py hides it")
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_the_real_pipeline_gives_the_job_back_for_a_minute_and_raises_an_alert(
    database: Database, settings: Settings, train_job: uuid.UUID
) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logged:
        tasks.run_job(database, settings.model_copy(update={"device": "cuda"}), train_job, "gpu-1")
    waiting = look(database, train_job)
    assert (waiting.status, waiting.attempts, waiting.error) == (JobStatus.QUEUED, 0, None)
    assert waiting.not_before is not None
    assert timedelta(seconds=45) < waiting.not_before - now() <= timedelta(seconds=60)
    assert claim(database, settings, train_job, "gpu-1") is None, "it was claimed before its time"
    (alert,) = [line for line in logged if line.get("alert")]
    assert (alert["event"], alert["log_level"], alert["job"]) == ("worker.no_gpu", "error", str(train_job))
    with database.read() as session:
        told = session.scalars(select(Event.data).where(Event.name == "job.requeued")).one()
        assert (told["reason"], told["attempt_counted"]) == ("no_gpu", False)
        assert session.scalars(select(Model.status)).one() is ModelStatus.TRAINING
    assert list((settings.data_dir / "staging").iterdir()) == []


@pytest.mark.parametrize("setting", ["cuda", "auto"])
def test_a_gpu_that_is_listed_and_does_not_answer_is_none(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setenv("AMUN_DEVICE", setting)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", unavailable)
    with pytest.raises(Failed, match="does not answer") as refused:
        device.choose_device()
    assert refused.value.code == "no_gpu"


def test_a_worker_for_gpus_says_so_in_the_containers() -> None:
    compose = (Path(__file__).parents[3] / "docker-compose.yml").read_text()
    assert "AMUN_DEVICE: cuda" in compose
