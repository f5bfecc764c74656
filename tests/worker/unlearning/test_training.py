import functools

import pytest
import torch
from torch import nn

from worker.unlearning import networks, training

RECIPE = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "augment": False,
    "seed": 0,
}


def small_network(seed=0):
    torch.manual_seed(seed)
    return networks.build("small-cnn", shape=(1, 8, 8), classes=2, width=4)


def bright_and_dark(count=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return (0.4 * torch.rand(count, 1, 8, 8, generator=generator) + 0.6 * labels.view(-1, 1, 1, 1)), labels


@pytest.mark.parametrize("schedule", ["one-cycle", "step", "constant"])
def test_separable_images_are_learned(schedule):
    inputs, labels = bright_and_dark()
    network = training.train(small_network(), inputs, labels, **RECIPE | {"epochs": 10, "schedule": schedule})
    assert not network.training
    assert training.accuracy(network, *bright_and_dark(seed=1)) == 1.0


def test_one_step_of_plain_gradient_descent_matches_the_formula():
    inputs, labels = torch.rand(4, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 2])
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    before = network[1].weight.detach().clone()
    plain = {"epochs": 1, "batch_size": 4, "learning_rate": 0.5, "momentum": 0.0, "weight_decay": 0.0}
    training.train(network, inputs, labels, **RECIPE | plain | {"schedule": "constant"})
    flat = inputs.flatten(1)
    error = (flat @ before.T).softmax(1) - nn.functional.one_hot(labels, 3)
    assert torch.allclose(network[1].weight, before - 0.5 * error.T @ flat / 4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    inputs, labels = bright_and_dark()
    first, again, other = (
        training.train(small_network(), inputs, labels, **RECIPE | {"seed": seed, "augment": True}).state_dict()
        for seed in (5, 5, 6)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_step_schedule_divides_by_ten_at_each_fifth_of_the_epochs():
    inputs, labels = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    rates: list[float] = []

    def steps_taken(epoch, loss, network):
        rates.append(network[1].bias[0].item())

    torch.nn.init.zeros_(network[1].bias)
    plain = {"epochs": 10, "batch_size": 1, "learning_rate": 1e-4, "momentum": 0.0, "weight_decay": 0.0}
    training.train(network, inputs, labels, **RECIPE | plain | {"schedule": "step"}, on_epoch=steps_taken)
    # The gradient of the bias stays at one half for such small steps, so the increments show the rates.
    increments = 2 * torch.tensor([0.0, *rates], dtype=torch.float64).diff()
    assert torch.allclose(
        increments[:8].view(4, 2), 10.0 ** torch.tensor([[-4.0], [-5], [-6], [-7]]).double(), rtol=2e-2
    )


def test_a_last_batch_of_one_image_does_not_reach_batch_norm():
    inputs, labels = bright_and_dark(17)
    network = networks.build("resnet18", shape=(1, 2, 2), classes=2, width=1)
    training.train(network, inputs[:, :, :2, :2], labels, **RECIPE | {"epochs": 1})


def test_a_single_image_can_be_trained_on():
    inputs, labels = bright_and_dark(1)
    network = networks.build("resnet18", shape=(1, 2, 2), classes=2, width=1)
    training.train(network, inputs[:, :, :2, :2], labels, **RECIPE | {"epochs": 1})
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_batches_are_a_permutation():
    batches = training.shuffled_batches(33, 16, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [16, 17]
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(33))


def test_each_epoch_is_reported_with_its_mean_loss():
    inputs, labels = bright_and_dark()
    seen: list[tuple[int, float]] = []
    training.train(
        small_network(), inputs, labels, **RECIPE, on_epoch=lambda epoch, loss, network: seen.append((epoch, loss))
    )
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert seen[0][1] > seen[2][1] > 0


def test_a_loss_that_is_not_a_number_stops_training():
    inputs, labels = bright_and_dark()
    inputs[0, 0, 0, 0] = float("nan")
    with pytest.raises(training.Diverged, match="epoch 1"):
        training.train(small_network(), inputs, labels, **RECIPE)


def test_no_images_and_unknown_schedules_are_refused():
    inputs, labels = bright_and_dark()
    with pytest.raises(ValueError, match="no images"):
        training.train(small_network(), inputs[:0], labels[:0], **RECIPE)
    with pytest.raises(ValueError, match="cosine"):
        training.train(small_network(), inputs, labels, **RECIPE | {"schedule": "cosine"})


def test_inference_does_not_depend_on_the_batch_size_and_restores_the_mode():
    inputs, _ = bright_and_dark(10)
    network = small_network().train()
    whole, parts = training.infer(network, inputs), training.infer(network, inputs, batch_size=3)
    assert network.training
    assert whole.dtype == torch.float32
    assert torch.allclose(whole, parts, atol=1e-6)


def test_accuracy_is_the_share_of_images_put_into_their_class():
    inputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]).view(4, 2, 1, 1)
    assert training.accuracy(nn.Flatten(), inputs, torch.tensor([0, 1, 1, 1])) == 0.75


@pytest.mark.parametrize(("size", "padding"), [(8, 1), (20, 4)])
def test_augmentation_is_a_crop_of_the_padded_image_or_of_its_mirror_image(size, padding):
    image = torch.arange(1.0, 1 + 2 * size * size).view(2, size, size)
    batch = training.augmented(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    padded = nn.functional.pad(image, (padding,) * 4)
    offsets = range(2 * padding + 1)
    crops = [padded[:, top : top + size, left : left + size] for top in offsets for left in offsets]
    allowed = torch.stack([*crops, *(crop.flip(2) for crop in crops)])
    which = (batch[:, None] == allowed[None]).flatten(2).all(2)
    assert (which.sum(1) == 1).all()
    assert which[:, : len(crops)].any(1).float().mean().item() == pytest.approx(0.5, abs=0.12)


def test_compiled_steps_give_the_same_network(monkeypatch):
    # The "eager" backend traces as every backend does, and needs no C++ compiler.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    inputs, labels = bright_and_dark(20)
    plain, compiled = (
        training.train(small_network(), inputs, labels, **RECIPE, compiled=wanted).state_dict()
        for wanted in (False, True)
    )
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[name], compiled[name]) for name in plain)


def test_mixed_precision_changes_nothing_on_a_cpu():
    inputs, labels = bright_and_dark(20)
    plain, mixed = (
        training.train(small_network(), inputs, labels, **RECIPE, mixed_precision=wanted).state_dict()
        for wanted in (False, True)
    )
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)


def test_images_laid_out_channels_last_keep_their_values_and_their_layout_through_batches_and_crops():
    images = training.laid_out(torch.rand(6, 3, 16, 16))
    assert torch.equal(images, images.contiguous())
    for batch in (images[torch.tensor([4, 1])], training.augmented(images, torch.Generator())):
        assert batch.is_contiguous(memory_format=torch.channels_last)
