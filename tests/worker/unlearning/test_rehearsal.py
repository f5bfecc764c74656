import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from worker.unlearning import networks, references, rehearsal

RECIPE = {
    "epochs": 15,
    "batch_size": 32,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-3,
    "schedule": "one-cycle",
    "augment": False,
}
REHEARSAL = {
    "sizes": [40],
    "learning_rates": [0.003, 0.01],
    "epochs": 5,
    "form": "retain+adversarial",
    "weighted": True,
    "attack": {
        "method": "boundary",
        "batch_size": 256,
        "rival_classes": 2,
        "steps": 50,
        "bisections": 8,
        "eps_start": 0.04,
        "doublings": 12,
    },
    "finetuning": {
        "learning_rate_decay_every": None,
        "batch_size": 32,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "augment": False,
    },
    "tolerance": 0.1,
    "tolerance_membership": 0.5,
    "seed": 0,
}


@pytest.fixture(scope="module")
def pool():
    digits = load_digits()
    rows = np.random.default_rng(0).permutation(len(digits.target))[:400]
    inputs = torch.tensor(digits.images[rows], dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target[rows])
    members = references.assign(len(labels), 6, seed=0)

    def build():
        return networks.build("small-cnn", shape=(1, 8, 8), classes=10, width=8)

    trained = list(references.train(build, inputs, labels, members, **RECIPE, seed=0))
    phi = np.stack([reference.phi for reference in trained])
    return {0: trained[0].network, 3: trained[3].network}, inputs, labels, phi, members


def outcomes(auc_z=0.5, remaining=0.0, accuracy=0.9):
    return [rehearsal._Outcome(auc_z, remaining, accuracy)] * 2


def test_the_chosen_strength_takes_membership_away_and_leaves_accuracy(pool):
    (strength,) = rehearsal.rehearse(*pool, **REHEARSAL)
    assert strength.size == 40
    assert strength.models == 2
    assert strength.membership_before_mean > 0.6
    assert abs(strength.membership_mean) < 0.5 * strength.membership_before_mean
    assert strength.accuracy_change_mean > -0.05


def test_the_rehearsed_model_and_its_pair_do_not_judge_it(pool):
    networks_kept, inputs, labels, phi, members = pool
    silent = phi.copy()
    silent[2:4] = np.nan  # a signal that is not finite is refused wherever it is used
    rehearsal.rehearse({3: networks_kept[3]}, inputs, labels, silent, members, **REHEARSAL | {"epochs": 1})
    with pytest.raises(ValueError, match="finite"):
        rehearsal.rehearse({0: networks_kept[0]}, inputs, labels, silent, members, **REHEARSAL | {"epochs": 1})


def test_requests_come_from_what_the_model_was_trained_on_and_controls_from_the_rest():
    member = np.arange(20) % 2 == 0
    request = rehearsal._draw(member, 4, np.random.default_rng(0))
    assert len(request.forget) == 4
    assert sorted([*request.forget, *request.retain]) == list(range(0, 20, 2))
    assert sorted([*request.calibration, *request.audit]) == list(range(1, 20, 2))
    assert abs(len(request.calibration) - len(request.audit)) <= 1


def test_rehearsed_models_are_spread_over_the_pairs():
    assert rehearsal.rehearsed(16, 4) == [0, 4, 8, 12]
    assert rehearsal.rehearsed(16, 16) == list(range(16))
    assert len({index // 2 for index in rehearsal.rehearsed(16, 6)}) == 6
    with pytest.raises(ValueError, match="5 models"):
        rehearsal.rehearsed(4, 5)


def test_runs_are_counted_and_a_size_beyond_half_of_the_training_images_is_cut(pool):
    seen = []
    options = REHEARSAL | {"sizes": [150, 20, 400], "learning_rates": [0.003], "epochs": 1}
    strengths = rehearsal.rehearse(*pool, **options, on_run=lambda done, runs: seen.append((done, runs)))
    assert [strength.size for strength in strengths] == [20, 100]
    assert seen == [(run, 4) for run in range(1, 5)]


def test_rehearsing_again_gives_the_same_strength(pool):
    options = REHEARSAL | {"learning_rates": [0.01], "epochs": 2}
    assert rehearsal.rehearse(*pool, **options) == rehearsal.rehearse(*pool, **options)


def test_the_least_deviation_counts_distance_and_spread():
    before = outcomes(accuracy=0.9)
    spread = [rehearsal._Outcome(0.42, 0.0, 0.9), rehearsal._Outcome(0.58, 0.0, 0.9)]  # 0.64 on average
    after = {
        (0.1, 1): spread,
        (0.2, 1): outcomes(auc_z=0.45),  # 0.25
        (0.3, 1): outcomes(remaining=0.2),  # 0.16
        (0.4, 1): outcomes(remaining=-0.1, accuracy=0.84),  # 0.04 + 0.36
    }
    strength = rehearsal._choose(10, before, after, tolerance=0.1, tolerance_membership=0.5)
    assert strength.learning_rate == 0.3
    assert strength.membership_mean == pytest.approx(0.2)
    assert strength.membership_sd == 0
    del after[0.3, 1]
    assert rehearsal._choose(10, before, after, 0.1, 0.5).learning_rate == 0.2


def test_one_lucky_epoch_does_not_win_over_a_steady_stretch():
    lucky = {(0.1, 1): outcomes(0.7), (0.1, 2): outcomes(0.5), (0.1, 3): outcomes(0.3)}
    steady = {(0.2, epoch): outcomes(0.52) for epoch in (1, 2, 3)}
    assert rehearsal._choose(10, outcomes(), lucky | steady, 0.1, 0.5).learning_rate == 0.2


@pytest.mark.parametrize(
    "change", [{"sizes": []}, {"sizes": [1]}, {"learning_rates": []}, {"epochs": 0}, {"form": "retain"}]
)
def test_what_cannot_be_rehearsed_is_refused(pool, change):
    with pytest.raises(ValueError):
        rehearsal.rehearse(*pool, **REHEARSAL | change)


def test_a_single_pair_of_references_cannot_judge_itself(pool):
    networks_kept, inputs, labels, phi, members = pool
    with pytest.raises(ValueError, match="pair"):
        rehearsal.rehearse({0: networks_kept[0]}, inputs, labels, phi[:2], members[:2], **REHEARSAL)
