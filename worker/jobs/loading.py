"""Data, signals and checkpoints, each checked against its plan before it is used."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker import plan as agreed
from worker.jobs.failures import Failed, refused_as
from worker.unlearning import checkpoint, images, membership, networks, training

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Data:
    """Chosen rows of a training set, on the device."""

    inputs: Tensor  # float32 in [0, 1], N x C x H x W
    labels: Tensor  # int64, N
    digests: NDArray[np.uint8]  # N x 32

    def subset(self, rows: Rows) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(rows).to(self.inputs.device)
        return self.inputs[chosen], self.labels[chosen]


def load_data(files: agreed.DataFiles, rows: Rows, device: torch.device) -> Data:
    """The images of ``rows``, each checked against its recorded digest. Raises Failed(dataset_changed)."""
    with refused_as("dataset_changed", images.DataError):
        pixels = images.read_rows(Path(files.pixels), rows, count=files.rows, shape=files.shape, dtype="uint8")
        labels = images.read_rows(Path(files.labels), rows, count=files.rows, shape=(), dtype="int32")
        digests = images.read_rows(
            Path(files.digests), rows, count=files.rows, shape=(images.DIGEST_BYTES,), dtype="uint8"
        )
    changed = images.changed_row(pixels, digests, rows)
    if changed is not None:
        raise Failed("dataset_changed", f"row {changed} no longer has the pixels that were registered")
    if labels.min() < 0 or labels.max() >= len(files.classes):
        raise Failed("dataset_changed", "a label is not that of a class")
    return Data(
        inputs=training.laid_out(torch.from_numpy(pixels).to(device).float().div_(255)),
        labels=torch.from_numpy(labels).to(device, torch.int64),
        digests=digests,
    )


def load_network(data: agreed.DataFiles, network: agreed.NetworkSpec, file: agreed.CheckpointFile) -> nn.Module:
    """A stored or uploaded model, from the very bytes that were hashed. Raises Failed(checkpoint_invalid)."""
    with refused_as("checkpoint_invalid", OSError):
        content = Path(file.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise Failed("checkpoint_invalid", "the checkpoint no longer has the sha256 that was recorded")
    with refused_as("checkpoint_invalid", checkpoint.InvalidCheckpoint):
        return checkpoint.restore(check_network(data, network), content)


def load_signals(plan: agreed.UnlearnPlan | agreed.AuditPlan, rows: Rows) -> membership.ReferenceSignals:
    """Reference signals of ``rows``. Raises Failed(dataset_changed)."""
    files, shape = plan.signals, (plan.signals.references,)
    with refused_as("dataset_changed", images.DataError, ValueError):
        phi = images.read_rows(Path(files.phi), rows, count=plan.data.rows, shape=shape, dtype="float32")
        members = images.read_rows(Path(files.members), rows, count=plan.data.rows, shape=shape, dtype="uint8")
        return membership.ReferenceSignals(phi.T, members.T)


def check_data(files: agreed.DataFiles) -> None:
    """Raises Failed(plan_invalid) for a training set no model can be trained on."""
    if files.rows < 1 or len(files.shape) != 3 or min(files.shape) < 1 or len(files.classes) < 2:
        raise Failed("plan_invalid", f"{files.rows} images of shape {files.shape} in {len(files.classes)} classes")


def check_rows(count: int, needed: Sequence[str], **groups: list[int]) -> None:
    """Raises Failed(plan_invalid) for groups of rows that overlap, lie outside the set or are empty but needed."""
    everything = [row for group in groups.values() for row in group]
    for name in needed:
        if not groups[name]:
            raise Failed("plan_invalid", f"the {name} set is empty")
    if len(set(everything)) < len(everything):
        raise Failed("plan_invalid", f"a row is named twice among {', '.join(groups)}")
    if everything and (min(everything) < 0 or max(everything) >= count):
        raise Failed("plan_invalid", f"a row lies outside 0..{count - 1}")


def check_controls_untouched(data: Data, trained: Rows, controls: Rows) -> None:
    """Controls were never trained on, not as copies either."""
    seen = {digest.tobytes() for digest in data.digests[trained]}
    if any(digest.tobytes() in seen for digest in data.digests[controls]):
        raise Failed("plan_invalid", "a control image is the exact copy of a training image")


def check_network(files: agreed.DataFiles, network: agreed.NetworkSpec) -> nn.Module:
    """A new network as the plan describes it. Raises Failed(plan_invalid)."""
    with refused_as("plan_invalid", ValueError):
        return build(files, network)


def build(files: agreed.DataFiles, network: agreed.NetworkSpec) -> nn.Module:
    return networks.build(network.name, shape=files.shape, classes=len(files.classes), width=network.width)
