"""GET /v1/jobs/{id}/events as a live stream."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import anyio
import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from models.base import now
from models.moves import advance
from models.records import ApiKey, Job, JobKind, JobStatus, Role, record_event
from models.settings import Settings
from service import following
from service.duties.sealing import seal_events
from service.embedded import api_command, environment, free_port
from service.plain import NO_AUTHORITY
from service.security import revoke_key
from tests import plain
from tests.service.serving import eventually, serving

Headers = dict[str, str]
STREAM = {"Accept": "text/event-stream"}


class Message(NamedTuple):
    event: str
    id: str | None
    data: dict[str, Any]


class Reader:
    """Messages and comments of one stream, as they come."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.comments: list[str] = []
        self._lines = answer.iter_lines()

    def __iter__(self) -> Iterator[Message]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                self.comments.append(line[1:].strip())
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield Message(fields["event"], fields.get("id"), json.loads(fields["data"]))
                fields = {}

    def next(self, event: str) -> Message:
        """The next message of this name; others before it are read away."""
        return next(message for message in self if message.event == event)


@contextmanager
def followed(url: str, job: uuid.UUID, headers: Headers, **more: str) -> Iterator[Reader]:
    path = f"{url}/v1/jobs/{job}/events"
    with httpx.stream(
        "GET", path, headers={**headers, **STREAM, **more}, timeout=20, trust_env=False, verify=NO_AUTHORITY
    ) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield Reader(answer)


@pytest.fixture
def job(world: Any) -> uuid.UUID:
    """A queued job that was told of at position 1, and another one's event at position 2."""
    with world.database.write() as session:
        made = Job(kind=JobKind.CERTIFY, seed=1)
        session.add(made)
        session.flush()
        record_event(session, "job.queued", "job", made.id, "test")
        session.flush()
        record_event(session, "job.queued", "job", uuid.uuid4(), "test")
    seal_events(world.database)
    return made.id


def start(world: Any, job: uuid.UUID) -> None:
    with world.database.write() as session:
        advance(session, Job, Job.id == job, JobStatus.RUNNING, phase="load", worker="here")
        record_event(session, "job.started", "job", job, "worker:here")


def succeed(world: Any, job: uuid.UUID) -> None:
    with world.database.write() as session:
        advance(session, Job, Job.id == job, JobStatus.SUCCEEDED, progress=1.0, finished_at=now())
        record_event(session, "job.succeeded", "job", job, "worker:here")


@pytest.fixture
def served(settings: Settings) -> Iterator[tuple[Any, str]]:
    with serving(settings) as found:
        yield found


@pytest.fixture
def url(served: tuple[Any, str]) -> str:
    return served[1]


def test_a_job_is_followed_from_the_queue_to_its_end(url: str, world: Any, operator: Headers, job: uuid.UUID) -> None:
    with followed(url, job, operator) as reader:
        messages = iter(reader)
        queued = next(messages)
        assert (queued.event, queued.id, queued.data["record_id"]) == ("job.queued", "1", str(job))
        assert next(messages) == Message(
            "progress", None, {"status": "queued", "phase": None, "step": None, "progress": 0.0, "eta_seconds": None}
        )
        start(world, job)
        assert next(messages).data["status"] == "running"
        with world.database.write() as session:
            session.execute(update(Job).values(phase="finetune", step="2 of 5", progress=0.4, eta_seconds=12.5))
        assert next(messages).data == {
            "status": "running",
            "phase": "finetune",
            "step": "2 of 5",
            "progress": 0.4,
            "eta_seconds": 12.5,
        }
        seal_events(world.database)
        assert next(messages)[:2] == ("job.started", "3")
        succeed(world, job)
        assert next(messages).data["status"] == "succeeded"
        time.sleep(1.2)  # it does not end before its last event is sealed
        seal_events(world.database)
        assert next(messages)[:2] == ("job.succeeded", "4")
        end = next(messages)
        assert (end.event, end.id) == ("end", None)
        assert end.data == plain.get(f"{url}/v1/jobs/{job}", headers=operator).json()
        assert list(messages) == []
    page = plain.get(f"{url}/v1/jobs/{job}/events", headers=operator).json()
    assert page["data"][0] == queued.data


def test_a_stream_goes_on_after_the_last_event_that_its_reader_got(
    url: str, world: Any, operator: Headers, job: uuid.UUID
) -> None:
    start(world, job)
    succeed(world, job)
    seal_events(world.database)
    with followed(url, job, operator, **{"Last-Event-ID": "3"}) as reader:
        assert [message.event for message in reader] == ["job.succeeded", "progress", "end"]
    with followed(url, job, operator, **{"Last-Event-ID": "4"}) as reader:
        assert [message.event for message in reader] == ["progress", "end"]


def test_a_long_history_comes_whole_and_in_order(
    url: str, world: Any, operator: Headers, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "EVENTS_AT_ONCE", 7)
    start(world, job)
    with world.database.write() as session:
        for _ in range(20):
            record_event(session, "job.phase", "job", job, "worker:here")
    succeed(world, job)
    seal_events(world.database)
    with followed(url, job, operator) as reader:
        ids = [int(message.id) for message in reader if message.id is not None]
    assert ids == [1, *range(3, 25)]


@pytest.mark.parametrize("position", ["", "x", "-1", "1.0", "1" * 19, "2", "99", "0"])
def test_a_last_event_id_that_this_stream_never_gave_out_is_refused(
    position: str, client: TestClient, operator: Headers, job: uuid.UUID
) -> None:
    answer = client.get(f"/v1/jobs/{job}/events", headers={**operator, **STREAM, "Last-Event-ID": position})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "Last-Event-ID"


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        ("text/event-stream", True),
        ("text/event-stream, */*;q=0.1", True),
        ("TEXT/Event-Stream ; q=0.5", True),
        ("*/*", False),
        ("application/json", False),
        ("", False),
        ("text/*", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=nonsense", False),
        ("application/json, text/event-stream;q=0.5", False),
    ],
)
def test_the_stream_is_sent_where_it_is_asked_for_by_name(accept: str, stream: bool) -> None:
    assert following.wanted(accept) == stream


def test_without_that_header_the_page_stays_the_answer(client: TestClient, operator: Headers, job: uuid.UUID) -> None:
    answer = client.get(f"/v1/jobs/{job}/events", headers=operator)
    assert answer.headers["Content-Type"] == "application/json"
    assert [event["position"] for event in answer.json()["data"]] == [1]


def test_the_documentation_describes_page_and_stream(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/jobs/{job_id}/events"]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "Last-Event-ID" in [parameter["name"] for parameter in operation["parameters"]]


def test_a_stream_of_no_job_or_without_the_role_is_a_problem(
    url: str, operator: Headers, compliance: Headers, job: uuid.UUID, served: tuple[Any, str]
) -> None:
    path = f"{url}/v1/jobs/{{}}/events"
    assert plain.get(path.format(uuid.uuid4()), headers={**operator, **STREAM}).status_code == 404
    assert plain.get(path.format(job), headers={**compliance, **STREAM}).status_code == 403
    assert plain.get(path.format(job), headers=STREAM).status_code == 401
    assert served[0].state.streams.taken == 0


def test_a_database_that_does_not_answer_ends_the_stream_with_a_word(
    url: str, operator: Headers, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("no connection for alice"))

    with followed(url, job, operator) as reader:
        reader.next("progress")
        monkeypatch.setattr(following.Follower, "look", refuse)
        (error,) = list(reader)
    assert (error.event, error.data["status"]) == ("error", 503)
    assert "Last-Event-ID" in error.data["detail"]


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_key_that_ends_ends_its_streams_within_a_second(how: str, url: str, world: Any, job: uuid.UUID) -> None:
    key = world.key(Role.OPERATOR)
    key_id = key["Authorization"].split("_")[1]
    with followed(url, job, key) as reader:
        reader.next("progress")
        with world.database.write() as session:
            if how == "revoked":
                revoke_key(session, key_id, actor="test")
            else:
                session.execute(update(ApiKey).where(ApiKey.id == key_id).values(expires_at=now()))
        ended = time.monotonic()
        (error,) = list(reader)
        assert time.monotonic() - ended < 1.5
    assert (error.event, error.id, error.data["status"]) == ("error", None, 401)


def test_streams_have_a_limit_and_one_that_is_left_frees_its_place(
    settings: Settings, operator: Headers, job: uuid.UUID
) -> None:
    with serving(settings.model_copy(update={"stream_limit": 2})) as (app, url):
        with ExitStack() as open_streams:
            readers = [open_streams.enter_context(followed(url, job, operator)) for _ in range(2)]
            for reader in readers:
                reader.next("progress")
            refused = plain.get(f"{url}/v1/jobs/{job}/events", headers={**operator, **STREAM})
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert plain.get(f"{url}/v1/jobs/{job}/events", headers=operator).status_code == 200
        assert eventually(lambda: app.state.streams.taken == 0)
        with followed(url, job, operator) as reader:
            reader.next("progress")


def test_silence_is_kept_alive_with_comments(
    url: str, world: Any, operator: Headers, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "KEEP_ALIVE_SECONDS", 0.6)
    with followed(url, job, operator) as reader:
        reader.next("progress")
        time.sleep(2.5)
        start(world, job)
        reader.next("progress")
        assert 1 <= len(reader.comments) <= 4


def test_no_database_connection_is_held_while_streams_wait(
    served: tuple[Any, str], operator: Headers, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = served

    def held() -> list[int]:
        """In 1.2 s, while each stream looks twice."""
        found = []
        for _ in range(60):
            found.append(app.state.database.engine.pool.checkedout())
            time.sleep(0.02)
        return found

    with ExitStack() as open_streams:
        readers = [open_streams.enter_context(followed(url, job, operator)) for _ in range(10)]
        for reader in readers:
            reader.next("progress")
        assert max(held()) <= following.THREADS < len(readers)
        monkeypatch.setattr(following, "LOOK_SECONDS", 60.0)
        assert eventually(lambda: not any(held()), 30)
        assert app.state.streams.taken == len(readers)


def test_a_reader_that_takes_nothing_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "UNREAD_SECONDS", 0.2)

    async def endless() -> Any:
        while True:
            yield b": more\n\n"

    async def never(message: Any) -> None:
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()

    async def run() -> None:
        with anyio.fail_after(5):
            await following.EventStream(endless()).stream_response(never)

    anyio.run(run)


def test_a_server_that_is_told_to_stop_ends_its_streams_at_once(
    settings: Settings, world: Any, operator: Headers, job: uuid.UUID
) -> None:
    port = free_port()
    process = subprocess.Popen(
        api_command("127.0.0.1", port), env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        url = f"http://127.0.0.1:{port}"
        assert eventually(lambda: answers(url), 30)
        with followed(url, job, operator) as reader:
            reader.next("progress")
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert list(reader) == []
            assert "about to stop" in reader.comments[-1]
        output, _ = process.communicate(timeout=10)
        assert time.monotonic() - told < 4
        assert b"Traceback" not in output, output.decode()
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return plain.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_stream_of_a_job_that_ended_while_no_dispatcher_runs_ends_too(
    url: str, world: Any, job: uuid.UUID, operator: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "UNSEALED_SECONDS", 0.5)
    start(world, job)
    with followed(url, job, operator) as reader:
        succeed(world, job)  # and nobody seals what tells of it
        told = reader.next("error")
        assert list(reader) == []
    assert "no dispatcher is running" in told.data["detail"]
