from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import nn

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


ONE_STEP = {
    "epochs": 1,
    "batch_size": 99,
    "learning_rate": 0.5,
    "schedule": "constant",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "augment": False,
    "seed": 0,
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


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def sets():
    generator = torch.Generator().manual_seed(1)
    forget, retain = torch.rand(6, 1, 2, 2, generator=generator), torch.rand(9, 1, 2, 2, generator=generator)
    return (forget, torch.arange(6) % 3), (retain, torch.arange(9) % 3)


def one_step(network, inputs, labels, sign=-1.0):
    """The linear network's weight after one step on the mean cross-entropy, in closed form."""
    flat = inputs.flatten(1)
    error = network(inputs).softmax(1) - nn.functional.one_hot(labels, 3)
    return network[1].weight + sign * 0.5 * error.T @ flat / len(flat)


def test_ft_steps_down_the_loss_of_the_retained_set():
    network, (_, retain) = linear(), sets()
    result = baselines.finetune_on_retained(network, retain, **ONE_STEP)
    assert torch.allclose(result[1].weight, one_step(network, *retain), atol=1e-6)


def test_ga_steps_up_the_loss_of_the_forget_set():
    network, (forget, _) = linear(), sets()
    result = baselines.gradient_ascent(network, forget, **ONE_STEP)
    assert torch.allclose(result[1].weight, one_step(network, *forget, sign=1.0), atol=1e-6)


def test_l1_sparse_adds_the_sign_of_each_weight_and_its_strength_falls_to_nothing():
    network, (_, retain) = linear(), sets()
    passed = [network]
    options = ONE_STEP | {"epochs": 4}
    baselines.l1_sparse(network, retain, strength=0.2, on_epoch=lambda *now: passed.append(deepcopy(now[2])), **options)
    for epoch, (before, after) in enumerate(pairwise(passed)):
        penalty = 0.5 * 0.2 * (1 - epoch / 4) * before[1].weight.sign()
        assert torch.allclose(after[1].weight, one_step(before, *retain) - penalty, atol=1e-6)


def test_random_labels_are_never_the_true_ones_and_equally_often_each_other_class(monkeypatch):
    seen = []
    monkeypatch.setattr(baselines, "finetune", lambda network, parts, **options: seen.extend(parts))
    forget = torch.rand(3000, 1, 2, 2), torch.arange(3000) % 3
    baselines.random_labels(linear(), forget, None, **ONE_STEP)
    shift = (seen[0].labels - forget[1]) % 3
    assert set(shift.tolist()) == {1, 2}
    assert (shift == 1).double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_random_labels_train_with_the_retained_set_where_it_is_available():
    network, (forget, retain) = linear(), sets()
    alone = baselines.random_labels(network, forget, None, **ONE_STEP)
    together = baselines.random_labels(network, forget, retain, **ONE_STEP)
    # Both draw the same labels, so their difference is the retained set's part of the mean.
    gain = 0.5 * (torch.softmax(network(retain[0]), 1) - nn.functional.one_hot(retain[1], 3)).T @ retain[0].flatten(1)
    of_forget = (network[1].weight - alone[1].weight) * 6
    assert torch.allclose(network[1].weight - together[1].weight, (of_forget + gain) / 15, atol=1e-6)


def test_salun_moves_half_of_the_weights_and_the_others_not_at_all():
    network, (forget, retain) = linear(), sets()
    result = baselines.salun(network, forget, retain, share=0.5, **ONE_STEP | {"weight_decay": 0.1, "epochs": 3})
    still = torch.cat([(a == b).flatten() for a, b in zip(network.parameters(), result.parameters(), strict=True)])
    assert still.sum() == len(still) - round(0.5 * len(still))
