"""The whole of the compose file as processes, killed piece by piece and all at once: it comes back, and nothing is lost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from models.records import Job, JobKind, JobStatus, Lease
from models.session import Database
from service.duties import sealing, sweeping
from service.webhooks import outbox
from tests import oracle, plain, replaying
from tests.caller import Caller, keys
from tests.container import wait_for
from tests.topology import Topology

SHOPS = ["shop", "rival"]
FAST = {"lease_seconds": 4, "heartbeat_seconds": 1, "dispatch_seconds": 0.2}
MODEL = {
    "name": "digits-cnn",
    "training_set": "digits",
    "network": {"name": "small-cnn"},
    "recipe": {},
    "policy": {"references": 4, "rehearsal": {"models": 2, "sizes": [2]}, "retrain_share": 1.0},
}


class Stage:
    """A topology with clients, whose next unlearn job can be made to hang."""

    def __init__(self, topology: Topology, hangs: Path) -> None:
        self.topology = topology
        self._hangs = hangs
        self.database = Database(topology.settings.database)
        made = keys(topology.settings, SHOPS)
        urls = [topology.url(api) for api in topology.apis]
        self.operator = Caller(urls, made["operator"])
        self.shops = [Caller(urls, made[name]) for name in SHOPS]
        self._samples = iter(range(1000))

    def close(self) -> None:
        for caller in (self.operator, *self.shops):
            caller.close()
        self.database.dispose()

    def erase(self, shop: int = 0) -> uuid.UUID:
        return self.shops[shop].erase("digits", [{"key": f"train/{next(self._samples):05d}"}])

    def ended(self, job: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.operator.get(f"/v1/jobs/{job}")
            return found if found["status"] in ("succeeded", "failed", "cancelled") else None

        ended: dict[str, Any] = wait_for(f"the end of job {job}", look)
        assert ended["status"] == "succeeded", ended
        return ended

    def hanging_job(self) -> tuple[uuid.UUID, str]:
        """Ask for an erasure whose job hangs in its first attempt; the job and the name of the worker that runs it."""
        wait_for("idle models", lambda: not self._running())
        self._hangs.unlink(missing_ok=True)
        self.erase()
        wait_for("a hanging job", lambda: self._hangs.exists() and self._running())
        (job,) = self._running()
        assert job.worker is not None
        return job.id, job.worker.partition(":")[0]

    def dispatcher(self) -> str:
        """Name of the API process that holds the dispatcher's lease."""
        with self.database.read() as session:
            return session.scalars(select(Lease.holder)).one().partition(":")[0]

    def wait_certified(self) -> None:
        def look() -> bool:
            return all(
                shop.get(f"/v1/deletion-requests/{accepted.id}")["certificate"] is not None
                for shop in self.shops
                for accepted in shop.accepted
            )

        wait_for("the certificate of every request", look)

    def _running(self) -> list[Job]:
        with self.database.read() as session:
            unlearning = (Job.kind == JobKind.UNLEARN, Job.status == JobStatus.RUNNING)
            return list(session.scalars(select(Job).where(*unlearning)))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    hangs = tmp_path / "hangs"
    hangs.touch()
    pipeline = replaying.command(rows=80, kind="unlearn", sleep=120, once=hangs)
    with Topology(pipeline=pipeline, **FAST) as topology:
        made = Stage(topology, hangs)
        yield made
        made.close()


def test_every_piece_may_be_killed_and_all_at_once(stage: Stage) -> None:
    topology = stage.topology
    prepare(stage)
    share_the_load(stage)
    lose_a_worker_a_dispatcher_the_broker_and_the_database(stage)
    lose_everything(stage)
    with ThreadPoolExecutor() as pool:  # all are told at once, as `docker compose stop` does
        servers = ("db", "redis")
        ended = pool.map(lambda name: topology[name].stop(), [name for name in topology.lasting if name not in servers])
        assert all(ended), topology.tails()
    assert violations(stage) == []
    assert not [each for each in topology.containers.values() if each.name not in servers and each.processes()]


def prepare(stage: Stage) -> None:
    source = {"kind": "builtin", "path": "digits"}
    made = {"name": "digits", "applications": SHOPS, "source": source, "controls": {"share": 0.5}}
    registered = stage.operator.ask("POST", "/v1/training-sets", json=made)
    stage.ended(registered.json()["job"]["id"])
    trained = stage.operator.ask("POST", "/v1/models", json=MODEL)
    stage.ended(trained.json()["job"]["id"])


def share_the_load(stage: Stage) -> None:
    """Both API processes take requests of both applications, and one of the two plans them."""
    for shop in (0, 1, 0, 1, 1, 0):
        stage.erase(shop)
    for shop in stage.shops:
        assert {accepted.url for accepted in shop.accepted} == {stage.topology.url(api) for api in stage.topology.apis}
    assert stage.dispatcher() in stage.topology.apis
    stage.wait_certified()


def lose_a_worker_a_dispatcher_the_broker_and_the_database(stage: Stage) -> None:
    topology = stage.topology
    job, worker = stage.hanging_job()
    (other,) = set(topology.workers) - {worker}
    api = stage.dispatcher()
    (left,) = set(topology.apis) - {api}
    for name in (worker, api, "redis"):
        topology[name].kill()
    stage.erase(1)  # the other API process takes it without a broker
    assert stage.shops[1].accepted[-1].url == topology.url(left)
    topology["db"].kill()
    answer = plain.get(topology.url(left) + "/readyz", timeout=30)
    assert answer.status_code == 503, answer.text
    for name in ("redis", "db", api):
        topology[name].start()
    stage.erase(1)
    ended = stage.ended(str(job))  # while its first worker is still gone
    assert (ended["attempts"], ended["worker"].partition(":")[0]) == (2, other)
    topology[worker].start()
    assert stage.dispatcher() in topology.apis
    stage.wait_certified()


def lose_everything(stage: Stage) -> None:
    """Every container dies in the middle of a job, and all start at once, in no order: what finds no database starts again."""
    topology = stage.topology
    job, _ = stage.hanging_job()
    for name in topology.lasting:
        topology[name].kill()
    for name in reversed(topology.lasting):
        topology[name].start()
    topology.wait_healthy(topology.lasting)
    assert stage.ended(str(job))["attempts"] == 2
    stage.wait_certified()


def violations(stage: Stage) -> list[str]:
    """What the oracle says, once the dispatcher's last round is made up for."""
    settings = stage.topology.settings
    sweeping.orphaned_files(stage.database, settings)
    sealing.seal_events(stage.database)
    outbox.fan_out(stage.database)
    accepted = [accepted.id for shop in stage.shops for accepted in shop.accepted]
    assert len(set(accepted)) == len(accepted)
    return oracle.violations(stage.database, settings, accepted)
