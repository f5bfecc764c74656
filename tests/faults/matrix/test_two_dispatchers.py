"""Row 25: two dispatchers that both believe to hold the lease do everything once."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from models.chain import verify_chain
from models.records import DeletionRequest, Event, EventSeal, Job, JobKind, JobStatus, Lease, RequestStatus
from models.session import Database
from models.settings import Settings
from service.dispatcher import Dispatcher
from tests.faults.conftest import Pair
from tests.faults.scene import Scene
from tests.oracle import violations
from tests.service.conftest import Headers, World
from tests.service.duties.test_erasing import posted
from worker import tasks

pytestmark = pytest.mark.fault(25)

ROUNDS = 3


def in_parallel(dispatchers: list[Dispatcher], rounds: int) -> None:
    """Each in a thread of its own, every round at the same moment as the others'."""
    together, failed = threading.Barrier(len(dispatchers)), list[Exception]()

    def work(dispatcher: Dispatcher) -> None:
        try:
            for _ in range(rounds):
                together.wait(60)
                dispatcher._held_until = time.monotonic() + 3600  # as after a pause that outlived the lease
                dispatcher._slow_at = dispatcher._orphans_at = dispatcher._all_orphans_at = 0.0
                dispatcher.round()
        except Exception as error:
            failed.append(error)
            together.abort()

    threads = [threading.Thread(target=work, args=(dispatcher,)) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []


def test_two_at_once_plan_one_job_and_seal_one_chain(
    client: TestClient, database: Database, settings: Settings, shop: Headers, world: World, digits: uuid.UUID
) -> None:
    world.model("other-cnn", "digits")
    for index in range(8):
        posted(client, shop, {"index": index})
    others = Database(settings.database)
    in_parallel([Dispatcher(database, settings), Dispatcher(others, settings)], ROUNDS)
    others.dispose()
    with database.read() as session:
        live = select(func.count()).select_from(Job).where(Job.status == JobStatus.QUEUED)
        by_model = session.execute(live.add_columns(Job.model_id).group_by(Job.model_id)).all()
        assert [count for count, _ in by_model] == [1, 1]
        events, sealed = (session.scalar(select(func.count()).select_from(record)) for record in (Event, EventSeal))
        assert events == sealed
        assert session.scalar(select(func.count(func.distinct(EventSeal.event_id)))) == sealed
        assert verify_chain(session).intact


def test_two_at_once_bring_a_request_to_its_end_once(production: Pair) -> None:
    settings = production.at("asked")
    scene, second = Scene(settings), Database(settings.database)
    dispatchers = [scene.dispatcher, Dispatcher(second, settings)]
    for _ in range(ROUNDS):
        in_parallel(dispatchers, 1)
        for job in scene.hinted():
            tasks.run_job(scene.database, settings, job, "here")
    scene.quiet()
    with scene.database.read() as session:
        kinds = Counter(session.scalars(select(Job.kind)))
        holders = session.scalars(select(Lease.holder)).all()
        states = set(session.scalars(select(DeletionRequest.status)))
    assert states == {RequestStatus.COMPLETED}
    assert (kinds[JobKind.UNLEARN], kinds[JobKind.CERTIFY], len(holders)) == (1, 2, 1)
    assert violations(scene.database, settings, scene.accepted()) == []
    second.dispose()
    scene.close()
