"""One verdict of a whole and its requests."""

import itertools

import pytest

from worker.jobs.telling import verdict_of
from worker.plan import Audit, Slice

U, O, P, I = "under_unlearned", "over_unlearned", "pass", "inconclusive"  # noqa: E741


def judged(whole, slices):
    audit = Audit(whole, [f"whole {whole}"], [], None, None, 0.1, None, None, None, None, [])
    return verdict_of(audit, [Slice(3, one, [f"is {one}"], [], 0.1, 0) for one in slices])


@pytest.mark.parametrize(
    ("whole", "slices", "verdict", "reasons"),
    [
        (P, [P, P], P, ["whole pass"]),
        (P, [P, I], P, ["whole pass"]),
        (I, [P, I], I, ["whole inconclusive"]),
        (P, [P, U, P], U, ["request 2 of 3: is under_unlearned"]),
        (I, [O, P], O, ["request 1 of 2: is over_unlearned"]),
        (P, [O, U, O], U, ["request 2 of 3: is under_unlearned"]),
        (P, [O, P, O], O, ["request 1 of 3: is over_unlearned", "request 3 of 3: is over_unlearned"]),
        (O, [U, P], O, ["whole over_unlearned"]),
        (U, [O, P], U, ["whole under_unlearned"]),
        (P, [], P, ["whole pass"]),
    ],
)
def test_a_request_that_is_bad_decides_where_the_whole_is_not(whole, slices, verdict, reasons):
    assert judged(whole, slices) == (verdict, reasons)


def test_a_model_passes_only_where_no_request_is_bad():
    for whole, *slices in itertools.product([U, O, P, I], repeat=4):
        if judged(whole, slices)[0] == P:
            assert whole == P
            assert not {U, O} & set(slices)
