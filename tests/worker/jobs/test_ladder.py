"""What follows an attempt."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.ladder import DIVERGED, Step, Tried, next_step, withdraws
from worker.plan import LadderSpec

U, O, P, I, D = "under_unlearned", "over_unlearned", "pass", "inconclusive", DIVERGED  # noqa: E741
SCALE = 3.0


def spec(**changes):
    values = {
        "amun_steps": 3,
        "stronger": 2.0,
        "weaker": 0.5,
        "saliency_share": 0.5,
        "retrain": True,
        "retrain_inconclusive": False,
        "straight_to_retraining": False,
    }
    return LadderSpec(**values | changes)


def climb(ladder, verdicts):
    """The steps tried where the audit finds these in turn, and whether the ladder has ended."""
    tried = []
    for verdict in verdicts:
        step = next_step(tried, ladder, SCALE)
        if step is None:
            return tried, True
        tried.append(Tried(step, verdict))
    return tried, next_step(tried, ladder, SCALE) is None


def told(tried):
    return [(one.step.method, one.step.weight_scale, one.step.started_from) for one in tried]


FIRST = ("amun", 3.0, "base")
STRONGER = ("amun", 6.0, "base")
WEAKER = ("amun", 1.5, "base")
AGAIN = ("amun-a+salun", 3.0, "previous step")
RETRAINED = ("retrain", None, "random initialisation")


@pytest.mark.parametrize(
    ("changes", "verdicts", "steps"),
    [
        ({}, [P], [FIRST]),
        ({}, [I], [FIRST]),
        ({}, [U, P], [FIRST, STRONGER]),
        ({}, [O, P], [FIRST, WEAKER]),
        ({}, [U, I], [FIRST, STRONGER]),
        ({}, [U, U, P], [FIRST, STRONGER, AGAIN]),
        ({}, [O, U, P], [FIRST, WEAKER, AGAIN]),
        ({}, [O, O, P], [FIRST, WEAKER, ("amun-a+salun", 0.75, "base")]),
        ({}, [U, O, P], [FIRST, STRONGER, ("amun-a+salun", 3.0, "base")]),
        ({}, [U, U, U, U], [FIRST, STRONGER, AGAIN, RETRAINED]),
        ({}, [O, O, O, O], [FIRST, WEAKER, ("amun-a+salun", 0.75, "base"), RETRAINED]),
        ({}, [U, D, I], [FIRST, STRONGER, RETRAINED]),
        ({"retrain": False}, [U, U, U], [FIRST, STRONGER, AGAIN]),
        ({"retrain": False}, [U, D], [FIRST, STRONGER]),
        ({"amun_steps": 1}, [U, P], [FIRST, RETRAINED]),
        ({"amun_steps": 2}, [O, U, U], [FIRST, WEAKER, RETRAINED]),
        ({"amun_steps": 1, "retrain": False}, [O], [FIRST]),
        ({"retrain_inconclusive": True}, [I, I], [FIRST, RETRAINED]),
        ({"retrain_inconclusive": True, "retrain": False}, [I, I], [FIRST, RETRAINED]),
        ({"retrain_inconclusive": True}, [U, I, P], [FIRST, STRONGER, RETRAINED]),
        ({"straight_to_retraining": True}, [U], [RETRAINED]),
        ({"straight_to_retraining": True, "retrain": False}, [P], [RETRAINED]),
    ],
)
def test_the_ladder_takes_these_steps_and_ends(changes, verdicts, steps):
    tried, ended = climb(spec(**changes), verdicts)
    assert told(tried) == steps
    assert [one.step.number for one in tried] == list(range(1, len(steps) + 1))
    assert ended


@pytest.mark.parametrize(
    ("changes", "verdicts", "withdrawn"),
    [
        ({}, [P], False),
        ({}, [I], False),
        ({"retrain": False}, [U, U, U], True),
        ({"retrain": False}, [U, U, O], True),
        ({"retrain": False}, [U, U, P], False),
        ({"retrain": False}, [U, D], True),
        ({"amun_steps": 1}, [U, U], False),  # a retrained model is not withdrawn for what its audit says
        ({"amun_steps": 1}, [U, D], True),
        ({"retrain_inconclusive": True}, [I, D], True),
    ],
)
def test_what_ends_without_a_usable_model_is_withdrawn(changes, verdicts, withdrawn):
    tried, ended = climb(spec(**changes), verdicts)
    assert ended
    assert withdraws(tried) is withdrawn


specs = st.builds(
    LadderSpec,
    amun_steps=st.integers(1, 3),
    stronger=st.floats(1.01, 100),
    weaker=st.floats(0.01, 0.99),
    saliency_share=st.floats(0.01, 1),
    retrain=st.booleans(),
    retrain_inconclusive=st.booleans(),
    straight_to_retraining=st.booleans(),
)


@given(specs, st.lists(st.sampled_from([U, O, P, I, D]), min_size=5, max_size=5))
def test_every_ladder_ends_tries_nothing_twice_and_never_climbs_on_what_is_no_failure(ladder, verdicts):
    tried, ended = climb(ladder, verdicts)
    assert ended
    assert len(tried) <= ladder.amun_steps + 1
    strengths = [(one.step.method, one.step.weight_scale) for one in tried]
    assert len(set(strengths)) == len(strengths)
    assert sum(one.step.method != "retrain" for one in tried) <= ladder.amun_steps
    for before, after in itertools.pairwise(tried):
        assert before.verdict != P
        if before.verdict in (I, D):
            assert after.step.method == "retrain"
        assert before.step.method != "retrain"


@pytest.mark.parametrize(
    "changes", [{"amun_steps": 0}, {"amun_steps": 4}, {"stronger": 1.0}, {"weaker": 1.0}, {"weaker": 0.0}]
)
def test_a_ladder_that_cannot_be_climbed_is_refused(changes):
    with pytest.raises(ValueError, match="ladder"):
        next_step([], spec(**changes), SCALE)


def test_the_third_attempt_after_over_is_weaker_than_the_second():
    tried = [Tried(Step(1, "amun", SCALE, "base"), O), Tried(Step(2, "amun", 1.5, "base"), O)]
    assert next_step(tried, spec(), SCALE).weight_scale < 1.5
