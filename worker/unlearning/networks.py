"""Image classifiers by name. A network maps images in [0, 1], N x C x H x W, to logits, N x classes."""

from __future__ import annotations

from torch import Tensor, nn

from worker.unlearning._torchvision import resnet18


def build(name: str, *, shape: tuple[int, int, int], classes: int, width: int) -> nn.Module:
    """A randomly initialised network; the initial weights come from torch's global generator.

    Args:
        name: ``small-cnn`` (three convolutions with batch norm, for small images) or ``resnet18`` (He et al. 2016 with
            the CIFAR stem: 3 x 3, no max-pool).
        shape: channels, height, width of the images; at least 2 x 2 pixels.
        classes: number of logits, at least 2.
        width: channels of the first convolution of ``small-cnn``; ``resnet18`` has its own.

    Raises:
        ValueError: unknown name, or a shape, number of classes or width that no network can be built for.
    """
    channels, height, image_width = shape
    if channels < 1 or min(height, image_width) < 2:
        raise ValueError(f"images must have a channel and at least 2 x 2 pixels, got {shape}")
    if classes < 2 or width < 1:
        raise ValueError(f"a network needs two classes and a positive width, got {classes} and {width}")
    if name == "small-cnn":
        return _small_cnn(channels, classes, width)
    if name == "resnet18":
        return _cifar_resnet18(channels, classes)
    raise ValueError(f"unknown network {name!r}: choose small-cnn or resnet18")


class Normalize(nn.Module):
    """Centres pixels in [0, 1] and brings them to about unit variance."""

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5) / 0.25


def _small_cnn(channels: int, classes: int, width: int) -> nn.Module:
    return nn.Sequential(
        *_convolution(channels, width),
        *_convolution(width, 2 * width),
        nn.MaxPool2d(2),
        *_convolution(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


def _convolution(channels: int, features: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, features, 3, padding=1, bias=False), nn.BatchNorm2d(features), nn.ReLU()


def _cifar_resnet18(channels: int, classes: int) -> nn.Module:
    network = resnet18(classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(Normalize(), network)
