"""What benchmarks/chaos.py does to a topology: clients that send requests, and a killer."""

from __future__ import annotations

import argparse
import math
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.progress import Progress
from sqlalchemy import func, select

from benchmarks.chaos_recovery import Kill, running_on
from models.records import Job, JobKind, JobStatus
from models.session import Database
from tests.caller import Caller
from tests.container import wait_for
from tests.topology import Topology

DOWN_SECONDS = (0.5, 5.0)
PATIENCE_SECONDS = 300.0  # of a client with one request
PROBE_SECONDS = 1.0
SENT_AGAIN = 0.2  # share of requests that are sent once more with their key after they were done
ENDS = ("done", "failed", "cancelled", "not_applicable", "awaiting_release", "on_hold")


@dataclass
class Run:
    """What happens to one topology."""

    topology: Topology
    database: Database
    options: argparse.Namespace
    operator: Caller
    callers: list[Caller]  # one a model
    probes: list[Caller]  # one an API process
    kills: list[Kill] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def succeeded(self) -> int:
        """Unlearn jobs; -1 while the database does not answer."""
        try:
            with self.database.read() as session:
                done = (Job.kind == JobKind.UNLEARN, Job.status == JobStatus.SUCCEEDED)
                return session.scalar(select(func.count()).select_from(Job).where(*done)) or 0
        except Exception:
            return -1


def send(run: Run, number: int, shown: Progress, bar: Any) -> None:
    """One request after the other to one model, each with one sample, and some of them again."""
    draw, caller = random.Random(f"{run.options.seed}/{number}"), run.callers[number]
    for sample in range(run.options.jobs // run.options.models):
        request = ask(run, caller, number, sample)

        def ended(path: str = f"/v1/deletion-requests/{request}") -> str | None:
            status: str = caller.get(path)["erasures"][0]["status"]
            return status if status in ENDS else None

        status = wait_for(f"the end of request {request}", ended, PATIENCE_SECONDS, pause=0.3)
        if status != "done":
            run.wrong.append(f"the erasure of request {request} is {status}")
        if draw.random() < SENT_AGAIN and ask(run, caller, number, sample) != request:
            run.wrong.append(f"request {request} was sent again and became another one")
        shown.advance(bar)


def ask(run: Run, caller: Caller, number: int, sample: int) -> uuid.UUID:
    """One request with a key that follows from what it asks for."""
    key = f"{run.options.seed}/{number}/{sample}"
    return caller.erase(f"set-{number}", [{"key": f"train/{sample:05d}"}], key=key)


def probe(run: Run, caller: Caller) -> None:
    """The first request again and again to one API process: when does it answer, and is it one request for ever?"""
    first = ask(run, caller, 0, 0)
    while not run.over.wait(PROBE_SECONDS):
        if ask(run, caller, 0, 0) != first:
            run.wrong.append(f"request {first} was sent again and became another one")


def kill_at_random(run: Run, shown: Progress, bar: Any) -> None:
    """A kill whenever so many jobs have succeeded as was drawn, a moment later; every piece is killed as often."""
    draw, pieces = random.Random(run.options.seed), run.topology.lasting
    moments = sorted(draw.sample(range(run.options.jobs - 1), run.options.kills))
    targets = (pieces * math.ceil(run.options.kills / len(pieces)))[: run.options.kills]
    draw.shuffle(targets)
    for moment, name in zip(moments, targets, strict=True):
        late, down = draw.uniform(0, 2), draw.uniform(*DOWN_SECONDS)
        while run.succeeded() < moment and not run.over.is_set():
            time.sleep(0.2)
        time.sleep(late)
        held = running_on(run.database, name) if name.startswith("worker") else []
        run.kills.append(Kill(name, datetime.now(UTC), down, held))
        run.topology[name].kill()
        time.sleep(down)
        run.topology[name].start()
        run.topology.revive()
        shown.update(bar, advance=1, description=f"kills (last: {name})")
