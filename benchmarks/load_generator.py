"""wrk as the generator of benchmarks.load: one for each API process, its answers counted, its latencies added up."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load_store import FIRST, NAMED, Owner

SCRIPT = Path(__file__).parent / "load.lua"
CONNECTIONS = 32  # for each API process at a constant rate: one is nearly always free
CLOSED = 8  # as fast as answers come: enough to keep one process busy, few enough to wait little


class NoGenerator(RuntimeError):
    """wrk is not installed."""

    def __init__(self) -> None:
        super().__init__("wrk is not on PATH: install it (on Debian: apt-get install wrk) and run this again")


@dataclass
class Counted:
    """What the generator saw. Latencies in microseconds, lateness (of sending) in milliseconds, with how often each was."""

    seconds: float = 0.0
    accepted: int = 0
    failed: int = 0  # any answer but 202, and connections that broke or timed out
    answers: list[str] = field(default_factory=list)  # the first that were not 202
    latency: Counter[int] = field(default_factory=Counter)
    late: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return self.accepted / self.seconds

    def add(self, lines: str) -> None:
        """Count what one wrk wrote."""
        for line in lines.splitlines():
            what, _, rest = line.partition(" ")
            if what == "duration":
                self.seconds = max(self.seconds, int(rest) / 1e6)
            elif what == "accepted":
                self.accepted += int(rest)
            elif what in ("refused", "broken"):
                self.failed += int(rest)
            elif what == "answer":
                self.answers.append(rest)
            else:
                value, count = rest.split()
                (self.latency if what == "latency" else self.late)[int(value)] += int(count)


def quantile(counted: Counter[int], share: float) -> int:
    """The smallest value that so large a share of them does not exceed."""
    wanted, seen = share * counted.total(), 0
    for value in sorted(counted):
        seen += counted[value]
        if seen >= wanted:
            return value
    return 0


def require_wrk() -> str:
    """Raises NoGenerator."""
    found = shutil.which("wrk")
    if found is None:
        raise NoGenerator
    return found


def post(urls: Sequence[str], owners: Sequence[Owner], seconds: int, rate: float | None) -> Counted:
    """Send requests for so long: ``rate`` a second over all URLs, or, with None, as fast as answers come.

    A constant rate is that of an open world: a slow answer does not keep the next request waiting, as long as connections
    are free. What leaves late all the same is counted in ``late``.
    """
    program, counted = require_wrk(), Counted()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        callers = folder / "owners"
        callers.write_text("".join(f"{owner.key} {owner.training_set}\n" for owner in owners))
        started = []
        for place, url in enumerate(urls):
            connections = CLOSED if rate is None else CONNECTIONS
            command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(SCRIPT), url]
            environment = os.environ | {
                "LOAD_FILE": str(callers),
                "LOAD_OUT": str(folder / f"out-{place}"),
                "LOAD_RATE": str(0 if rate is None else rate / len(urls)),
                "LOAD_PREFIX": uuid.uuid4().hex,
                "LOAD_SEED": str(uuid.uuid4().int % 2**31),
                "LOAD_FIRST": str(FIRST),
                "LOAD_NAMED": str(NAMED),
            }
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        for process in started:
            if process.wait(seconds + 120):
                raise RuntimeError(f"wrk ended with exit status {process.returncode}")
        for place in range(len(urls)):
            counted.add((folder / f"out-{place}").read_text())
    return counted
