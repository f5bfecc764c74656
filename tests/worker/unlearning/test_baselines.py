import torch

from worker.unlearning import baselines, networks

RECIPE = {
    "epochs": 1,
    "batch_size": 16,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "augment": True,
}


def build():
    return networks.build("small-cnn", shape=(1, 8, 8), classes=3, width=4)


def test_retraining_follows_from_the_seed_alone():
    inputs, labels = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    torch.manual_seed(1)
    first = baselines.retrain(build, inputs, labels, **RECIPE, seed=3).state_dict()
    torch.manual_seed(2)
    again = baselines.retrain(build, inputs, labels, **RECIPE, seed=3).state_dict()
    other = baselines.retrain(build, inputs, labels, **RECIPE, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_retraining_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    baselines.retrain(build, torch.rand(4, 1, 8, 8, generator=torch.Generator()), torch.arange(4) % 3, **RECIPE, seed=3)
    assert torch.equal(torch.rand(3), expected)
