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
    "requests": 2,
    "shown_on": 2,
    "learning_rates": [0.02],
    "weight_scales": [0.5, 2.0],
    "weight_power": 1.0,
    "weight_spread": True,
    "form": "retain+adversarial",
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
        "schedule": "linear",
        "epochs": 5,
        "batch_size": 32,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "augment": False,
    },
    "tolerance": 0.1,
    "tolerance_membership": 0.5,
    "tolerance_accuracy": 0.02,
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
    return [rehearsal.Outcome(auc_z, remaining, 1.0, accuracy)] * 2


def chosen(tried):
    return rehearsal.choose(tried, outcomes(), tolerance=0.1, tolerance_membership=0.5, tolerance_accuracy=0.02)


def test_the_chosen_strength_takes_membership_away_and_leaves_accuracy(pool):
    (strength,) = rehearsal.rehearse(*pool, **REHEARSAL)
    assert (strength.size, strength.models, strength.requests) == (40, 2, 4)
    assert strength.learning_rate == 0.02
    assert 0.5 <= strength.weight_scale <= 2.0
    assert strength.membership_before > 0.6
    assert abs(strength.membership) < 0.5 * strength.membership_before
    assert strength.membership_standard_error > 0
    assert abs(strength.auc_z_mean - 0.5) < 0.15
    assert strength.accuracy_change_mean > -0.05
    assert 0.2 < strength.boundary_auc_mean < 0.8


def test_requests_of_one_image_are_rehearsed_by_their_pooled_membership(pool):
    options = REHEARSAL | {"sizes": [1], "requests": 2, "shown_on": 8, "weight_scales": [1.0]}
    (strength,) = rehearsal.rehearse(*pool, **options)
    assert strength.auc_z_mean is None
    assert strength.auc_z_sd is None
    assert strength.boundary_auc_mean is None
    assert strength.requests == 16
    assert strength.membership_before == pytest.approx(1, abs=0.6)
    assert strength.membership_standard_error > 0


def test_the_strength_is_shown_on_other_requests_than_it_was_chosen_on(pool, monkeypatch):
    drawn = []
    draw = rehearsal._draw
    monkeypatch.setattr(rehearsal, "_draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    rehearsal.rehearse(*pool, **REHEARSAL)
    forgotten = [frozenset(request.forget.tolist()) for request in drawn]
    assert len(forgotten) == len(set(forgotten)) == 8


def test_the_rehearsed_model_and_its_pair_do_not_judge_it(pool):
    networks_kept, inputs, labels, phi, members = pool
    silent = phi.copy()
    silent[2:4] = np.nan  # a signal that is not finite is refused wherever it is used
    rehearsal.rehearse({3: networks_kept[3]}, inputs, labels, silent, members, **REHEARSAL)
    with pytest.raises(ValueError, match="finite"):
        rehearsal.rehearse({0: networks_kept[0]}, inputs, labels, silent, members, **REHEARSAL)


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
    options = REHEARSAL | {"sizes": [150, 20, 400], "requests": 1, "shown_on": 3, "weight_scales": [1.0, 2.0]}
    options["finetuning"] = options["finetuning"] | {"epochs": 1}
    strengths = rehearsal.rehearse(*pool, **options, on_run=lambda done, runs: seen.append((done, runs)))
    assert [strength.size for strength in strengths] == [20, 100]
    assert seen == [(run, 20) for run in range(1, 21)]


def test_rehearsing_again_gives_the_same_strength(pool):
    options = REHEARSAL | {"requests": 1}
    assert rehearsal.rehearse(*pool, **options) == rehearsal.rehearse(*pool, **options)


def test_the_least_deviation_is_looked_for_between_the_scales_that_were_tried():
    # AUC(z) falls in a straight line over the logarithm of the scale: 0.6, 0.5, 0.4 at 1, 2, 4.
    tried = {(0.1, scale): outcomes(0.6 - 0.1 * step) for step, scale in enumerate((1.0, 2.0, 4.0))}
    assert chosen(tried) == (0.1, 2.0)
    del tried[0.1, 2.0]
    assert chosen(tried) == (0.1, 2.0)


def test_membership_and_accuracy_count_by_their_tolerances():
    tried = {
        (0.2, 1.0): outcomes(auc_z=0.45),  # 0.25
        (0.3, 1.0): outcomes(remaining=0.2),  # 0.16
        (0.4, 1.0): outcomes(remaining=-0.1, accuracy=0.89),  # 0.04 + 0.25
        (0.5, 1.0): outcomes(auc_z=0.455, accuracy=0.95),  # 0.20: a gain costs nothing
    }
    assert chosen(tried) == (0.3, 1.0)
    del tried[0.3, 1.0]
    assert chosen(tried) == (0.5, 1.0)


def test_a_strength_that_costs_too_much_accuracy_is_taken_only_where_all_do():
    tried = {(0.1, 1.0): outcomes(accuracy=0.87), (0.2, 1.0): outcomes(auc_z=0.8)}
    assert chosen(tried) == (0.2, 1.0)
    tried[0.2, 1.0] = outcomes(auc_z=0.8, accuracy=0.86)
    assert chosen(tried) == (0.1, 1.0)


def test_requests_without_an_auc_are_judged_by_membership_alone():
    tried = {(0.1, 1.0): outcomes(None, 0.3), (0.2, 1.0): outcomes(None, -0.1)}
    assert chosen(tried) == (0.2, 1.0)


def test_pooled_membership_is_the_ratio_of_sums_with_its_error():
    found = [rehearsal.Outcome(None, value, weight, 0.9) for value, weight in ((1.0, 3.0), (0.0, 1.0), (0.5, 2.0))]
    ratio, error = rehearsal.pooled(found)
    assert ratio == pytest.approx(4 / 6)
    apart = np.array([3 * (1 - 4 / 6), -4 / 6, 2 * (0.5 - 4 / 6)])
    assert error == pytest.approx(np.sqrt(3 / 2 * (apart**2).sum()) / 6)
    assert rehearsal.pooled(found[:1]) == (1.0, float("inf"))
    assert rehearsal.pooled([rehearsal.Outcome(None, 0.0, 0.0, 0.9)]) == (0.0, float("inf"))


def test_the_pooled_error_is_what_repeating_shows():
    generator = np.random.default_rng(0)
    ratios, errors = [], []
    for _ in range(400):
        weight = generator.gamma(2.0, size=60)
        found = [
            rehearsal.Outcome(None, value, w, 0.9)
            for value, w in zip(generator.normal(0.3, 1, 60), weight, strict=True)
        ]
        ratio, error = rehearsal.pooled(found)
        ratios.append(ratio)
        errors.append(error)
    assert np.mean(ratios) == pytest.approx(0.3, abs=0.03)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": []},
        {"sizes": [0]},
        {"learning_rates": []},
        {"weight_scales": []},
        {"requests": 0},
        {"shown_on": 0},
        {"form": "x"},
    ],
)
def test_what_cannot_be_rehearsed_is_refused(pool, change):
    with pytest.raises(ValueError):
        rehearsal.rehearse(*pool, **REHEARSAL | change)


def test_a_single_pair_of_references_cannot_judge_itself(pool):
    networks_kept, inputs, labels, phi, members = pool
    with pytest.raises(ValueError, match="pair"):
        rehearsal.rehearse({0: networks_kept[0]}, inputs, labels, phi[:2], members[:2], **REHEARSAL)
