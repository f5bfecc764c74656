"""What a process is in the midst of when it is killed; each may be begun again, as a client does that got no answer."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from models.base import now
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobStatus,
    Model,
    Role,
    TrainingSet,
    Upload,
    WebhookDelivery,
)
from models.secrets import API_KEY_PEPPER, load_or_create
from service import schema, security
from tests.faults.scene import ASKED, KEYS, LONG_AGO, MODEL, POLICY, SET, Scene
from worker import tasks
from worker.claim import claim

log = structlog.get_logger(__name__)

ROLES = {"operator": Role.OPERATOR, "application": Role.APPLICATION}
WEIGHTS = b'{"weight":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
CHECKPOINT = len(WEIGHTS).to_bytes(8, "little") + WEIGHTS + b"\1\2\3\4"


def migrate(scene: Scene) -> None:
    scene.arm()
    schema.upgrade(scene.settings)


def open_office(scene: Scene) -> None:
    """Keys, and a webhook at the test's receiver."""
    pepper = load_or_create(scene.settings.secrets, API_KEY_PEPPER)
    with scene.database.write() as session:
        made = {
            name: security.create_key(session, pepper, role, application="shop" if name == "application" else None)
            for name, role in ROLES.items()
        }
    headers = {name: {"Authorization": f"Bearer {secret}"} for name, secret in made.items()}
    (scene.settings.data_dir / KEYS).write_text(json.dumps(headers))
    scene.post("/v1/webhooks", {"url": scene.receiver}, "application", 201)


def register(scene: Scene) -> None:
    scene.arm()
    source = {"kind": "builtin", "path": "digits"}
    body = {"name": SET, "applications": ["shop"], "source": source, "controls": {"share": 0.4}}
    scene.post("/v1/training-sets", body, "operator", 409)
    scene.quiet()


def train(scene: Scene, name: str = MODEL) -> None:
    scene.arm()
    body = {"name": name, "training_set": SET, "network": {"name": "small-cnn"}, "recipe": {}, "policy": POLICY}
    scene.post("/v1/models", body, "operator", 409)
    scene.quiet()


def ask(scene: Scene) -> None:
    scene.arm()
    for name, samples in ASKED.items():
        scene.ask(name, samples)


def ask_and_wait(scene: Scene) -> None:
    ask(scene)
    scene.quiet()


def ask_for_a_control(scene: Scene) -> None:
    """Nothing has to be unlearned for it: no model was trained on it."""
    scene.arm()
    scene.ask("a control", ASKED["a control"])
    scene.quiet()


def go_on(scene: Scene) -> None:
    scene.arm()
    scene.quiet()


def forget(scene: Scene) -> None:
    """Up to the new version, and no further: what must go is still there."""
    scene.arm()
    done = select(Erasure.id).where(Erasure.status == ErasureStatus.DONE)
    for _ in range(5):
        scene.round()
        scene.work()
        with scene.database.read() as session:
            if session.scalar(done) is not None:
                return
    raise AssertionError("the request was not forgotten")


def ask_over_a_faulty_store(scene: Scene) -> dict[str, object]:
    """Requests, rounds and jobs while commits fail; what fails is logged and tried again, as by all these processes."""
    scene.client.get("/v1/health")  # opens the application's own database
    with scene.store.over(scene.database, scene.client.app.state.database):  # type: ignore[attr-defined]
        for number in range(3):
            _insist(lambda number=number: scene.ask(f"image {number}", [{"key": f"train/{number:05d}"}]))
            for _ in range(4):
                for step in (scene.round, scene.work, scene.send):
                    _whatever_happens(step)
    return {"seen": dict(scene.store.seen)}


def _insist(post: Callable[[], object], times: int = 20) -> None:
    """A client that sends the same again under the same key until it is answered."""
    for _ in range(times):
        try:
            post()
            return
        except AssertionError as error:
            refused = error
    raise refused


def _whatever_happens(step: Callable[[], object]) -> None:
    """The loops of dispatcher and sender, and Celery, go on after an error."""
    try:
        step()
    except SQLAlchemyError:
        log.warning("the store failed", exc_info=True)


def hold_and_resume(scene: Scene) -> None:
    """Two decisions about a request; both come to the same in the end."""
    request = scene.accepted()[0]
    scene.arm()
    scene.post(f"/v1/deletion-requests/{request}/hold", {"reason": "asked back"}, "operator", 409)
    scene.post(f"/v1/deletion-requests/{request}/resume", {"reason": "answered"}, "operator", 409)
    scene.quiet()


def ask_two_models(scene: Scene) -> None:
    crash, scene.crash = scene.crash, ""
    train(scene, "second")
    ask(scene)
    scene.crash = crash
    go_on(scene)


def lose_a_worker(scene: Scene) -> None:
    """A job whose worker died, and whose lease has run out."""
    scene.round()
    for job in scene.hinted():
        claim(scene.database, scene.settings, job, "worker-0")
    scene.later()
    go_on(scene)


def cancel_at_the_end(scene: Scene) -> None:
    """An operator cancels while the pipeline runs, and it is done before the next heartbeat."""
    scene.arm()
    scene.round()
    thread = threading.Thread(target=_when_running, args=(scene, _cancel))
    thread.start()
    scene.work()
    thread.join()
    scene.quiet()


def shut_down(scene: Scene) -> None:
    """SIGTERM while the pipeline runs."""
    tasks._shutting_down = threading.Event()  # the other one is shared with every process forked beside this
    scene.arm()
    scene.round()
    thread = threading.Thread(target=_when_running, args=(scene, lambda *_: tasks._shutting_down.set()))
    thread.start()
    scene.work()
    thread.join()


def _when_running(scene: Scene, then: Callable[[Scene, uuid.UUID], None]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with scene.database.read() as session:
            job = session.scalar(select(Job.id).where(Job.status == JobStatus.RUNNING, Job.phase.is_(None)))
        if job is not None and list(scene.settings.data_dir.glob("staging/*/plan.json")):
            then(scene, job)
            return
        time.sleep(0.01)


def _cancel(scene: Scene, job: uuid.UUID) -> None:
    with scene.database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(cancel_requested_at=now()))


def retire(scene: Scene) -> None:
    scene.arm()
    scene.post(f"/v1/models/{MODEL}/retire", {"reason": "replaced"}, "operator", 409)
    scene.quiet()


def upload(scene: Scene) -> None:
    """A checkpoint that nobody makes a model of, and that is old enough to go."""
    scene.arm()
    sha256 = hashlib.sha256(CHECKPOINT).hexdigest()
    keys = json.loads((scene.settings.data_dir / KEYS).read_text())
    answer = scene.client.put(f"/v1/uploads/{sha256}", content=CHECKPOINT, headers=keys["operator"])
    assert answer.status_code in (200, 201), answer.text
    with scene.database.write() as session:
        session.execute(update(Upload).values(created_at=LONG_AGO))
    scene.quiet()


def remind(scene: Scene) -> None:
    scene.arm()
    with scene.database.write() as session:
        session.execute(update(DeletionRequest).values(due_at=now() + timedelta(hours=1)))
    scene.quiet()


def leave_an_orphan(scene: Scene) -> None:
    for folder in ("staging/0.1", f"store/{uuid.uuid4()}/0.1"):
        (scene.settings.data_dir / folder).mkdir(parents=True)
        (scene.settings.data_dir / folder / "checkpoint.safetensors").write_bytes(CHECKPOINT)
    go_on(scene)


def grow_old(scene: Scene) -> None:
    """Deliveries of webhooks that were finished long ago."""
    with scene.database.write() as session:
        delivered = WebhookDelivery.finished_at.is_not(None)
        session.execute(update(WebhookDelivery).where(delivered).values(finished_at=LONG_AGO))
    go_on(scene)


def states(scene: Scene) -> dict[str, object]:
    """How it ended: statuses of requests by their keys, whether all are certified, the set and the models."""
    with scene.database.read() as session:
        requests = list(session.scalars(select(DeletionRequest)))
        return {
            "requests": {request.idempotency_key: request.status.value for request in requests},
            "certified": all(request.certified_at is not None for request in requests),
            "sets": [made.status.value for made in session.scalars(select(TrainingSet))],
            "models": {model.name: model.status.value for model in session.scalars(select(Model))},
            "failed": [job.error["code"] for job in session.scalars(select(Job)) if job.error],
        }
