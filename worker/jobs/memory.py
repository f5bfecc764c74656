"""How much memory a job took at most."""

from __future__ import annotations

import resource
import sys

import torch


def peaks() -> dict[str, int]:
    """Bytes: of this process as the system counts them and, where it has used a GPU, of tensors as torch counts them.

    Torch's count is what a job of this size needs on another GPU; the driver's own share (some hundred MiB) comes on top.
    """
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process": resident if sys.platform == "darwin" else resident * 1024}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu"] = max(torch.cuda.max_memory_allocated(each) for each in range(torch.cuda.device_count()))
    return found
