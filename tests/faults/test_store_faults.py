"""Commits that fail, and commits that are done and reported failed: nothing half written, nothing twice, nothing lost."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Pair
from tests.faults.plays import Play, play

REQUESTS = 3
ENDS = {"completed", "failed"}  # failed: three attempts met the store's faults


@pytest.mark.parametrize(("rate", "seed"), [(0.01, 2), (0.1, 1)])
def test_requests_come_to_their_end_over_a_store_that_fails(pair: Pair, rate: float, seed: int) -> None:
    settings = pair.at("trained")
    faulty = play(Play(settings, "ask_over_a_faulty_store", pair.receiver, store=(seed, rate))).told
    assert faulty.pop("error", None) is None
    assert sum(faulty["seen"].values()) > 0
    if rate >= 0.1:
        assert set(faulty["seen"]) == {"before", "after"}
    recovered = play(Play(settings, "go_on", pair.receiver, recovers=True)).told
    assert recovered.pop("error", None) is None
    assert recovered["violations"] == []
    assert len(recovered["requests"]) == REQUESTS
    assert set(recovered["requests"].values()) <= ENDS
