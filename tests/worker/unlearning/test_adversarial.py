from contextlib import nullcontext

import pytest
import torch
from torch import nn

from worker.unlearning import adversarial, networks, training

OPTIONS = {
    "method": "boundary",
    "batch_size": 16,
    "rival_classes": 2,
    "steps": 50,
    "bisections": 8,
    "eps_start": 0.04,
    "doublings": 12,
}
METHODS = pytest.mark.parametrize("method", ["boundary", "pgd"])


def linear_network(classes=3, scale=1.0, seed=0):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network[1].weight.copy_(scale * torch.randn(classes, 16, generator=generator))
        network[1].bias.copy_(-0.5 * network[1].weight.sum(1))  # the middle grey image lies on every boundary
    return network


def grey_images(count=40, spread=0.05, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + spread * torch.randn(count, 1, 4, 4, generator=generator)


def distance_to_boundary(network, images):
    """Closed form for a linear network: the smallest margin over the difference of the two weight vectors."""
    weight, logits = network[1].weight.detach(), network(images).detach()
    own = logits.argmax(1)
    slopes = (weight[own][:, None] - weight[None]).norm(dim=2)
    margins = logits.gather(1, own[:, None]) - logits
    return (margins / slopes).masked_fill(slopes == 0, torch.inf).amin(1)


@pytest.fixture(scope="module")
def digit_network():
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.tensor(digits.images[:400], dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target[:400])
    torch.manual_seed(0)
    network = networks.build("small-cnn", shape=(1, 8, 8), classes=10, width=8)
    recipe = {"epochs": 12, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    training.train(network, inputs, labels, **recipe, schedule="one-cycle", augment=False, seed=0)
    return network, inputs[:100], labels[:100]


def test_boundary_steps_reach_the_closed_form_distance_of_a_linear_network():
    network, images = linear_network(), grey_images()
    found = adversarial.nearest(network, images, network(images).argmax(1), **OPTIONS)
    expected = distance_to_boundary(network, images)
    assert found.found.all()
    assert (found.distances >= expected - 1e-6).all()
    assert torch.allclose(found.distances, expected, rtol=0.01, atol=1e-4)


def test_pgd_reaches_the_closed_form_distance_to_its_step_size():
    network, images = linear_network(classes=2), grey_images()
    found = adversarial.nearest(network, images, network(images).argmax(1), **OPTIONS | {"method": "pgd"})
    expected = distance_to_boundary(network, images)
    assert found.found.all()
    # A tenth of the radius is stepped over at most; the radius is at most twice the distance, or the first one.
    assert (found.distances >= expected - 1e-6).all()
    assert (found.distances <= expected + 0.1 * torch.clamp(2 * expected, min=0.04) + 1e-6).all()


@METHODS
def test_every_example_belongs_to_the_image_in_its_own_row(method):
    network, images = linear_network(), grey_images(50)
    labels = network(images).argmax(1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    found = adversarial.nearest(network, images, labels, **OPTIONS | {"method": method})
    shuffled = adversarial.nearest(network, images[order], labels[order], **OPTIONS | {"method": method})
    assert torch.allclose(shuffled.inputs, found.inputs[order], atol=1e-3)
    assert torch.equal(shuffled.labels, found.labels[order])


@METHODS
def test_labels_are_the_networks_own_wrong_predictions(method, digit_network):
    network, inputs, labels = digit_network
    found = adversarial.nearest(network, inputs, labels, **OPTIONS | {"method": method})
    assert found.found.all()
    assert torch.equal(training.infer(network, found.inputs).argmax(1), found.labels)
    assert (found.labels != labels).all()
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 1
    assert torch.allclose(found.distances, (found.inputs - inputs).flatten(1).norm(dim=1))


def test_boundary_steps_are_as_near_as_pgd_at_a_fifth_of_its_passes(digit_network):
    network, inputs, labels = digit_network
    boundary = adversarial.nearest(network, inputs, labels, **OPTIONS)
    pgd = adversarial.nearest(network, inputs, labels, **OPTIONS | {"method": "pgd"})
    assert boundary.distances.mean() < 1.02 * pgd.distances.mean()
    assert boundary.passes < pgd.passes / 5


@METHODS
def test_an_image_that_is_misclassified_already_is_its_own_example(method):
    network, images = linear_network(), grey_images()
    predicted = network(images).argmax(1)
    found = adversarial.nearest(network, images, (predicted + 1) % 3, **OPTIONS | {"method": method})
    assert torch.equal(found.inputs, images)
    assert torch.equal(found.labels, predicted)
    assert (found.distances == 0).all()
    assert found.found.all()


@METHODS
def test_a_saturated_network_is_crossed_all_the_same(method):
    network, images = linear_network(classes=2, scale=1e4), grey_images()
    labels = network(images).argmax(1)
    assert (nn.functional.cross_entropy(network(images), labels, reduction="none") == 0).any()
    found = adversarial.nearest(network, images, labels, **OPTIONS | {"method": method})
    assert found.found.all()
    assert (found.distances < 1.3 * distance_to_boundary(network, images) + 0.01).all()


@METHODS
def test_a_network_without_gradient_ends_the_search_and_says_so(method):
    network, images = linear_network(scale=0.0), grey_images()
    with torch.no_grad():
        network[1].bias[1] = 5.0
    labels = torch.ones(len(images), dtype=torch.int64)
    found = adversarial.nearest(network, images, labels, **OPTIONS | {"method": method})
    assert not found.found.any()
    assert torch.equal(found.inputs, images)
    assert torch.equal(found.labels, labels)
    assert (found.distances == 0).all()
    assert found.passes <= 5 * len(images)


@METHODS
def test_a_boundary_outside_the_range_of_pixels_is_reported_as_not_found(method):
    network, images = linear_network(classes=2), grey_images()
    with torch.no_grad():
        network[1].bias[0] += 1e3
    found = adversarial.nearest(network, images, network(images).argmax(1), **OPTIONS | {"method": method})
    assert not found.found.any()
    assert torch.equal(found.inputs, images)


@METHODS
@pytest.mark.parametrize("mode", [True, False])
def test_mode_parameters_and_running_statistics_are_left_as_they_were(method, mode, digit_network):
    network, inputs, labels = digit_network
    network.train(mode)
    network[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adversarial.nearest(network, inputs[:10], labels[:10], **OPTIONS | {"method": method})
    assert network.training is mode
    assert [parameter.requires_grad for parameter in network.parameters()] == [False] + [True] * (
        len(list(network.parameters())) - 1
    )
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    network[0].weight.requires_grad_(True)


@METHODS
def test_no_images_give_no_examples(method):
    images = grey_images(0)
    found = adversarial.nearest(
        linear_network(), images, torch.zeros(0, dtype=torch.int64), **OPTIONS | {"method": method}
    )
    assert found.inputs.shape == (0, 1, 4, 4)
    assert found.passes == 0


def test_unknown_methods_and_lengths_that_differ_are_refused():
    images = grey_images(2)
    with pytest.raises(ValueError, match="fgsm"):
        adversarial.nearest(linear_network(), images, torch.tensor([0, 1]), **OPTIONS | {"method": "fgsm"})
    with pytest.raises(ValueError, match="2 images but 1 labels"):
        adversarial.nearest(linear_network(), images, torch.tensor([0]), **OPTIONS)


@METHODS
def test_no_pass_is_of_more_images_than_a_batch(digit_network, method):
    network, images, labels = digit_network
    sizes = []
    handle = network.register_forward_hook(lambda module, given, logits: sizes.append(len(logits)))
    adversarial.nearest(network, images[:50], labels[:50], **OPTIONS | {"method": method, "doublings": 6})
    handle.remove()
    assert max(sizes) <= OPTIONS["batch_size"]


@METHODS
def test_the_passes_told_are_those_of_the_network(digit_network, method):
    network, images, labels = digit_network
    passed = []

    def count(module, given, logits):
        passed.append(len(logits))
        if logits.requires_grad:
            logits.register_hook(lambda slope: passed.append(len(slope)))

    handle = network.register_forward_hook(count)
    found = adversarial.nearest(network, images[:40], labels[:40], **OPTIONS | {"method": method, "rival_classes": 1})
    handle.remove()
    assert found.passes == sum(passed)


def test_the_way_back_ends_within_its_tolerance_behind_the_boundary():
    network, images = linear_network(classes=2), grey_images()
    labels = network(images).argmax(1)
    for bisections in (4, 8, 12):
        found = adversarial.nearest(network, images, labels, **OPTIONS | {"bisections": bisections})
        exact = distance_to_boundary(network, images)
        # A step goes 5% and a little beyond the boundary; that is the way which is known to 2^-bisections.
        assert (found.distances <= exact * (1 + 2.0**-bisections * 1.1) + 1e-4).all()
        assert (network(found.inputs).argmax(1) != labels).all()


def test_mixed_precision_changes_nothing_on_a_cpu(digit_network):
    network, images, labels = digit_network
    plain, mixed = (
        adversarial.nearest(network, images[:20], labels[:20], **OPTIONS, mixed_precision=wanted)
        for wanted in (False, True)
    )
    assert torch.equal(plain.inputs, mixed.inputs)


def test_what_narrow_steps_do_not_bring_across_is_searched_again_in_float32(digit_network, monkeypatch):
    network, images, labels = digit_network
    right = training.infer(network, images).argmax(1) == labels
    images, labels = images[right][:20], labels[right][:20]
    steps = adversarial._boundary_steps
    runs = []

    def first_run_fails(network, inputs, labels, points, active, *rest):
        runs.append(len(active))
        if len(runs) == 1:
            return 0, adversarial._Seen.nothing(labels)
        return steps(network, inputs, labels, points, active, *rest)

    monkeypatch.setattr(adversarial, "_boundary_steps", first_run_fails)
    monkeypatch.setattr(adversarial, "_precisions", lambda wanted, device: (True, False))
    monkeypatch.setattr(adversarial, "bfloat16", lambda device, wanted: nullcontext())
    found = adversarial.nearest(network, images, labels, **OPTIONS, mixed_precision=True)
    assert runs == [20, 20]
    assert found.found.all()


def test_the_way_back_ends_within_its_tolerance_where_the_margin_is_far_from_linear():
    class Bent(nn.Module):
        """A ninth power of the brightness against a constant: steep at the image, flat behind the boundary."""

        def forward(self, images):
            value = (0.2 - (images.flatten(1).mean(1) - 0.5)).clamp(min=0) * 5
            return torch.stack([value**9 - 0.5**9, torch.zeros_like(value)], dim=1)

    images = torch.full((3, 1, 4, 4), 0.5) + torch.tensor([0.0, 0.02, 0.04]).view(3, 1, 1, 1)
    labels = torch.zeros(3, dtype=torch.int64)
    found = adversarial.nearest(Bent(), images, labels, **OPTIONS | {"bisections": 12})
    exact = (0.6 - images.flatten(1).mean(1)) * 4  # the boundary lies at a brightness of 0.6, in 16 pixels
    assert found.found.all()
    assert torch.allclose(found.distances, exact, rtol=2e-3)


def test_what_the_range_of_pixels_cuts_off_is_made_up_for_by_the_others():
    start = torch.tensor([[0.5, 0.0], [0.5, 0.5], [0.0, 0.0]])
    direction = torch.tensor([[0.8, -0.6], [0.8, -0.6], [-0.6, -0.8]])
    wanted = torch.tensor([0.2, 0.2, 0.2])
    reach = adversarial._reach_in_range(start, direction, wanted)
    # The second pixel cannot sink: all of the way is the first one's. Nothing is cut off. No pixel can move.
    assert torch.allclose(reach, torch.tensor([0.2 / 0.64, 0.2, 0.2]))
    way = ((start + reach[:, None] * direction).clamp(0, 1) - start) * direction
    assert torch.allclose(way.sum(1), torch.tensor([0.2, 0.2, 0.0]))


def test_steps_cross_a_boundary_that_lies_among_pixels_at_their_bounds():
    network, images = linear_network(classes=2), grey_images(40, spread=0.6).clamp(0, 1)
    found = adversarial.nearest(network, images, network(images).argmax(1), **OPTIONS | {"steps": 8})
    assert found.found.all()
    assert (found.inputs >= 0).all()
    assert (found.inputs <= 1).all()
