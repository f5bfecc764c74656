"""One job by two ranks of torchrun on the CPU: its result, and that none of them outlives the others or the worker."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from models.settings import Settings
from tests.worker.test_pipeline import ATTACK, AUDIT, LADDER, NETWORK, RECIPE, ROOT, UNLEARN, UTILITY
from worker import pipeline
from worker import plan as agreed
from worker.jobs import device
from worker.jobs.failures import Failed
from worker.jobs.ranks import Ranks
from worker.supervise import Stopped, run_child
from worker.unlearning import baselines, checkpoint, images, networks, references

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SPOILT = [*TORCHRUN, "-m", "tests.worker.spoilt_rank"]
END_SECONDS = 5.0


@pytest.fixture(autouse=True)
def on_one_thread_of_the_cpu(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("AMUN_DEVICE", "cpu")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """To forget 40 of 400 digits by a model of one epoch, with four references."""
    folder = tmp_path_factory.mktemp("set")
    pixels, labels, classes = images.digits()
    (folder / "pixels.u8").write_bytes(pixels[:800].tobytes())
    (folder / "labels.i32").write_bytes(labels[:800].astype(np.int32).tobytes())
    (folder / "digests.bin").write_bytes(b"".join(images.row_digest(row) for row in pixels[:800]))
    inputs, targets = torch.from_numpy(pixels[:800]).float() / 255, torch.from_numpy(labels[:800])
    recipe = dataclasses.asdict(dataclasses.replace(RECIPE, epochs=1))

    def build():
        return networks.build(NETWORK.name, shape=(1, 8, 8), classes=10, width=NETWORK.width)

    content = checkpoint.dump(baselines.retrain(build, inputs[:400], targets[:400], **recipe, seed=1))
    (folder / "base.safetensors").write_bytes(content)
    members = references.assign(800, 4, seed=2)
    phi = np.stack([one.phi for one in references.train(build, inputs, targets, members, **recipe, seed=3)])
    (folder / "phi.f32").write_bytes(phi.T.astype(np.float32).tobytes())
    (folder / "members.u8").write_bytes(members.T.astype(np.uint8).tobytes())
    files = {name: str(folder / name) for name in ("pixels.u8", "labels.i32", "digests.bin", "phi.f32", "members.u8")}
    return agreed.UnlearnPlan(
        data=agreed.DataFiles(
            files["pixels.u8"], files["labels.i32"], files["digests.bin"], rows=800, shape=(1, 8, 8), classes=classes
        ),
        network=NETWORK,
        recipe=RECIPE,
        base=agreed.CheckpointFile(str(folder / "base.safetensors"), hashlib.sha256(content).hexdigest()),
        signals=agreed.SignalFiles(files["phi.f32"], files["members.u8"], references=4),
        forget=list(range(40)),
        retain=list(range(40, 400)),
        calibration=list(range(400, 800, 2)),
        audit_controls=list(range(401, 800, 2)),
        requests=[list(range(40))],
        attack=ATTACK,
        unlearn=dataclasses.replace(UNLEARN, augment=True, saliency_share=0.5),
        audit=AUDIT,
        utility=UTILITY,
        ladder=LADDER,
        compare_retrained=False,
        seed=6,
        threads=1,
    )


@pytest.fixture
def folder(plan, tmp_path):
    (tmp_path / "plan.json").write_text(agreed.dump(plan))
    return tmp_path


def supervised(command, folder, reported, shutting_down=lambda: False):
    beat = SimpleNamespace(fenced=threading.Event(), cancelled=threading.Event(), report=reported.append)
    return run_child(command, folder, Settings(device="cpu"), beat, shutting_down)


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def ranks_of(folder):
    """Processes that do this folder's job, torchrun not among them."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if str(folder) in (process.info["cmdline"] or [])
        and "torch.distributed.run" not in process.info["cmdline"]
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_ranks_make_the_model_and_the_verdict_that_one_process_makes_and_halve_the_batch_together(
    plan, folder, tmp_path_factory, monkeypatch
):
    monkeypatch.setenv("SPOILT", "out_of_memory")
    reported, alone = [], tmp_path_factory.mktemp("alone")
    (alone / "plan.json").write_text(agreed.dump(plan))
    ended = supervised(SPOILT, folder, reported)
    assert (ended.returncode, ended.stopped) == (0, None), (folder / "pipeline.log").read_text()
    result = agreed.load_result(folder / "result.json")
    with (folder / "alone.txt").open("w") as stream:
        expected = pipeline.run(alone / "plan.json", alone, stream, halve=True)
    assert result.batches_halved
    assert (result.environment.ranks, len(result.environment.devices)) == (2, 2)
    for name in ("verdict", "forget", "detectable_before"):
        assert result.outcome[name] == expected.outcome[name]
    for one, other in zip(*(found.outcome["after"]["audit"]["estimates"] for found in (result, expected)), strict=True):
        assert one["estimate"] == pytest.approx(other["estimate"], abs=0.01)
    assert [file.name for file in result.files] == [file.name for file in expected.files]
    weights = [load_file(where / "checkpoint.safetensors") for where in (folder, alone)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    assert reported[-1].progress == 1.0
    assert not ranks_of(folder)


@pytest.mark.parametrize(
    ("how", "code", "detail"), [("breaks", "internal", "rank 1: RuntimeError: it is spoilt"), ("is_killed", None, "")]
)
def test_what_stops_one_rank_ends_the_job(folder, monkeypatch, how, code, detail):
    monkeypatch.setenv("SPOILT", how)
    ended = supervised(SPOILT, folder, [])
    assert ended.returncode == 1
    result = folder / "result.json"
    # A rank that was killed has said nothing: the attempt is lost, as where the only process is killed.
    assert result.exists() == (code is not None)
    if code is not None:
        error = agreed.load_result(result).error
        assert (error.code, error.detail) == (code, detail)
    until(lambda: not ranks_of(folder), END_SECONDS)


@pytest.fixture
def waiting(folder, monkeypatch):
    """Starts two ranks, the first of which waits in a collective for the second."""
    monkeypatch.setenv("SPOILT", "sleeps")
    started = []

    def start(command):
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True))
        for line in started[-1].stdout:
            if '"attack"' in line:
                break
        time.sleep(0.5)  # to reach the collective
        assert len(ranks_of(folder)) == 2
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
    for process in ranks_of(folder):
        process.kill()


def test_no_rank_outlives_a_worker_that_is_killed(folder, waiting):
    code = (
        "import threading; from pathlib import Path; from types import SimpleNamespace;"
        "from models.settings import Settings; from worker.supervise import run_child;"
        "beat = SimpleNamespace(fenced=threading.Event(), cancelled=threading.Event(),"
        " report=lambda progress: print(f'\"{progress.phase}\"', flush=True));"
        f"run_child({SPOILT!r}, Path({str(folder)!r}), Settings(device='cpu'), beat, lambda: False)"
    )
    worker = waiting([sys.executable, "-c", code])
    worker.send_signal(signal.SIGKILL)
    until(lambda: not ranks_of(folder), END_SECONDS)


def test_no_rank_outlives_a_torchrun_that_is_killed(folder, waiting):
    torchrun = waiting([*SPOILT, str(folder / "plan.json"), str(folder)])
    os.killpg(torchrun.pid, signal.SIGKILL)
    until(lambda: not ranks_of(folder), END_SECONDS)
    assert not (folder / "result.json").exists()


def test_stopping_a_worker_stops_the_ranks(folder, monkeypatch):
    monkeypatch.setenv("SPOILT", "sleeps")
    reported = []
    ended = supervised(SPOILT, folder, reported, lambda: any(one.phase == "attack" for one in reported))
    assert ended.stopped is Stopped.SHUTDOWN
    until(lambda: not ranks_of(folder), END_SECONDS)


@pytest.mark.parametrize(("setting", "gpus"), [("cuda", 0), ("cuda", 1), ("auto", 1)])
def test_ranks_without_a_gpu_each_are_refused(monkeypatch, setting, gpus):
    monkeypatch.setenv("AMUN_DEVICE", setting)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(Failed) as refused:
        device.choose_device()
    assert refused.value.code == "no_gpu"


def test_each_rank_has_the_gpu_of_its_number(monkeypatch):
    for name, value in {"AMUN_DEVICE": "cuda", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 2)
    asked = []
    monkeypatch.setattr(device, "_answers", asked.append)  # there is no GPU that could
    assert device.choose_device() == torch.device("cuda", 1) == asked[0]


def test_a_process_that_torchrun_did_not_start_is_alone():
    assert Ranks.from_environment({}) == Ranks(0, 1, 1)
    assert Ranks.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}) == Ranks(3, 4, 2)
