import copy

import numpy as np
import pytest
import torch
from torch import nn

from worker.unlearning import checkpoint, lipschitz, networks, training


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
    "change",
    [
        {"shape": (0, 8, 8)},
        {"shape": (1, 8, 1)},
        {"classes": 1},
        {"width": 0},
        {"name": "vgg"},
        {"name": "torchvision/"},
    ],
)
def test_what_cannot_be_built_is_refused(change):
    arguments = {"name": "small-cnn", "shape": (1, 8, 8), "classes": 10, "width": 4} | change
    with pytest.raises(ValueError):
        networks.build(arguments.pop("name"), **arguments)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vgg19-bn", 32),
        ("resnet18-lipschitz", 9),
        ("torchvision/mobilenet_v3_small", 32),
        ("torchvision/squeezenet1_1", 32),
        ("torchvision/googlenet", 32),
        ("torchvision/vit_b_32", 32),
    ],
)
def test_larger_networks_take_grey_and_colour_images_and_train_on_them(name, side, channels):
    torch.manual_seed(0)
    network = networks.build(name, shape=(channels, side, side), classes=5, width=1)
    logits = network.train()(torch.rand(2, channels, side, side))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_vgg19_has_its_sixteen_convolutions_and_one_linear_layer():
    network = networks.build("vgg19-bn", shape=(3, 32, 32), classes=10, width=1)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 16
    # 20,024,384 of the convolutions, their biases and batch norms; 512 x 10 + 10 of the head.
    convolutions = 20_018_880 + 5504 + 2 * 5504
    assert sum(parameter.numel() for parameter in network.parameters()) == convolutions + 5130


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg19-bn", (3, 16, 16), "needs 32 x 32"),
        ("torchvision/resnet51", (3, 32, 32), "resnet50"),
        ("torchvision/vit_b_16", (3, 30, 30), "30"),
        ("torchvision/vit_b_16", (3, 32, 48), "choose larger or square ones"),
        ("torchvision/inception_v3", (3, 32, 32), "choose larger or square ones"),
    ],
)
def test_what_an_architecture_cannot_take_is_said_with_a_way_out(name, shape, message):
    with pytest.raises(ValueError, match=message):
        networks.build(name, shape=shape, classes=5, width=1)


def narrow():
    """A Lipschitz-bounded network with few channels.

    No fewer than 8: below that the gradient of a strided 1 x 1 convolution's weights, stored channels last, corrupts the heap
    on processors with AVX2 and no AVX-512 (oneDNN in torch 2.13). No network that the service offers has so few there.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lipschitz, "STAGES", (8, 8, 16, 16))
        return networks.build("resnet18-lipschitz", shape=(1, 8, 8), classes=3, width=1)


@pytest.fixture(scope="module")
def bounded():
    """A narrow Lipschitz-bounded network after a few steps that moved its weights."""
    torch.manual_seed(0)
    network = narrow()
    inputs, labels = torch.rand(96, 1, 8, 8), torch.arange(96) % 3
    inputs += 0.5 * labels.view(-1, 1, 1, 1)
    recipe = {"epochs": 12, "batch_size": 32, "learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.0}
    training.train(network, inputs / 2, labels, **recipe, schedule="one-cycle", augment=False, seed=0)
    assert training.accuracy(network, inputs / 2, labels) > 0.8
    return network


def test_no_convolution_of_the_bounded_network_stretches_an_image(bounded):
    convolutions = [module for module in bounded.modules() if isinstance(module, lipschitz.BoundedConv2d)]
    assert len(convolutions) == 20
    for convolution in convolutions:
        _, channels, height, width = convolution.iterate.shape
        unit = torch.eye(channels * height * width).view(-1, channels, height, width)
        with torch.no_grad():
            matrix = convolution(unit).flatten(1).double().numpy()
        assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1, abs=0.01)


def test_the_logits_of_the_bounded_network_move_no_faster_than_its_bound(bounded):
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(200, 1, 8, 8, generator=generator)
    step = torch.randn(200, 1, 8, 8, generator=generator) * torch.logspace(-3, 0, 200).view(-1, 1, 1, 1)
    second = first + step
    with torch.no_grad():
        moved = (bounded(first) - bounded(second)).norm(dim=1)
    assert (moved <= 1.01 * lipschitz.LIPSCHITZ_BOUND * step.flatten(1).norm(dim=1)).all()
    start = first[:1].requires_grad_()
    slopes = torch.stack(
        [torch.autograd.grad(logit, start, retain_graph=True)[0].flatten() for logit in bounded(start)[0]]
    )
    assert torch.linalg.matrix_norm(slopes, 2) <= 1.01 * lipschitz.LIPSCHITZ_BOUND


def test_the_bounded_network_is_copied_stored_and_evaluated_without_a_change(bounded):
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        expected = bounded(images)
    before = {name: value.clone() for name, value in bounded.state_dict().items()}
    fresh = narrow()
    restored = checkpoint.restore(fresh, checkpoint.dump(bounded))
    for network in (bounded, copy.deepcopy(bounded), restored):
        with torch.no_grad():
            assert torch.allclose(network.eval()(images), expected, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in bounded.state_dict().items())


def test_the_norms_are_measured_where_training_ends_and_training_goes_on_as_if_they_were_not():
    torch.manual_seed(0)
    convolution = lipschitz.BoundedConv2d(2, 4, 3, side=(7, 6), stride=2)
    images = torch.rand(2, 2, 7, 6)
    with torch.no_grad():
        convolution(images)
        convolution.weight += torch.randn_like(convolution.weight)  # as an update would, after the pass
    other = copy.deepcopy(convolution)
    other.eval()
    unit = torch.eye(2 * 7 * 6).view(-1, 2, 7, 6)
    with torch.no_grad():
        matrix = other(unit).flatten(1).double().numpy()
        assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1, abs=1e-4)
        assert torch.equal(convolution(images), other.train()(images))
