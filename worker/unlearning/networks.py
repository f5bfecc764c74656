"""Image classifiers by name. A network maps images in [0, 1], N x C x H x W, to logits, N x classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worker.unlearning import _torchvision
from worker.unlearning.lipschitz import LipschitzResNet18

NAMES = ("small-cnn", "resnet18", "vgg19-bn", "resnet18-lipschitz")
TORCHVISION = "torchvision/"
VGG_SIDE = 32  # five times halved

Shape = tuple[int, int, int]


def build(name: str, *, shape: Shape, classes: int, width: int) -> nn.Module:
    """A randomly initialised network, stored channels last; the initial weights come from torch's global generator.

    Args:
        name: ``small-cnn`` (three convolutions with batch norm, for small images), ``resnet18`` (He et al. 2016 with
            the CIFAR stem: 3 x 3, no max-pool), ``vgg19-bn`` (Simonyan and Zisserman 2014 with batch norm and one
            linear layer), ``resnet18-lipschitz`` (see `lipschitz`) or ``torchvision/`` and the name of any of its
            classifiers.
        shape: channels, height, width of the images; at least 2 x 2 pixels.
        classes: number of logits, at least 2.
        width: channels of the first convolution of ``small-cnn``; the others have their own.

    Raises:
        ValueError: unknown name, or a shape, number of classes or width that no network can be built for.
    """
    channels, height, image_width = shape
    if channels < 1 or min(height, image_width) < 2:
        raise ValueError(f"images must have a channel and at least 2 x 2 pixels, got {shape}")
    if classes < 2 or width < 1:
        raise ValueError(f"a network needs two classes and a positive width, got {classes} and {width}")
    if name == "small-cnn":
        network = _small_cnn(channels, classes, width)
    elif name == "resnet18":
        network = _cifar_resnet18(channels, classes)
    elif name == "vgg19-bn":
        network = _vgg19(shape, classes)
    elif name == "resnet18-lipschitz":
        network = nn.Sequential(Normalize(), LipschitzResNet18(shape, classes))
    elif name.startswith(TORCHVISION):
        network = _from_torchvision(name, shape, classes)
    else:
        raise ValueError(f"unknown network {name!r}: choose {', '.join(NAMES)} or {TORCHVISION} and a name of its own")
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # not in its stubs


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
    network = _torchvision.classifier("resnet18", classes=classes, side=32)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(Normalize(), network)


def _vgg19(shape: Shape, classes: int) -> nn.Module:
    channels, height, width = shape
    if min(height, width) < VGG_SIDE:
        raise ValueError(
            f"vgg19-bn halves an image five times: it needs {VGG_SIDE} x {VGG_SIDE}, not {height} x {width}"
        )
    features = _torchvision.features("vgg19_bn")
    _take_channels(features, channels)
    return nn.Sequential(Normalize(), features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def _from_torchvision(name: str, shape: Shape, classes: int) -> nn.Module:
    """Any of its classifiers, once two images have been through it. Raises ValueError where they do not get through."""
    channels, height, width = shape
    network = _torchvision.classifier(name.removeprefix(TORCHVISION), classes=classes, side=height)
    _take_channels(network, channels)
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(2, *shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"{name} cannot take images of {height} x {width} with {channels} channels: choose larger or square ones or "
            f"another network ({str(error).splitlines()[0]})"
        ) from error
    return nn.Sequential(Normalize(), network.train())


def _take_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution by one like it where the images are not of three channels."""
    if channels == 3:
        return
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                taken = nn.Conv2d(
                    channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    child.stride,  # type: ignore[arg-type]
                    child.padding,  # type: ignore[arg-type]
                    bias=child.bias is not None,
                )
                nn.init.kaiming_normal_(taken.weight, mode="fan_out", nonlinearity="relu")
                setattr(module, name, taken)
                return
    raise ValueError(f"this network has no convolution that could take {channels} channels")
