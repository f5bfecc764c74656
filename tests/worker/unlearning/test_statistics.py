import math

import numpy as np
import pytest
from scipy.stats import beta, norm, rankdata
from sklearn.metrics import roc_auc_score, roc_curve

from worker.unlearning import statistics


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_auc_counts_pairs_and_halves_ties():
    assert statistics.auc([1, 2, 3], [0, 2, 2]).value == pytest.approx((1 + 2 + 3) / 9)  # pairs: 1, 1 + 1/2 + 1/2, 3


def test_auc_agrees_with_scikit_learn_where_scores_are_tied(generator):
    members, others = generator.integers(0, 6, 80), generator.integers(0, 5, 130)
    truth = np.r_[np.ones(80), np.zeros(130)]
    assert statistics.auc(members, others).value == pytest.approx(roc_auc_score(truth, np.r_[members, others]))


def test_delongs_error_equals_the_quadratic_formula(generator):
    members, others = generator.normal(0.5, 1, 30).round(1), generator.normal(0, 1, 50).round(1)
    wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    expected = math.sqrt(wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / 50)
    assert statistics.auc(members, others).standard_error == pytest.approx(expected)


def test_auc_of_shifted_normals_is_the_binormal_one_and_its_interval_covers_it(generator):
    truth, covered = norm.cdf(0.5 / math.sqrt(2)), 0
    for _ in range(400):
        estimate = statistics.auc(generator.normal(0.5, 1, 60), generator.normal(0, 1, 90))
        covered += estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98


def test_swapping_the_sides_mirrors_the_auc(generator):
    members, others = generator.normal(size=40), generator.normal(size=70)
    one, other = statistics.auc(members, others), statistics.auc(others, members)
    assert one.value == pytest.approx(1 - other.value)
    assert one.standard_error == pytest.approx(other.standard_error)


@pytest.mark.parametrize("values", [[3.0, 1.0, 3.0, np.inf, -np.inf, 1.0], [], [5.0], [0.0, -0.0, 1e-300]])
def test_midranks_are_scipys(values):
    assert statistics.midranks(values).tolist() == rankdata(values).tolist()


def test_midranks_of_many_tied_values_are_scipys(generator):
    values = generator.integers(0, 300, 5000) / 7
    assert statistics.midranks(values).tolist() == rankdata(values).tolist()


def test_infinite_scores_are_ranked():
    assert statistics.auc([np.inf, 1.0], [-np.inf, 0.0]).value == 1.0


@pytest.mark.parametrize(("members", "others", "value"), [([2, 3, 4], [0, 1, 1], 1.0), ([5, 5, 5], [5, 5, 5], 0.5)])
def test_perfect_separation_and_all_ties_still_have_an_interval(members, others, value):
    estimate = statistics.auc(members, others)
    assert estimate.value == value
    assert estimate.standard_error == statistics.null_standard_error(3, 3)
    assert estimate.low < value


@pytest.mark.parametrize(("members", "others"), [([1.0], [0.0, 1.0]), ([1.0, 2.0], []), ([1.0, math.nan], [0.0, 1.0])])
def test_too_few_scores_and_nan_are_refused(members, others):
    with pytest.raises(ValueError):
        statistics.auc(members, others)


def test_the_error_at_a_half_of_5000_against_5000_is_0_58_points():
    assert 100 * statistics.null_standard_error(5000, 5000) == pytest.approx(0.577, abs=0.001)


@pytest.mark.parametrize(("tolerance", "members"), [(0.10, 71), (0.05, 285)])
def test_power_figures_of_a_pass(tolerance, members):
    # A pass needs |estimate| + 1.645 se < tolerance; with 80% power about (1.645 + 1.28) se = tolerance.
    assert 2.926 * statistics.null_standard_error(members, 100 * members) == pytest.approx(tolerance, rel=0.02)
    assert statistics.smallest_detectable_shift(members, 100 * members) == pytest.approx(
        tolerance * 2.80 / 2.926, rel=0.02
    )


def test_a_shift_of_the_smallest_detectable_size_is_found_four_times_in_five(generator):
    shift = statistics.smallest_detectable_shift(100, 200)
    distance = norm.ppf(0.5 + shift) * math.sqrt(2)
    found = 0
    for _ in range(600):
        estimate = statistics.auc(generator.normal(distance, 1, 100), generator.normal(0, 1, 200))
        found += statistics.two_sided_p(estimate.value - 0.5, estimate.standard_error) < 0.05
    assert 0.74 <= found / 600 <= 0.87


def test_roc_points_agree_with_scikit_learn(generator):
    members, others = generator.integers(0, 6, 80), generator.integers(0, 5, 130)
    truth = np.r_[np.ones(80), np.zeros(130)]
    false, true, _ = roc_curve(truth, np.r_[members, others], drop_intermediate=False)
    got = statistics.roc_points(members, others)
    assert np.allclose(got[0], false)
    assert np.allclose(got[1], true)


def test_true_positives_at_a_false_positive_rate_by_hand():
    members, others = [0, 3, 5, 6], np.arange(5)
    assert statistics.tpr_at_fpr(members, others, 0.0) == 0.5
    assert statistics.tpr_at_fpr(members, others, 0.19) == 0.5
    assert statistics.tpr_at_fpr(members, others, 0.4) == 0.75
    assert statistics.tpr_at_fpr([1.0, 1.0], [1.0, 2.0], 0.0) == 0.0


def test_bound_of_a_share_is_the_rule_of_three_for_no_success():
    assert statistics.share_upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert statistics.share_upper_bound(7, 7) == 1.0
    assert statistics.share_upper_bound(3, 40) == pytest.approx(beta.ppf(0.95, 4, 37), rel=1e-12)


def test_wilson_interval_of_published_example():
    assert statistics.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=2e-4)  # Newcombe 1998, table I
    assert statistics.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=2e-4)
    assert statistics.wilson(0, 0) == (0.0, 1.0)


def test_two_sided_p_values():
    assert statistics.two_sided_p(-1.959964, 1.0) == pytest.approx(0.05)
    assert statistics.two_sided_p(0.0, 0.0) == 1.0
    assert statistics.two_sided_p(0.1, 0.0) == 0.0


@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),  # Holm 1979: 0.03 > 0.05 / 2 stops it
        ([0.2, 0.001], [False, True]),
        ([0.04], [True]),
        ([0.04, 0.04], [False, False]),
        ([], []),
    ],
)
def test_holm_stops_at_the_first_hypothesis_that_stands(p_values, rejected):
    assert statistics.holm(p_values, 0.05).tolist() == rejected


def test_a_paired_change_counts_only_the_samples_that_changed():
    # 3 of 100 lost and 1 won: mean -0.02, variance of the differences (4 - 100 x 0.02^2) / 99.
    before, after = np.ones(100, dtype=bool), np.ones(100, dtype=bool)
    before[0], after[1:4] = False, False
    change = statistics.paired_change(before, after)
    reach = 1.96 * np.sqrt((4 - 0.04) / 99 / 100)
    assert change.value == pytest.approx(-0.02)
    assert (change.low, change.high) == pytest.approx((-0.02 - reach, -0.02 + reach))


def test_where_no_sample_changed_the_interval_still_has_a_width():
    change = statistics.paired_change([True] * 59, [True] * 59)
    assert change.value == 0
    assert change.high == pytest.approx(0.05, abs=0.001)  # none of 59: the rule of three
    assert change.low == -change.high


@pytest.mark.parametrize(("before", "after"), [([True], [True]), ([True, False], [True])])
def test_a_change_of_other_or_too_few_samples_is_refused(before, after):
    with pytest.raises(ValueError):
        statistics.paired_change(before, after)
