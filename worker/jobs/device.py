"""The device a job runs on, and what is known of it."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from worker import plan as agreed
from worker.jobs.failures import Failed


def choose_device() -> torch.device:
    """The device that AMUN_DEVICE names: auto (a GPU where there is one), cuda or cpu; of several ranks a GPU each.

    Raises Failed(no_gpu), and so with auto where there are GPUs, but not for all ranks.
    """
    setting = os.environ.get("AMUN_DEVICE", "auto")
    if setting not in ("auto", "cuda", "cpu"):
        raise Failed("plan_invalid", f"AMUN_DEVICE is {setting!r}: choose auto, cuda or cpu")
    available = setting != "cpu" and torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise Failed("no_gpu", "AMUN_DEVICE is cuda and torch finds no GPU")
    ranks = local_ranks()
    if available and ranks > max(1, torch.cuda.device_count()):
        raise Failed("no_gpu", f"{ranks} ranks need a GPU each and torch finds {torch.cuda.device_count()}")
    if not available:
        return torch.device("cpu")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if ranks > 1 else torch.device("cuda")
    _answers(device)
    return device


def local_ranks() -> int:
    """How many processes torchrun has started on this machine for the job, this one among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _answers(device: torch.device) -> None:
    """Raises Failed(no_gpu) where the GPU that is listed does nothing: it fell off the bus, or another process has it."""
    try:
        torch.zeros(1, device=device).item()
    except torch.AcceleratorError as error:
        raise Failed("no_gpu", f"the GPU does not answer: {error}") from error


def references_together(device: torch.device) -> int:
    """How many reference models to train at once: as many as there are processors, or as fit beside the first model.

    To be asked once the model itself is trained: on a GPU its peak of memory tells what one training takes. There more
    than four gain little, because one training nearly fills it.
    """
    if device.type != "cuda":
        return max(1, len(os.sched_getaffinity(0)) // (torch.get_num_threads() * local_ranks()))
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(4, int(0.8 * free / max(1, torch.cuda.max_memory_allocated(device)))))


def environment(ranks: int = 1, devices: Sequence[str] = ()) -> agreed.Environment:
    """What this process runs on, as read now, and with how many others on which devices."""
    try:
        device = choose_device()
    except Failed:
        device = None
    return agreed.Environment(
        device="none" if device is None else device.type,
        hardware=_processor() if device is None else hardware_of(device),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        code_version=_code_version(),
        ranks=ranks,
        devices=list(devices),
    )


def hardware_of(device: torch.device) -> str:
    """Name of the GPU or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _code_version() -> str:
    """Digest of the sources that decide a job's outcome."""
    worker, digest = Path(__file__).parents[1], hashlib.sha256()
    sources = [*worker.glob("jobs/*.py"), *worker.glob("unlearning/*.py"), worker / "pipeline.py", worker / "plan.py"]
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"sha256:{digest.hexdigest()[:16]}"
