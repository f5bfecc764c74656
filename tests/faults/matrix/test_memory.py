"""Rows 4 and 5: memory that runs out, of the machine and of the device."""

from __future__ import annotations

import copy
import sys
import uuid
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.records import Event, JobStatus
from models.session import Database
from models.settings import Settings
from tests.worker.test_tasks import look
from worker import pipeline, tasks
from worker.unlearning import finetuning, training

RECIPE = {
    "epochs": 2,
    "batch_size": 10,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-3,
    "schedule": "constant",
}
DIES = {
    "segfault": ("import ctypes; ctypes.string_at(0)", "signal 11"),
    "killed for its memory": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
}


@pytest.mark.fault(4)
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize("death", list(DIES))
def test_a_child_that_dies_is_counted_each_time_and_fails_the_third_time_with_the_signal(
    death: str, database: Database, settings: Settings, job: uuid.UUID
) -> None:
    code, signal = DIES[death]
    dying = settings.model_copy(update={"pipeline": f"{sys.executable} -c '{code}'"})
    for attempt in (1, 2):
        tasks.run_job(database, dying, job, "here")
        assert (look(database, job).status, look(database, job).attempts) == (JobStatus.QUEUED, attempt)
    tasks.run_job(database, dying, job, "here")
    ended = look(database, job)
    assert (ended.status, ended.attempts) == (JobStatus.FAILED, 3)
    assert ended.error is not None
    assert (ended.error["code"], signal in ended.error["detail"]) == ("worker_lost", True)
    with database.read() as session:
        counted = [event.data["attempt_counted"] for event in session.query(Event).filter_by(name="job.requeued")]
    assert counted == [True, True]


def small(normalised: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6) if normalised else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), norm, nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """47 of them: the last of their batches of 10 is an odd one."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(47, 1, 4, 4, dtype=torch.float64, generator=generator), torch.randint(
        3, (47,), generator=generator
    )


def trained(network: nn.Module, images: tuple[Tensor, Tensor], accumulate: int) -> list[Tensor]:
    made = training.train(copy.deepcopy(network), *images, **RECIPE, augment=True, seed=3, accumulate=accumulate)
    return [value.detach() for value in made.state_dict().values()]


@pytest.mark.fault(5)
@pytest.mark.parametrize("accumulate", [2, 4])
def test_gradients_of_parts_make_the_step_of_the_whole_batch(images: tuple[Tensor, Tensor], accumulate: int) -> None:
    network = small(normalised=False)
    for whole, parts in zip(trained(network, images, 1), trained(network, images, accumulate), strict=True):
        assert torch.allclose(whole, parts, rtol=1e-12, atol=1e-12)


@pytest.mark.fault(5)
def test_batch_norm_alone_sees_the_parts(images: tuple[Tensor, Tensor]) -> None:
    network = small(normalised=True)
    whole, parts = trained(network, images, 1), trained(network, images, 2)
    assert not all(torch.allclose(one, two, atol=1e-3) for one, two in zip(whole, parts, strict=True))


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    "options", [{}, {"ascend": True}, {"penalty": lambda network, epoch: network[1].weight.abs().sum()}]
)
def test_fine_tuning_by_parts_weighs_and_punishes_as_by_whole_batches(
    images: tuple[Tensor, Tensor], options: dict[str, Any]
) -> None:
    network, half = small(normalised=False), len(images[0]) // 2
    weights = torch.linspace(0, 2, half)
    sets = [
        finetuning.Part(images[0][:half], images[1][:half], movable=False, weights=weights),
        finetuning.Part(images[0][half:], images[1][half:], movable=True),
    ]
    made = [
        finetuning.finetune(
            network, sets, **RECIPE | {"learning_rate": 0.01}, augment=True, seed=3, accumulate=accumulate, **options
        )
        for accumulate in (1, 2)
    ]
    for whole, parts in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.allclose(whole, parts, rtol=1e-12, atol=1e-12)


@pytest.mark.fault(5)
def test_parts_cover_a_batch_and_leave_batch_norm_two_images_each() -> None:
    for count in range(1, 40):
        for accumulate in (1, 2, 3, 8):
            sizes = [part.stop - part.start for part in training.parts(count, accumulate)]
            assert sum(sizes) == count
            assert len(sizes) <= accumulate
            assert min(sizes) >= min(2, count)
            assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match="0 parts"):
        training.parts(5, 0)


class Device(nn.Module):
    """Runs out of memory for more than so many images."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        self.holds, self.passes = holds, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        self.passes.append(len(images))
        return images.flatten(1)


@pytest.mark.fault(5)
def test_an_evaluation_that_does_not_fit_takes_fewer_images_at_a_time(images: tuple[Tensor, Tensor]) -> None:
    device = Device(holds=6)
    assert torch.equal(training.infer(device, images[0], batch_size=20), images[0].flatten(1).float())
    assert sum(device.passes) == len(images[0])
    assert device.training, "the network's mode was not restored"
    with pytest.raises(torch.OutOfMemoryError):
        training.infer(Device(holds=0), images[0])


@pytest.fixture
def lost_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(pipeline, "perform", perform)


@pytest.mark.fault(4)
@pytest.mark.usefixtures("lost_gpu")
def test_a_gpu_that_is_lost_leaves_no_result_so_that_another_attempt_is_made(tmp_path: Any) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"kind":"register","source":{"kind":"builtin","path":"digits"},"controls":{"share":0.5},"seed":1}')
    with pytest.raises(torch.AcceleratorError):
        pipeline.main([str(plan), str(tmp_path)])
    assert not (tmp_path / "result.json").exists()
