"""`amun demo` as a stranger runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.e2e.conftest import PATIENCE_SECONDS

DEMO = [sys.executable, "-m", "service.cli", "demo", "--data"]


def left_over(data: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AMUN_DATA_DIR") == str(data) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_the_demo_passes_with_its_committed_seed_and_leaves_no_process(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    done = subprocess.run([*DEMO, str(data)], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((data / "report.json").read_bytes())
    audits = document["audit"]
    assert audits["before"]["verdict"] == "under_unlearned"
    assert audits["after"]["verdict"] == "pass"
    assert audits["retrained"]["verdict"] == "pass"
    assert "The request is now completed" in done.stdout
    assert "step 1 of the ladder" in " ".join(done.stdout.split())
    for name in ("report", "certificate"):
        assert f"{name}: signature verified" in done.stdout
    assert (data / "report.pdf").read_bytes().startswith(b"%PDF")
    assert left_over(data) == []


def test_ctrl_c_stops_everything_the_demo_started(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    demo = subprocess.Popen([*DEMO, str(data)], stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and not any("worker.pipeline" in " ".join(p.cmdline()) for p in left_over(data)):
        time.sleep(0.2)
    os.kill(demo.pid, signal.SIGINT)
    try:
        output, _ = demo.communicate(timeout=40)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130
    assert b"stopped" in output
    assert left_over(data) == []


def test_the_demo_never_deletes_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "holiday.jpg").write_bytes(b"mine")
    done = subprocess.run([*DEMO, str(precious)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "give another --data folder" in " ".join(done.stdout.split())
    assert (precious / "holiday.jpg").read_bytes() == b"mine"
