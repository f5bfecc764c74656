"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def describe() -> dict[str, Any]:
    """Processor or GPU by its name, cores, threads and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def line(machine: dict[str, Any]) -> str:
    """The same as a sentence."""
    gpu = f"one {machine['gpu']}, " if machine["gpu"] else ""
    return (
        f"Machine: {gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} torch thread(s), torch "
        f"{machine['torch']}, Python {machine['python']}."
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [one.partition(":")[2].strip() for one in lines if one.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
