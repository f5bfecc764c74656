import pytest
import torch
from torch import nn

from worker.unlearning import networks


@pytest.mark.parametrize("name", ["small-cnn", "resnet18"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (4, 9, 17), (1, 2, 2)])
def test_any_shape_and_number_of_classes_gives_one_logit_per_class(name, shape):
    network = networks.build(name, shape=shape, classes=7, width=4).eval()
    assert network(torch.rand(3, *shape)).shape == (3, 7)


def test_resnet18_has_the_parameters_of_the_cifar_variant():
    # torchvision's ResNet-18 for 1000 classes has 11,689,512; the stem loses 3 * 64 * (49 - 9), the head 990 * 513.
    network = networks.build("resnet18", shape=(3, 32, 32), classes=10, width=1)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512 - 3 * 64 * 40 - 990 * 513


def test_resnet18_keeps_the_resolution_of_small_images_in_its_first_stage():
    network = networks.build("resnet18", shape=(3, 32, 32), classes=10, width=1).eval()
    resnet = network[1]
    stem = nn.Sequential(network[0], resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1)
    assert stem(torch.rand(1, 3, 32, 32)).shape == (1, 64, 32, 32)


def test_width_scales_the_small_network():
    thin, wide = (networks.build("small-cnn", shape=(1, 8, 8), classes=10, width=width) for width in (4, 8))
    assert thin[0].out_channels == 4
    assert wide[0].out_channels == 8


@pytest.mark.parametrize(
    "change", [{"shape": (0, 8, 8)}, {"shape": (1, 8, 1)}, {"classes": 1}, {"width": 0}, {"name": "vgg"}]
)
def test_what_cannot_be_built_is_refused(change):
    arguments = {"name": "small-cnn", "shape": (1, 8, 8), "classes": 10, "width": 4} | change
    with pytest.raises(ValueError):
        networks.build(arguments.pop("name"), **arguments)
