import numpy as np
import pytest
from scipy.stats import norm

from worker.unlearning import audit, membership, statistics
from worker.unlearning.verdict import Role, Value

TRAINED, CONTROLS = 900, 1200
CALIBRATION = np.arange(TRAINED, TRAINED + CONTROLS, 2)
AUDIT = CALIBRATION + 1
RULE = {
    "tolerance": 0.10,
    "tolerance_membership": 0.5,
    "level": 0.05,
    "rmia_offline_a": 0.3,
    "rmia_gamma": 1.0,
    "step": 1,
}


class World:
    """Signals of a known law: difficulty, plus an effect where trained on, plus noise."""

    def __init__(self, seed, references=16):
        self.generator = np.random.default_rng(seed)
        rows = TRAINED + CONTROLS
        self.difficulty = self.generator.normal(3, 2, rows)
        self.effect = 3.0 / (1.0 + np.exp((self.difficulty - 3.0) / 2))
        half = np.stack([self.generator.permutation(rows) < rows // 2 for _ in range(references // 2)])
        member = np.stack([half, ~half], axis=1).reshape(references, rows)
        self.references = membership.ReferenceSignals(np.stack([self.signals(row) for row in member]), member)

    def signals(self, share, added=0.0):
        noise = self.generator.normal(0, 0.8, len(self.difficulty))
        return self.difficulty + share * self.effect + added + noise

    def audit(self, forget, *, share=0.0, added=0.0, **changes):
        """The audit of a model to which ``share`` of the forget samples' effect is left, ``added`` their shift."""
        left, shift = np.zeros(TRAINED + CONTROLS), np.zeros(TRAINED + CONTROLS)
        left[:TRAINED] = 1.0
        left[forget], shift[forget] = share, added
        phi = self.signals(left, shift)
        return audit.measure(phi, self.references, forget, CALIBRATION, AUDIT, **RULE | changes)


@pytest.fixture(scope="module")
def world():
    return World(0)


def named(result):
    return {estimate.name: estimate for estimate in result.estimates}


def test_models_that_never_saw_the_forget_set_pass_and_members_are_found():
    verdicts = {"never": [], "member": []}
    for seed in range(10):
        world = World(seed)
        verdicts["never"].append(world.audit(np.arange(200)).verdict.value)
        verdicts["member"].append(world.audit(np.arange(200), share=1.0).verdict.value)
    # Two families at 5% each: about one honest model in fifteen is refused.
    assert verdicts["never"].count(Value.PASS) >= 8
    assert verdicts["member"] == [Value.UNDER_UNLEARNED] * 10


@pytest.mark.parametrize("tolerance", [0.05, 0.10])
def test_an_auc_of_0_40_with_100_against_100_is_over_unlearned(tolerance):
    # Normal z scores whose quantiles are exact, so that the AUC is 0.40 by construction.
    grid = norm.ppf((np.arange(100) + 0.5) / 100)
    shift = np.sqrt(2) * norm.ppf(0.40)
    rows, difficulty = 300, np.zeros(300)
    forget, calibration, controls = np.arange(100), np.arange(100, 200), np.arange(200, 300)
    phi = difficulty + np.concatenate([grid + shift, grid, grid])
    member = np.arange(16)[:, None] % 2 == np.arange(rows) % 2
    noise = np.random.default_rng(0).normal(0, 1, (16, rows))
    references = membership.ReferenceSignals(noise + 0.5 * member, member)
    # One level of difficulty, so that the fitted curve is the mean.
    references.mean_out = difficulty
    result = audit.measure(phi, references, forget, calibration, controls, **RULE | {"tolerance": tolerance})
    assert named(result)["z"].auc == pytest.approx(0.40, abs=0.01)
    assert result.verdict.value is Value.OVER_UNLEARNED


def test_hard_images_still_members_and_easy_ones_over_unlearned_are_not_a_pass(world):
    forget = np.arange(300)
    hard = world.difficulty < np.median(world.difficulty)
    added = np.where(hard[forget], 1.0, -1.0)
    result = world.audit(forget, added=added)
    assert abs(named(result)["z"].estimate) < 0.05  # the signs cancel here
    assert result.verdict.value is Value.UNDER_UNLEARNED
    assert named(result)["third_hard"].estimate > 0 > named(result)["third_easy"].estimate


def test_five_samples_give_no_auc_and_no_verdict_but_their_own_z(world):
    result = world.audit(np.arange(5))
    assert result.verdict.value is Value.INCONCLUSIVE
    assert [estimate.name for estimate in result.estimates] == ["membership"]
    assert result.blind_auc is result.loss_null is result.tpr is result.tpr_at_zero is None
    assert [sample.row for sample in result.samples] == [0, 1, 2, 3, 4]
    assert all(sample.low < sample.z < sample.high for sample in result.samples)


def test_the_estimates_are_those_of_the_policy_with_z_alone_primary(world):
    result = world.audit(np.arange(200))
    names = ["z", "rmia", "lira", "absolute_z", "loss", "third_hard", "third_middle", "third_easy", "membership"]
    assert [estimate.name for estimate in result.estimates] == names
    assert [estimate.name for estimate in result.estimates if estimate.role is Role.PRIMARY] == ["z"]
    tolerances = {estimate.name: estimate.tolerance for estimate in result.estimates}
    assert tolerances["z"] == tolerances["rmia"] == 0.10
    assert tolerances["third_hard"] == 0.20
    assert tolerances["membership"] == 0.5


def test_a_third_with_fewer_than_20_forget_samples_is_not_judged(world):
    easy = np.argsort(world.difficulty[:TRAINED])[-60:]
    names = named(world.audit(easy))
    assert "third_easy" in names
    assert "third_hard" not in names


def test_loss_is_compared_with_what_untrained_models_show_on_unusual_samples(world):
    hard = np.argsort(world.difficulty[:TRAINED])[:150]
    result = world.audit(hard)
    assert named(result)["loss"].auc < 0.3
    assert abs(named(result)["loss"].estimate) < 0.03
    assert result.blind_auc < 0.3
    assert not {"z", "loss", "membership"} & result.verdict.bad


def test_six_references_never_pass():
    world = World(1, references=6)
    assert world.audit(np.arange(200)).verdict.value is not Value.PASS


def test_rates_are_read_off_only_where_controls_are_enough(world):
    result = world.audit(np.arange(200), share=1.0)
    assert (result.tpr, result.tpr_at_fpr) == (None, None)
    z = result.scores["z"]
    above = int((z.forget > z.controls.max()).sum())
    assert result.tpr_at_zero == above / 200
    assert result.tpr_at_zero_high == statistics.share_upper_bound(above, 200)


def test_with_a_thousand_controls_the_rate_at_one_percent_is_given():
    generator = np.random.default_rng(0)
    rows = 2200
    member = np.arange(8)[:, None] % 2 == np.arange(rows) % 2
    difficulty = generator.normal(size=rows)
    references = membership.ReferenceSignals(difficulty + member + generator.normal(0, 0.5, (8, rows)), member)
    phi = difficulty + generator.normal(0, 0.5, rows)
    phi[:100] += 5
    result = audit.measure(phi, references, np.arange(100), np.arange(100, 1100), np.arange(1100, 2200), **RULE)
    assert (result.tpr, result.tpr_at_fpr) == (1.0, 0.01)
    assert result.tpr_at_zero is result.tpr_at_zero_high is None


def test_a_sample_is_testable_where_its_effect_is_large(world):
    result = world.audit(np.arange(300))
    testable = np.array([sample.testable for sample in result.samples])
    assert world.effect[:300][testable].min() > np.median(world.effect[:300])


def test_the_smallest_detectable_shift_follows_from_the_two_sizes(world):
    assert world.audit(np.arange(100)).smallest_detectable_shift == pytest.approx(
        2.80 * np.sqrt((100 + 600 + 1) / (12 * 100 * 600))
    )


def test_scores_keep_the_order_of_the_rows(world):
    forget = np.array([7, 3, 250, 11] + list(range(20, 60)))
    scores = world.audit(forget).scores
    assert scores["difficulty"].forget.tolist() == world.references.mean_out[forget].tolist()
    assert scores["difficulty"].controls.tolist() == world.references.mean_out[AUDIT].tolist()
    assert {name: (len(pair.forget), len(pair.controls)) for name, pair in scores.items()} == dict.fromkeys(
        ["z", "rmia", "lira", "loss", "difficulty"], (44, 600)
    )


def test_without_a_membership_effect_there_is_no_share_of_it(world):
    rows = TRAINED + CONTROLS
    member = np.arange(8)[:, None] % 2 == np.arange(rows) % 2
    noise = np.repeat(world.generator.normal(size=(4, rows)), 2, axis=0)
    references = membership.ReferenceSignals(world.difficulty + noise, member)
    result = audit.measure(world.signals(0.0), references, np.arange(200), CALIBRATION, AUDIT, **RULE)
    assert "membership" not in named(result)


@pytest.mark.parametrize(
    ("forget", "calibration", "controls"),
    [
        (np.arange(0), CALIBRATION, AUDIT),
        (np.arange(50), CALIBRATION, AUDIT[:1]),
        (np.arange(50), CALIBRATION, np.concatenate([AUDIT, [3]])),
        (np.arange(50), AUDIT, AUDIT),
        (np.array([1, 1, 2]), CALIBRATION, AUDIT),
    ],
)
def test_sets_that_are_empty_or_overlap_are_refused(world, forget, calibration, controls):
    with pytest.raises(ValueError):
        audit.measure(world.signals(0.0), world.references, forget, calibration, controls, **RULE)
