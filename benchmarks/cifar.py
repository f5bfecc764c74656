"""CIFAR-10 from class folders of images, as two tensors a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.unlearning import images, training

CLASSES = 10


def load(folder: Path, split: str, count: int | None, *, seed: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """``count`` images of ``folder``/``split``/class/file drawn by ``seed`` (None: all), in [0, 1], and their labels.

    Args:
        folder: holds ``train`` and ``test``, each with ten class folders of PNG or JPEG files.
        side: 32, or 16 or 8 for means of 2 x 2 or 4 x 4 pixels.
    """
    keys = [entry for entry in images.entries(folder.resolve(), splits=True) if entry.top == split]
    names = sorted({entry.label for entry in keys})
    chosen = np.random.default_rng(seed).permutation(len(keys))[:count]
    pixels = np.stack([pixels for pixels, _ in images.decode_all(folder, [keys[row].key for row in chosen])])
    inputs = F.avg_pool2d(torch.from_numpy(pixels).float() / 255, 32 // side)
    return training.laid_out(inputs), torch.tensor([names.index(keys[row].label) for row in chosen])
