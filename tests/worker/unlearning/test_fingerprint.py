import numpy as np
import pytest
import torch
from torch import nn

from worker.unlearning import adversarial, fingerprint

ATTACK = {
    "method": "boundary",
    "batch_size": 64,
    "rival_classes": 1,
    "steps": 20,
    "bisections": 20,
    "eps_start": 0.04,
    "doublings": 12,
}


def examples(distances, found=None):
    distances = torch.tensor(distances, dtype=torch.float32)
    found = torch.ones(len(distances), dtype=torch.bool) if found is None else torch.tensor(found)
    return adversarial.Adversarial(torch.zeros(len(distances), 1), torch.zeros(len(distances)), distances, found, 0)


def brute_force(members, non_members):
    return np.mean([[(one > other) + (one == other) / 2 for other in non_members] for one in members])


def test_on_a_linear_network_distances_are_those_of_geometry():
    # Two classes split at x0 = 1/2: the boundary is |x0 - 1/2| away.
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
        network[1].bias.copy_(torch.tensor([-0.5, 0.5]))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(60, 1, 2, 2, generator=generator)
    labels = (images[:, 0, 0, 0] < 0.5).long()
    exact = (images[:, 0, 0, 0] - 0.5).abs().double().numpy()
    found = [adversarial.nearest(network, images[rows], labels[rows], **ATTACK) for rows in (slice(25), slice(25, 60))]
    result = fingerprint.boundary(*found)
    assert result.not_found == 0
    assert result.forget_median == pytest.approx(np.median(exact[:25]), abs=1e-3)
    assert result.controls_median == pytest.approx(np.median(exact[25:]), abs=1e-3)
    assert result.auc.value == pytest.approx(brute_force(exact[:25], exact[25:]), abs=0.01)


def test_what_was_not_found_is_left_out_and_counted():
    forget = examples([9.0] * 5 + [1.0] * 20, [False] * 5 + [True] * 20)
    controls = examples([2.0] * 30 + [0.0] * 2, [True] * 30 + [False] * 2)
    result = fingerprint.boundary(forget, controls)
    assert (result.forget_median, result.controls_median, result.not_found) == (1.0, 2.0, 7)
    assert result.auc.value == 0.0


def test_farther_from_the_boundary_than_controls_is_an_auc_above_a_half():
    assert fingerprint.boundary(examples([2.0] * 20), examples([1.0] * 20)).auc.value == 1.0


@pytest.mark.parametrize(("forget", "controls"), [(19, 100), (100, 19)])
def test_below_20_samples_that_were_found_there_is_no_auc(forget, controls):
    result = fingerprint.boundary(
        examples([1.0] * forget + [0.0] * 5, [True] * forget + [False] * 5), examples([1.0] * controls)
    )
    assert result.auc is None
    assert result.forget_median == 1.0


def test_where_nothing_was_found_there_is_no_median():
    result = fingerprint.boundary(examples([0.0] * 3, [False] * 3), examples([1.0] * 30))
    assert (result.forget_median, result.auc, result.not_found) == (None, None, 3)


def test_separation_is_the_share_of_pairs_in_order():
    generator = np.random.default_rng(0)
    members, others = generator.integers(0, 6, 30).astype(float), generator.integers(0, 5, 40).astype(float)
    assert fingerprint.separation(members, others).value == pytest.approx(brute_force(members, others))
    assert fingerprint.separation(members[:19], others) is None
