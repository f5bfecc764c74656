import threading
import time

import numpy as np
import pytest
import torch

from worker.unlearning import networks, references, training

RECIPE = {
    "epochs": 20,
    "batch_size": 16,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "one-cycle",
    "augment": False,
}


def build():
    return networks.build("small-cnn", shape=(1, 8, 8), classes=2, width=8)


@pytest.mark.parametrize("rows", [10, 11])
def test_pairs_of_references_share_the_images_between_them(rows):
    members = references.assign(rows, 6, seed=0)
    assert members.shape == (6, rows)
    assert (members[0::2] != members[1::2]).all()
    assert (members.sum(0) == 3).all()
    assert (members[0::2].sum(1) == rows // 2).all()


def test_each_pair_is_another_split_and_the_seed_fixes_them():
    members = references.assign(100, 8, seed=0)
    assert len(np.unique(members, axis=0)) == 8
    assert np.array_equal(members, references.assign(100, 8, seed=0))
    assert not np.array_equal(members, references.assign(100, 8, seed=1))


def test_no_pair_repeats_the_split_that_the_seed_alone_gives():
    members = references.assign(100, 4, seed=7)
    alone = np.isin(np.arange(100), np.random.default_rng(7).permutation(100)[:50])
    assert not (members == alone).all(1).any()


@pytest.mark.parametrize(("rows", "count"), [(1, 2), (10, 3), (10, 0)])
def test_what_cannot_be_split_is_refused(rows, count):
    with pytest.raises(ValueError):
        references.assign(rows, count, seed=0)


def test_references_are_surer_of_random_labels_they_were_trained_on():
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.rand(80, 1, 8, 8, generator=generator), torch.randint(2, (80,), generator=generator)
    members = references.assign(80, 4, seed=0)
    for reference in references.train(build, inputs, labels, members, **RECIPE, seed=0):
        member = members[reference.index]
        logits = training.infer(reference.network, inputs).double()
        margin = (logits[:, 0] - logits[:, 1]).numpy() * np.where(labels == 0, 1, -1)
        assert np.allclose(reference.phi, margin)  # with two classes the signal is the difference of the logits
        assert reference.phi[member].mean() > reference.phi[~member].mean() + 2
        assert not reference.network.training
    assert reference.index == 3


def test_references_come_one_at_a_time_and_follow_from_the_seed():
    inputs, labels = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    members = references.assign(20, 2, seed=0)
    short = RECIPE | {"epochs": 1}
    first = next(references.train(build, inputs, labels, members, **short, seed=5))
    again = [reference.phi for reference in references.train(build, inputs, labels, members, **short, seed=5)]
    assert np.array_equal(first.phi, again[0])
    assert not np.array_equal(again[0], again[1])


def test_references_trained_together_are_those_trained_alone_and_come_in_order():
    inputs, labels = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    members = references.assign(30, 6, seed=0)
    alone, together = (
        list(references.train(build, inputs, labels, members, **RECIPE | {"epochs": 2}, seed=5, together=count))
        for count in (1, 3)
    )
    assert [reference.index for reference in together] == list(range(6))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.phi, other.phi)


def test_no_more_networks_exist_at_once_than_are_trained_together():
    inputs, labels = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    members = references.assign(30, 8, seed=0)
    built, taken = [], []

    def counted():
        built.append(1)
        assert len(built) - len(taken) <= 2 + 1  # two are trained and one is being looked at
        return build()

    options = RECIPE | {"epochs": 1}
    for reference in references.train(counted, inputs, labels, members, **options, seed=5, together=2):
        time.sleep(0.02)
        taken.append(reference.index)
    assert len(built) == 8


def test_an_error_of_one_reference_ends_them_all():
    inputs, labels = torch.full((30, 1, 8, 8), torch.nan), torch.arange(30) % 2
    members = references.assign(30, 4, seed=0)
    with pytest.raises(training.Diverged):
        list(references.train(build, inputs, labels, members, **RECIPE, seed=5, together=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reference")]
    with pytest.raises(ValueError, match="together"):
        next(references.train(build, inputs, labels, members, **RECIPE, seed=5, together=0))
