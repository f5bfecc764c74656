"""Which plots an audit has, and that they are drawn alike each time."""

from __future__ import annotations

import pytest

from tests.worker.report import cases
from worker.report import plots


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("pass", {"summary", "roc", "histograms", "difficulty"}),
        ("over", {"summary", "roc", "histograms", "difficulty"}),
        ("few", {"difficulty"}),  # three samples make no curve
    ],
)
def test_curves_are_drawn_where_there_is_an_auc(case: str, names: set[str]) -> None:
    drawn = plots.draw(cases.audit_document(case)["audit"])
    assert set(drawn) == names
    assert all(b"<svg" in content for content in drawn.values())


def test_without_a_forget_set_nothing_is_drawn() -> None:
    assert plots.draw(cases.re_audit_document()["audit"]) == {}


def test_the_same_audit_gives_the_same_bytes_and_another_others() -> None:
    audit = cases.audit_document("pass")["audit"]
    drawn = plots.draw(audit)
    assert plots.draw(audit) == drawn
    audit["after"]["scores"]["z"]["forget"][0] += 1
    other = plots.draw(audit)
    assert other["roc"] != drawn["roc"]
    assert other["difficulty"] != drawn["difficulty"]
