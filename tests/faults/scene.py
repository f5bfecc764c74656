"""One service driven step by step in this process: what its API, its dispatcher, its sender and a worker do, in turn."""

from __future__ import annotations

import json
import os
import uuid
from concurrent.futures import wait
from contextlib import ExitStack, closing
from functools import cached_property
from queue import Empty
from typing import Any
from unittest.mock import patch

from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from models import crashes, revisions
from models.base import now
from models.queue import QUEUE, celery_app
from models.records import DeliveryStatus, Event, EventSeal, Job, JobStatus, Lease, WebhookDelivery
from models.secrets import WEBHOOK_KEY, load_or_create
from models.session import Database
from models.settings import Settings
from service.dispatcher import Dispatcher
from service.limiting import RateLimits
from service.webhooks.sending import Sender
from service.webhooks.targets import Targets
from tests.faults.store import FaultyStore
from tests.faults.warm import APPLICATION
from worker import supervise
from worker.tasks import run_job

KEYS, ACCEPTED = "keys-of-the-test.json", "accepted-by-the-test"
SET, MODEL = "digits", "digits-cnn"
POLICY = {
    "references": 4,
    "rehearsal": {"models": 2, "sizes": [2], "learning_rates": [0.01], "weight_scales": [1.0]},
    "retrain_share": 1.0,
    "approval_share": 1.0,
}
ASKED = {
    "two images": [{"key": "train/00001"}, {"key": "train/00002"}],
    "a control": [{"key": "control/00003"}],
}
MOST_ROUNDS = 40
LONG_AGO = now().replace(year=2001)


class Restless(AssertionError):
    """Dispatcher and worker found something to do in every round."""


class Scene:
    """``crash`` is the point at which this process is killed once `arm` was called; empty: it is not.

    ``receiver`` is where webhooks go; ``store`` are seed and rate of the faults of `store`.
    """

    def __init__(
        self, settings: Settings, crash: str = "", receiver: str = "", store: tuple[int, float] = (0, 0.0)
    ) -> None:
        self.settings, self.crash, self.receiver = settings, crash, receiver
        self.store = FaultyStore(*store)
        self.database = Database(settings.database)
        self.dispatcher = Dispatcher(self.database, settings)
        self.celery = celery_app(settings)
        self._open = ExitStack()
        key, targets = load_or_create(settings.secrets, WEBHOOK_KEY), Targets(settings.allowed_networks)
        self.sender = Sender(self.database, key, targets, schedule=(0.0,) * 9)
        # Children that replay end sooner than a supervisor looks. Until `close`: tests of supervisors may follow.
        hasty = {"POLL_SECONDS": 0.01, "PROGRESS_SECONDS": settings.heartbeat_seconds}
        self._open.enter_context(patch.multiple(supervise, **hasty))

    def close(self) -> None:
        self.dispatcher.stop()
        self.sender.stop()
        self._open.close()
        self.database.dispose()

    def arm(self) -> None:
        """From now on this process dies at its crash point."""
        os.environ[crashes.VARIABLE] = self.crash

    @cached_property
    def client(self) -> TestClient:
        APPLICATION.state.settings = self.settings
        APPLICATION.state.limits = RateLimits(self.settings)
        return self._open.enter_context(TestClient(APPLICATION, raise_server_exceptions=False))

    def post(self, path: str, body: Any, role: str = "operator", *also: int, **headers: str) -> dict[str, Any]:
        """The answer to a POST of a client who knows how to repeat it: 202, or a status in ``also``."""
        keys = json.loads((self.settings.data_dir / KEYS).read_text())
        answer = self.client.post(path, json=body, headers=keys[role] | headers)
        assert answer.status_code in (202, *also), answer.text
        return dict(answer.json())

    def ask(self, name: str, samples: list[dict[str, Any]]) -> str:
        """Post a deletion request under its own idempotency key, and remember that it was accepted."""
        body = {"training_set": SET, "samples": samples}
        found = self.post("/v1/deletion-requests", body, "application", **{"Idempotency-Key": name})
        with (self.settings.data_dir / ACCEPTED).open("a") as file:
            file.write(f"{found['id']}\n")
        return str(found["id"])

    def accepted(self) -> list[uuid.UUID]:
        file = self.settings.data_dir / ACCEPTED
        return sorted({uuid.UUID(line) for line in file.read_text().split()}) if file.exists() else []

    def round(self) -> None:
        """One pass of the dispatcher, with the duties that come every half minute."""
        self.dispatcher._slow_at = self.dispatcher._orphans_at = self.dispatcher._all_orphans_at = 0.0
        self.dispatcher.round()

    def hinted(self) -> list[uuid.UUID]:
        """Jobs that the broker has messages of; they are taken from it."""
        found = []
        with self.celery.connection_for_read() as connection, closing(connection.SimpleQueue(QUEUE)) as queue:
            while True:
                try:
                    message = queue.get(block=False)
                except Empty:
                    return found
                message.ack()
                found.append(uuid.UUID(message.payload[0][0]))

    def work(self) -> int:
        """Run what the broker says; returns how many messages there were."""
        jobs = self.hinted()
        for job in jobs:
            run_job(self.database, self.settings, job, "worker-1")
        return len(jobs)

    def send(self) -> None:
        assert not wait(self.sender.round(), timeout=30).not_done

    def quiet(self) -> None:
        """Rounds of dispatcher, worker and sender until none finds anything to do. Raises Restless."""
        for _ in range(MOST_ROUNDS):
            before = self._mark()
            self.round()
            ran = self.work()
            self.send()
            if not ran and self._mark() == before:
                return
        raise Restless(f"after {MOST_ROUNDS} rounds there was still something to do")

    def _mark(self) -> tuple[object, ...]:
        """Changes with everything that anybody does."""
        waiting = WebhookDelivery.status == DeliveryStatus.PENDING
        with self.database.read() as session:
            counts = [session.scalar(select(func.count()).select_from(record)) for record in (Event, EventSeal, Job)]
            left = session.scalar(select(func.count()).select_from(WebhookDelivery).where(waiting))
            return (*counts, left)

    def later(self) -> None:
        """As if every lease, hint and claim were long ago."""
        if revisions.current(self.database) is None:
            return
        with self.database.write() as session:
            session.execute(
                update(Job).where(Job.status == JobStatus.RUNNING).values(lease_expires_at=LONG_AGO, not_before=None)
            )
            session.execute(
                update(Job).where(Job.status == JobStatus.QUEUED).values(hinted_at=None, hints=0, not_before=None)
            )
            session.execute(update(Lease).values(expires_at=LONG_AGO))
            session.execute(
                update(WebhookDelivery)
                .where(WebhookDelivery.status == DeliveryStatus.PENDING)
                .values(claimed_until=None, next_attempt_at=LONG_AGO)
            )
