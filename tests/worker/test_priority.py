"""Jobs give way to what else runs on their machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.settings import Settings
from worker.priority import give_way
from worker.supervise import run_child


class Silent:
    """A heartbeat of a job that nobody stops."""

    class _Never:
        @staticmethod
        def is_set() -> bool:
            return False

    fenced = cancelled = _Never()

    def report(self, progress: object) -> None:
        raise AssertionError(progress)


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def of_session(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "autogroup").read_text().split()[-1])


def test_a_process_and_its_session_give_way(sleeping: subprocess.Popen[bytes]) -> None:
    give_way(sleeping.pid, 7)
    assert os.getpriority(os.PRIO_PROCESS, sleeping.pid) == 7
    if Path("/proc/self/autogroup").exists():
        assert of_session(sleeping.pid) == 7


def test_a_process_that_gives_way_further_goes_on_to(sleeping: subprocess.Popen[bytes]) -> None:
    os.setpriority(os.PRIO_PROCESS, sleeping.pid, 12)
    give_way(sleeping.pid, 7)
    assert os.getpriority(os.PRIO_PROCESS, sleeping.pid) == 12


def test_without_niceness_nothing_changes(sleeping: subprocess.Popen[bytes]) -> None:
    before = os.getpriority(os.PRIO_PROCESS, sleeping.pid)
    give_way(sleeping.pid, 0)
    assert os.getpriority(os.PRIO_PROCESS, sleeping.pid) == before


def test_a_process_that_has_ended_is_no_error(sleeping: subprocess.Popen[bytes]) -> None:
    sleeping.kill()
    sleeping.wait()
    give_way(sleeping.pid, 7)


def test_the_child_of_a_job_gives_way_as_far_as_the_setting_says(tmp_path: Path) -> None:
    script = "import os, sys, time; time.sleep(1); open(sys.argv[2] + '/found', 'w').write(str(os.nice(0)))"
    run_child([sys.executable, "-c", script], tmp_path, Settings(niceness=6), Silent(), lambda: False)  # type: ignore[arg-type]
    assert (tmp_path / "found").read_text() == "6"
