import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest, norm
from sklearn.svm import SVC

from worker.unlearning import membership, statistics

TRAINED, CONTROLS, REFERENCES = 600, 900, 16
FORGET = np.arange(150)
CALIBRATION = np.arange(TRAINED, TRAINED + CONTROLS, 2)
AUDIT = CALIBRATION + 1
PLAIN = {"scale": 1.0, "power": 1.0, "spread": False, "seed": 0}


def effect_of(difficulty):
    """Hard images are memorised, easy ones are not."""
    return 3.0 / (1.0 + np.exp(difficulty - 2.0))


class World:
    """Signals drawn from a known law: difficulty + noise, and the effect where a model was trained on the sample."""

    def __init__(self, seed, references=REFERENCES, noise=0.8):
        self.generator = np.random.default_rng(seed)
        self.noise = noise
        rows = TRAINED + CONTROLS
        self.difficulty = self.generator.normal(3, 2, rows)
        self.effect = effect_of(self.difficulty)
        half = np.stack([self.generator.permutation(rows) < rows // 2 for _ in range(references // 2)])
        self.member = np.stack([half, ~half], axis=1).reshape(references, rows)
        self.phi = np.stack([self.signals(member) for member in self.member])
        self.references = membership.ReferenceSignals(self.phi, self.member)

    def signals(self, share):
        """Signals of one model to which ``share`` (0..1) of each sample's effect is left."""
        return self.difficulty + share * self.effect + self.generator.normal(0, self.noise, len(self.difficulty))

    def target(self, forget_share, *, shift=0.0, stretch=1.0):
        share = np.zeros(TRAINED + CONTROLS)
        share[:TRAINED] = 1.0
        share[FORGET] = forget_share
        return shift + stretch * self.signals(share)


@pytest.fixture(scope="module")
def world():
    return World(0)


def test_signal_is_the_difference_of_log_probability_and_log_of_the_rest():
    logits, labels = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 7
    p = F.softmax(logits.double(), 1).gather(1, labels[:, None])[:, 0]
    assert np.allclose(membership.signal(logits, labels), torch.log(p / (1 - p)).numpy())


def test_signal_does_not_saturate():
    logits = torch.tensor([[900.0, 0.0, 0.0], [-900.0, 0.0, 0.0]])
    assert np.allclose(membership.signal(logits, torch.zeros(2).long()), [900 - np.log(2), -900 - np.log(2)])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.tensor([[1.0, torch.nan]]), torch.tensor([0])),
        (torch.tensor([[1.0, torch.inf]]), torch.tensor([0])),
        (torch.ones(2, 1), torch.zeros(2).long()),
        (torch.ones(2, 3), torch.zeros(3).long()),
    ],
)
def test_signals_that_cannot_be_are_refused(logits, labels):
    with pytest.raises(ValueError):
        membership.signal(logits, labels)


def test_modified_entropy_equals_its_formula():
    logits, labels = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4
    for row, p in enumerate(F.softmax(logits.double(), 1).numpy()):
        y = labels[row].item()
        others = sum(-p[i] * np.log(1 - p[i]) for i in range(4) if i != y)
        expected = -(1 - p[y]) * np.log(p[y]) + others
        assert membership.modified_entropy(logits, labels)[row] == pytest.approx(-expected)


def test_means_of_references_by_hand():
    phi = np.array([[1.0, 5.0], [2.0, 7.0], [6.0, 9.0], [10.0, 3.0]])
    member = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=bool)
    signals = membership.ReferenceSignals(phi, member)
    assert signals.mean_in.tolist() == [3.5, 5.0]
    assert signals.mean_out.tolist() == [6.0, 7.0]
    assert signals.sd_out == pytest.approx(np.sqrt((16 + 16 + 4 + 4) / 2))
    assert signals.probability_in[0] == pytest.approx((1 / (1 + np.exp(-1.0)) + 1 / (1 + np.exp(-6.0))) / 2)
    assert len(signals) == 4


def test_shrunken_effect_is_nearer_the_truth_than_the_raw_one(world):
    raw = np.mean((world.references.raw_effect - world.effect) ** 2)
    assert np.mean((world.references.effect - world.effect) ** 2) < raw / 2


def test_two_references_still_give_an_effect(world):
    signals = membership.ReferenceSignals(world.phi[:2], world.member[:2])
    assert np.isfinite(signals.effect).all()
    with pytest.raises(ValueError):
        membership.lira(world.target(1.0), signals, online=True)


def test_a_sample_that_no_reference_or_every_reference_saw_is_refused():
    phi = np.zeros((2, 3))
    with pytest.raises(ValueError):
        membership.ReferenceSignals(phi, np.array([[1, 0, 0], [0, 1, 0]], dtype=bool))
    with pytest.raises(ValueError):
        membership.ReferenceSignals(phi + np.nan, np.array([[1, 0, 0], [0, 1, 1]], dtype=bool))


def test_z_of_samples_never_trained_on_is_standard_normal(world):
    z = membership.calibrate(world.target(0.0), world.references, CALIBRATION).z
    assert z[FORGET].mean() == pytest.approx(0, abs=0.2)
    assert z[AUDIT].std() == pytest.approx(1, abs=0.1)


def test_z_does_not_change_when_the_target_is_shifted_and_stretched(world):
    state = world.generator.bit_generator.state
    plain = membership.calibrate(world.target(0.5), world.references, CALIBRATION).z
    world.generator.bit_generator.state = state
    other = membership.calibrate(world.target(0.5, shift=-4.0, stretch=1.7), world.references, CALIBRATION).z
    assert np.allclose(plain, other)


def test_scale_stays_positive_beyond_the_calibrated_difficulties():
    rows = 100
    difficulty = np.linspace(0, 10, rows)
    phi = np.stack([difficulty + 0.1, difficulty - 0.1])
    member = np.zeros((2, rows), dtype=bool)
    member[0] = True
    references = membership.ReferenceSignals(phi, member)
    # The spread falls to nothing at difficulty 5, so that the line is negative beyond it.
    target = difficulty + np.where(np.arange(rows) % 2, 1, -1) * np.maximum(5 - difficulty, 0.01)
    scale = membership.calibrate(target, references, np.arange(50)).scale
    assert (scale > 0).all()
    assert scale[-1] == pytest.approx(scale.min())


def test_calibration_refuses_too_few_controls_and_controls_without_spread(world):
    phi = world.target(0.0)
    with pytest.raises(ValueError, match="at least 10"):
        membership.calibrate(phi, world.references, CALIBRATION[:9])
    with pytest.raises(ValueError, match="no spread"):
        membership.calibrate(np.full_like(phi, 2.0), world.references, CALIBRATION)
    with pytest.raises(ValueError, match="finite"):
        membership.calibrate(phi * np.nan, world.references, CALIBRATION)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0, -0.5])
def test_remaining_membership_finds_the_share_that_is_left_and_knows_its_error(share):
    found, errors = [], []
    for seed in range(40):
        world = World(seed)
        calibration = membership.calibrate(world.target(share), world.references, CALIBRATION)
        remaining = membership.remaining_membership(calibration, world.references, FORGET, AUDIT)
        found.append(remaining.value)
        errors.append(remaining.standard_error)
    assert np.mean(found) == pytest.approx(share, abs=0.06)
    # The standard deviation of 40 is itself known to 11%.
    assert np.std(found, ddof=1) == pytest.approx(np.mean(errors), rel=0.35)


def test_remaining_membership_needs_an_effect():
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=60)
    member = np.zeros((4, 60), dtype=bool)
    member[::2] = True
    references = membership.ReferenceSignals(np.tile(difficulty, (4, 1)), member)
    calibration = membership.calibrate(difficulty + generator.normal(size=60), references, np.arange(30))
    with pytest.raises(membership.NoEffect):
        membership.remaining_membership(calibration, references, np.arange(30, 40), np.arange(40, 60))


def test_memorisation_weights_follow_the_effect(world):
    everything = np.arange(TRAINED + CONTROLS)
    weights = membership.memorisation_weights(world.references, everything, **PLAIN)
    assert weights.min() >= 0
    assert weights.max() == 1
    hard, easy = world.difficulty < 1, world.difficulty > 5
    assert weights[hard].mean() > 0.7
    assert weights[easy].mean() < 0.2
    assert np.allclose(
        membership.memorisation_weights(world.references, FORGET, **PLAIN | {"power": 2.0, "scale": 3.0}),
        3 * weights[FORGET] ** 2,
    )


def test_memorisation_weights_are_one_where_nothing_is_memorised():
    member = np.array([[True] * 5, [False] * 5])
    references = membership.ReferenceSignals(np.tile(np.arange(5.0), (2, 1)), member)
    assert membership.memorisation_weights(references, np.arange(5), **PLAIN).tolist() == [1.0] * 5


def test_spread_weights_vary_as_an_exponential_law_does_and_follow_from_the_seed(world):
    many = np.tile(FORGET, 40)
    plain = membership.memorisation_weights(world.references, many, **PLAIN)
    spread = membership.memorisation_weights(world.references, many, **PLAIN | {"spread": True})
    factor = spread[plain > 0] / plain[plain > 0]
    assert kstest(factor, "expon").pvalue > 0.001
    again = membership.memorisation_weights(world.references, many, **PLAIN | {"spread": True})
    other = membership.memorisation_weights(world.references, many, **PLAIN | {"spread": True, "seed": 1})
    assert np.array_equal(spread, again)
    assert not np.array_equal(spread, other)


@pytest.mark.parametrize("change", [{"power": -1.0}, {"scale": 0.0}])
def test_weights_out_of_range_are_refused(world, change):
    with pytest.raises(ValueError, match="out of range"):
        membership.memorisation_weights(world.references, FORGET, **PLAIN | change)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("offline_a", [0.3, None])
def test_rmia_equals_its_quadratic_formula(world, gamma, offline_a):
    phi, references = world.target(0.7), world.references
    p_model = 1 / (1 + np.exp(-phi))
    if offline_a is None:
        p = (references.probability_in + references.probability_out) / 2
    else:
        p = 0.5 * ((1 + offline_a) * references.probability_out + (1 - offline_a))
    expected = [np.mean([p_model[x] / p[x] / (p_model[z] / p[z]) >= gamma for z in CALIBRATION]) for x in FORGET]
    scores = membership.rmia(phi, references, FORGET, CALIBRATION, gamma=gamma, offline_a=offline_a)
    # Rounding decides a tie with one member of the population at most.
    assert np.abs(scores - expected).max() <= 1 / len(CALIBRATION)


def test_rmia_counts_a_sample_equal_to_the_population_as_above_it():
    member = np.array([[True] * 4, [False] * 4])
    references = membership.ReferenceSignals(np.zeros((2, 4)), member)
    scores = membership.rmia(np.zeros(4), references, np.arange(2), np.arange(2, 4), gamma=1.0, offline_a=None)
    assert scores.tolist() == [1.0, 1.0]


def test_rmia_refuses_an_empty_population(world):
    with pytest.raises(ValueError):
        membership.rmia(world.target(1.0), world.references, FORGET, AUDIT[:0], gamma=1.0, offline_a=0.3)


def test_online_lira_is_the_difference_of_two_normal_log_densities(world):
    phi, references = world.target(1.0), world.references
    expected = norm.logpdf(phi, references.mean_in, references.sd_in) - norm.logpdf(
        phi, references.mean_out, references.sd_out
    )
    assert np.allclose(membership.lira(phi, references, online=True), expected)


def test_offline_lira_orders_as_the_normal_distribution_function_without_saturating(world):
    phi, references = world.target(1.0), world.references
    scores = membership.lira(phi, references, online=False)
    expected = norm.cdf((phi - references.mean_out) / references.sd_out)
    assert np.allclose(1 - np.exp(-scores), expected)
    far = membership.lira(phi + 50, references, online=False)
    assert len(np.unique(far)) == len(np.unique(phi - references.mean_out))


def test_loss_is_the_log_probability_of_the_true_class():
    logits, labels = torch.randn(30, 5, generator=torch.Generator().manual_seed(2)), torch.arange(30) % 5
    expected = -F.cross_entropy(logits.double(), labels, reduction="none").numpy()
    assert np.allclose(membership.loss(membership.signal(logits, labels)), expected)


@pytest.mark.parametrize("attack", ["z", "rmia", "rmia online", "lira", "lira offline", "loss"])
def test_every_attack_tells_members_apart(world, attack):
    phi, references = world.target(1.0), world.references
    rows = np.concatenate([FORGET, AUDIT])
    scores = {
        "z": lambda: membership.calibrate(phi, references, CALIBRATION).z[rows],
        "rmia": lambda: membership.rmia(phi, references, rows, CALIBRATION, gamma=1.0, offline_a=0.3),
        "rmia online": lambda: membership.rmia(phi, references, rows, CALIBRATION, gamma=1.0, offline_a=None),
        "lira": lambda: membership.lira(phi, references, online=True)[rows],
        "lira offline": lambda: membership.lira(phi, references, online=False)[rows],
        "loss": lambda: membership.loss(phi)[rows],
    }[attack]()
    assert statistics.auc(scores[: len(FORGET)], scores[len(FORGET) :]).value > 0.58


def test_the_loss_null_is_what_a_retrained_model_shows_on_unusual_samples(world):
    hard = np.argsort(world.difficulty[:TRAINED])[:100]
    null = membership.loss_null(world.references, hard, AUDIT)
    share = np.zeros(TRAINED + CONTROLS)
    retrained = [world.signals(share) for _ in range(8)]
    shown = np.mean([statistics.auc(phi[hard], phi[AUDIT]).value for phi in retrained])
    assert shown < 0.3
    assert null == pytest.approx(shown, abs=0.02)


def test_there_is_no_loss_null_where_no_reference_leaves_two_samples(world):
    assert membership.loss_null(world.references, FORGET[:1], AUDIT) is None


def test_the_null_of_modified_entropy_is_what_models_show_that_never_saw_the_images():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 200, 4, generator=generator)
    labels = torch.arange(200) % 4
    scores = np.stack([membership.modified_entropy(one, labels) for one in logits])
    member = np.random.default_rng(0).random((6, 200)) < 0.5
    forget, controls = np.arange(60), np.arange(60, 200)
    expected = []
    for own, trained_on in zip(scores, member, strict=True):
        pairs = [
            (own[f] > own[c]) + 0.5 * (own[f] == own[c])
            for f in forget
            for c in controls
            if not trained_on[f] and not trained_on[c]
        ]
        expected.append(np.mean(pairs))
    assert membership.null_auc(scores, member, forget, controls) == pytest.approx(np.mean(expected))


def test_rmia_of_60_000_samples_against_60_000_needs_no_square_array():
    generator = np.random.default_rng(0)
    rows = 120_000
    member = np.zeros((4, rows), dtype=bool)
    member[::2] = True
    references = membership.ReferenceSignals(generator.normal(size=(4, rows)), member)
    phi = generator.normal(size=rows)
    tracemalloc.start()
    scores = membership.rmia(phi, references, np.arange(60_000), np.arange(60_000, rows), gamma=1.0, offline_a=0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(scores) == 60_000
    assert peak < 20e6  # bytes; the square array would take 3.6e9 even as booleans


def test_the_svc_attack_calls_most_of_what_looks_like_a_control_non_members():
    generator = np.random.default_rng(0)
    members, controls = generator.normal(6, 1, 400), generator.normal(1, 2, 300)
    phi = np.concatenate([members, controls, generator.normal(6, 1, 100), generator.normal(1, 2, 100)])
    rows = np.split(np.arange(900), [400, 700, 800])
    remembered = membership.svc_non_members(phi, rows[0], rows[1], rows[2], seed=0)
    forgotten = membership.svc_non_members(phi, rows[0], rows[1], rows[3], seed=0)
    assert remembered < 0.15
    assert forgotten > 0.8


def test_the_svc_attack_decides_as_its_kernel_expansion_does():
    generator = np.random.default_rng(1)
    phi = np.concatenate([generator.normal(2, 1, 30), generator.normal(0, 1, 30), generator.normal(1, 2, 50)])
    rows = np.split(np.arange(110), [30, 60])
    p = 1 / (1 + np.exp(-phi))
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(p[:60, None], np.repeat([1, 0], 30))
    kernel = np.exp(-((p[60:, None] - attack.support_vectors_[:, 0]) ** 2))  # gamma "auto": one feature
    decision = kernel @ attack.dual_coef_[0] + attack.intercept_[0]
    assert membership.svc_non_members(phi, *rows, seed=0) == pytest.approx((decision < 0).mean())


def test_the_svc_attack_needs_all_three_groups():
    with pytest.raises(ValueError, match="SVC"):
        membership.svc_non_members(np.zeros(4), np.arange(2), np.arange(0), np.arange(2, 4), seed=0)
