"""A ResNet-18 with a Lipschitz bound: a small change of the image changes the logits by little, whatever the weights.

The AMUN paper (arXiv 2503.00917, section 6) unlearns such networks too: near a decision boundary that moves slowly, the
nearest adversarial examples reach less far into what shall be kept.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

LOGIT_SCALE = 50.0
STAGES = (64, 128, 256, 512)
GAIN_OF_NORMALIZE = 4.0  # pixels in [0, 1] are brought to about unit variance first
LIPSCHITZ_BOUND = GAIN_OF_NORMALIZE * LOGIT_SCALE
"""In evaluation, the l2 distance of two images' logits is at most this times that of their pixels.

The norms are measured, not proven: after trainings on CIFAR-10 none exceeded 1 by more than 0.002.
"""
SETTLING = 50  # steps


class BoundedConv2d(nn.Conv2d):
    """A convolution whose operator norm, at its input's size with its padding and stride, is held at 1.

    The norm is that of the linear map on whole images (not of the kernel as a matrix, which is no bound), followed by
    one step of power iteration in each training pass (Miyato et al., arXiv 1802.05957; for convolutions Farnia et al.,
    arXiv 1811.07457). It lags behind the weights, so the norm is measured anew where training turns into evaluation.
    Evaluation itself changes nothing, nor does it change what a further training does.
    """

    iterate: Tensor
    norm: Tensor

    def __init__(self, channels: int, features: int, kernel: int, *, side: tuple[int, int], stride: int = 1) -> None:
        super().__init__(channels, features, kernel, stride=stride, padding=kernel // 2, bias=False)
        # Near the identity all singular values are near 1 and the branches add up; random ones would fade in 17 layers.
        noise = torch.randn_like(self.weight) * (features * kernel**2) ** -0.5
        nn.init.dirac_(self.weight)
        with torch.no_grad():
            self.weight += 0.3 * noise
        self.register_buffer("iterate", _unit(torch.randn(1, channels, *side)))
        self.register_buffer("norm", torch.ones(()))
        self.cropped = tuple((length + 2 * (kernel // 2) - kernel) % stride for length in side)
        self.unsettled = False  # whether the weights may have moved since the norm was measured
        for _ in range(20):
            self._iterate()
        self.norm.copy_(self.measured_norm(SETTLING))

    def train(self, mode: bool = True) -> Self:
        """Before evaluation the norm is measured well; the iterate is left, so that training goes on as if without it."""
        if self.unsettled and not mode:
            self.norm.copy_(self.measured_norm(SETTLING))
            self.unsettled = False
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        norm = self.norm
        if self.training:
            self.unsettled = True
            self._iterate()
            norm = self._linear(self.iterate.clone(), self.weight).norm()  # once more, with its gradient
        return self._linear(images, self.weight / norm)

    @torch.no_grad()
    def _iterate(self) -> None:
        self.iterate.copy_(_unit(self._map_and_back(self.iterate)))

    @torch.no_grad()
    def measured_norm(self, steps: int) -> Tensor:
        """The largest singular value by Lanczos's method (Golub and Van Loan, Matrix Computations, section 10.1).

        In so few steps power iteration stays behind where the largest values are close, as they are here. Rounding that
        takes orthogonality from the vectors repeats values, but leaves the largest one right.
        """
        noise = torch.randn(self.iterate.shape, generator=torch.Generator().manual_seed(0)).to(self.iterate.device)
        current, before = _unit(self.iterate + _unit(noise)), torch.zeros_like(self.iterate)
        diagonal, beside = [], [torch.zeros((), device=noise.device)]
        for _ in range(steps):
            ahead = self._map_and_back(current) - beside[-1] * before
            diagonal.append((ahead * current).sum())
            ahead = ahead - diagonal[-1] * current
            beside.append(ahead.norm())
            current, before = _unit(ahead), current
        above = torch.diag(torch.stack(beside[1:-1]), 1)
        largest: Tensor = torch.linalg.eigvalsh(torch.diag(torch.stack(diagonal)) + above + above.T)[-1]
        return largest.clamp(min=0).sqrt()

    def _linear(self, images: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(images, weight, None, self.stride, self.padding)

    def _map_and_back(self, image: Tensor) -> Tensor:
        stretched = self._linear(image, self.weight)
        padding = self.weight.shape[2] // 2
        return F.conv_transpose2d(stretched, self.weight, None, self.stride, padding, self.cropped)


def _unit(image: Tensor) -> Tensor:
    unit: Tensor = image / image.norm().clamp(min=1e-12)
    return unit


def sorted_pairs(features: Tensor) -> Tensor:
    """The larger and the smaller of each pair of channels (Anil et al., arXiv 1811.05381): keeps norms, as ReLU does not."""
    first, second = features.chunk(2, dim=1)
    return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


class AveragedBlock(nn.Module):
    """Two convolutions averaged with the shortcut, so that the block's norm stays at most 1."""

    def __init__(self, channels: int, features: int, *, side: tuple[int, int], stride: int) -> None:
        super().__init__()
        smaller = _strided(side, stride)
        self.first = BoundedConv2d(channels, features, 3, side=side, stride=stride)
        self.second = BoundedConv2d(features, features, 3, side=smaller)
        same = stride == 1 and channels == features
        self.shortcut = nn.Identity() if same else BoundedConv2d(channels, features, 1, side=side, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        return sorted_pairs((self.shortcut(images) + self.second(sorted_pairs(self.first(images)))) / 2)


class LipschitzResNet18(nn.Module):
    """He et al.'s ResNet-18 with the CIFAR stem and no batch norm; every linear map has norm 1.

    Mean pooling over P places has norm P ** -1/2 and is scaled back to 1. Of the learning rates 0.02, 0.1 and 0.3 the
    lowest trained it best in six epochs on 2,000 images of CIFAR-10.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, *size = shape
        side = (size[0], size[1])
        self.stem = BoundedConv2d(channels, STAGES[0], 3, side=side)
        blocks = []
        before = STAGES[0]
        for stage, features in enumerate(STAGES):
            stride = 1 if stage == 0 else 2
            blocks.append(AveragedBlock(before, features, side=side, stride=stride))
            side = _strided(side, stride)
            blocks.append(AveragedBlock(features, features, side=side, stride=1))
            before = features
        self.blocks = nn.Sequential(*blocks)
        self.places = side[0] * side[1]
        self.head = spectral_norm(nn.Linear(before, classes, bias=False))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(sorted_pairs(self.stem(images)))
        pooled = features.mean(dim=(2, 3)) * self.places**0.5
        logits: Tensor = LOGIT_SCALE * self.head(pooled) + self.bias
        return logits


def _strided(side: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-side[0] // stride), -(-side[1] // stride)
