"""Progress of jobs whose work grows while they run."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs import progress
from worker.jobs.progress import Reporter


def printed(stream):
    return [json.loads(line)["progress"] for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream():
    return io.StringIO()


def test_a_phase_entered_twice_has_a_cost_each_time(stream):
    report = Reporter(stream)
    report.expect({"load": 10, "audit": 30})
    report.add({"audit": 60})
    for name in ("load", "audit", "audit"):
        with report.phase(name):
            pass
    assert printed(stream) == [0.0, 0.1, 0.1, 0.4, 0.4, 1.0]
    assert list(report.seconds) == ["load", "audit"]


def test_added_work_never_lets_progress_fall(stream):
    report = Reporter(stream)
    report.expect({"audit": 90, "save": 10})
    with report.phase("audit"):
        pass
    report.add({"retrain": 900})
    for name in ("retrain", "save"):
        with report.phase(name):
            pass
    assert printed(stream) == [0.0, 0.9, 0.9, 0.99, 0.99, 1.0]


def test_work_that_will_not_come_counts_as_done(stream):
    report = Reporter(stream)
    report.expect({"retrain": 50, "audit": 40, "save": 10})
    with pytest.raises(RuntimeError), report.phase("retrain"):
        raise RuntimeError
    report.skip("audit")
    with report.phase("save"):
        pass
    assert printed(stream) == [0.0, 0.9, 1.0]


@given(st.lists(st.tuples(st.sampled_from(["audit", "retrain"]), st.floats(0, 1e6)), max_size=8))
def test_progress_rises_from_0_to_1_whatever_is_added(added):
    stream = io.StringIO()
    report = Reporter(stream)
    report.expect({"load": 1.0, "save": 1.0})
    with report.phase("load"):
        pass
    for name, cost in added:
        report.add({name: cost})
        with report.phase(name):
            for part in range(3):
                report._printed = -progress.REPORT_SECONDS
                report.step(part, 3, "part")
    with report.phase("save"):
        pass
    values = printed(stream)
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0.0, 1.0)
