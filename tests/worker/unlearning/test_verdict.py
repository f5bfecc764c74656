import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.unlearning.verdict import Estimate, Role, Value, judge

RULE = {"level": 0.05, "step": 1, "references": 16}


def primary(estimate, standard_error, tolerance=0.1):
    return Estimate("z", Role.PRIMARY, estimate, standard_error, tolerance)


def secondary(estimate, standard_error, name="rmia", tolerance=0.1):
    return Estimate(name, Role.SECONDARY, estimate, standard_error, tolerance)


numbers = st.floats(-0.5, 0.5)
errors = st.floats(0, 0.3)
primaries = st.builds(primary, numbers, errors)
secondaries = st.lists(st.tuples(numbers, errors), max_size=8).map(
    lambda pairs: [secondary(*pair, name=f"attack {place}") for place, pair in enumerate(pairs)]
)


def mirrored(estimate):
    return Estimate(estimate.name, estimate.role, -estimate.estimate, estimate.standard_error, estimate.tolerance)


def test_an_estimate_well_within_the_tolerance_passes():
    assert judge([primary(0.01, 0.03)], **RULE).value is Value.PASS


def test_an_estimate_that_may_lie_outside_is_inconclusive():
    assert judge([primary(0.01, 0.06)], **RULE).value is Value.INCONCLUSIVE  # 0.01 + 1.645 x 0.06 > 0.10


@pytest.mark.fault(19)
@pytest.mark.parametrize(("estimate", "value"), [(0.12, Value.UNDER_UNLEARNED), (-0.12, Value.OVER_UNLEARNED)])
def test_an_estimate_outside_and_different_from_zero_fails_by_its_sign(estimate, value):
    verdict = judge([primary(estimate, 0.04)], **RULE)
    assert verdict.value is value
    assert verdict.bad == {"z"}
    assert "z" in verdict.reasons[0]


def test_an_estimate_different_from_zero_but_inside_the_tolerance_passes():
    assert judge([primary(0.05, 0.02)], **RULE).value is Value.PASS


def test_a_secondary_estimate_vetoes():
    verdict = judge([primary(0.0, 0.03), secondary(0.3, 0.05)], **RULE)
    assert verdict.value is Value.UNDER_UNLEARNED
    assert verdict.bad == {"rmia"}


def test_a_secondary_estimate_never_makes_a_pass():
    assert judge([primary(0.01, 0.06), secondary(0.0, 0.001)], **RULE).value is Value.INCONCLUSIVE


def test_secondary_estimates_share_one_level():
    one = secondary(0.10, 0.045)  # p = 0.026: rejected alone, not among three
    assert judge([primary(0, 0.03), one], **RULE).value is Value.UNDER_UNLEARNED
    rest = [secondary(0.0, 0.05, name="lira"), secondary(0.0, 0.05, name="loss")]
    assert judge([primary(0, 0.03), one, *rest], **RULE).value is Value.PASS


def test_one_estimate_above_zero_outweighs_those_below():
    estimates = [primary(-0.2, 0.03), secondary(0.2, 0.03)]
    assert judge(estimates, **RULE).value is Value.UNDER_UNLEARNED


def test_a_later_step_needs_more_evidence_to_fail():
    estimates = [primary(0.10, 0.045)]  # p = 0.026
    assert judge(estimates, **RULE).value is Value.UNDER_UNLEARNED
    assert judge(estimates, **RULE | {"step": 2}).value is Value.INCONCLUSIVE


def test_fewer_than_eight_references_never_pass():
    assert judge([primary(0.0, 0.01)], **RULE | {"references": 8}).value is Value.PASS
    verdict = judge([primary(0.0, 0.01)], **RULE | {"references": 6})
    assert verdict.value is Value.INCONCLUSIVE
    assert "6 reference models" in verdict.reasons[0]


def test_without_estimates_nothing_is_concluded():
    assert judge([], **RULE).value is Value.INCONCLUSIVE


@pytest.mark.parametrize("estimates", [[primary(0, 0.1), primary(0, 0.1)], [secondary(0, 0.1), secondary(0, 0.1)]])
def test_two_primary_estimates_or_two_of_one_name_are_refused(estimates):
    with pytest.raises(ValueError):
        judge(estimates, **RULE)


@pytest.mark.parametrize("numbers", [(math.nan, 0.1), (0.1, math.nan), (math.inf, 0.1), (0.1, -0.1)])
def test_numbers_that_are_no_estimate_are_refused(numbers):
    with pytest.raises(ValueError):
        primary(*numbers)


@given(primaries, secondaries, st.integers(1, 3), st.integers(2, 32))
def test_exactly_one_verdict_holds(first, others, step, references):
    verdict = judge([first, *others], level=0.05, step=step, references=references)
    by_name = {estimate.name: estimate for estimate in [first, *others]}
    bad = [by_name[name].estimate for name in verdict.bad]
    holds = {
        Value.UNDER_UNLEARNED: any(value > 0 for value in bad),
        Value.OVER_UNLEARNED: bool(bad) and all(value < 0 for value in bad),
        Value.PASS: not bad and first.inside and references >= 8,
        Value.INCONCLUSIVE: not bad and not (first.inside and references >= 8),
    }
    assert [value for value, true in holds.items() if true] == [verdict.value]
    assert all(not by_name[name].inside and by_name[name].p_value < 0.05 for name in verdict.bad)
    assert verdict.reasons


@given(primaries, secondaries)
def test_the_rule_treats_both_signs_alike(first, others):
    estimates = [first, *others]
    one, other = judge(estimates, **RULE), judge([mirrored(estimate) for estimate in estimates], **RULE)
    assert one.bad == other.bad
    assert (one.value is Value.PASS) == (other.value is Value.PASS)
    assert (one.value is Value.INCONCLUSIVE) == (other.value is Value.INCONCLUSIVE)
    if one.value is Value.OVER_UNLEARNED:
        assert other.value is Value.UNDER_UNLEARNED
