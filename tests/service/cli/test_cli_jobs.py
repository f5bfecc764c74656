"""amun jobs; how a job is followed"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pytest
from sqlalchemy import update

from models.base import now
from models.records import Job, JobKind, JobStatus
from service.cli import watching
from tests import plain
from tests.service.cli.conftest import Amun, Done, at
from tests.service.cli.contract import KEY, Contract, as_json, problem, stream
from tests.service.conftest import Headers, World

RUNNING = {
    "id": "j",
    "kind": "unlearn",
    "status": "running",
    "model": "m",
    "training_set": "s",
    "phase": "attack",
    "step": None,
    "progress": 0.1,
    "eta_seconds": None,
    "error": None,
}
SUCCEEDED = {**RUNNING, "status": "succeeded", "progress": 1.0}
FAILED = {**RUNNING, "status": "failed", "error": {"code": "out_of_memory", "detail": "Use a smaller batch."}}
EVENTS = "/v1/jobs/j/events"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_SECONDS", 0.02)


def event(number: int, name: str) -> tuple[str, str, Any]:
    return str(number), name, {"position": number, "name": name, "at": "2026-11-24T10:00:00Z"}


def watch(contract: Contract, *options: object) -> Done:
    return at(contract.url)(KEY, "jobs", "watch", "j", *options)


def test_jobs_are_listed_filtered_and_shown(amun: Amun, world: World, digits: uuid.UUID, operator: Headers) -> None:
    world.job("digits-cnn", JobKind.TRAIN)
    job = world.job("digits-cnn", JobKind.UNLEARN, JobStatus.QUEUED)
    listed = amun(
        operator, "jobs", "list", "--status", "queued", "--kind", "unlearn", "--model", "digits-cnn", "--json"
    )
    assert [each["id"] for each in listed.json] == [str(job)]
    assert str(job) in amun(operator, "jobs", "list").out
    shown = amun(operator, "jobs", "show", job).out
    for part in (str(job), "unlearn", "queued", "digits-cnn", "0 %"):
        assert part in shown, part


def test_an_unknown_status_is_wrong_usage(amun: Amun, operator: Headers) -> None:
    done = amun(operator, "jobs", "list", "--status", "finished")
    assert done.status == 2
    assert "succeeded" in done.err


def test_jobs_are_for_operators(amun: Amun, shop: Headers) -> None:
    done = amun(shop, "jobs", "list")
    assert done.status == 3
    assert "This needs a key of role operator" in done.err


def test_a_job_of_the_real_service_is_followed_to_its_end(
    amun: Amun, url: str, world: World, digits: uuid.UUID, operator: Headers
) -> None:
    job = world.job("digits-cnn", JobKind.UNLEARN, JobStatus.QUEUED)

    def finish() -> None:
        with world.database.write() as session:
            session.execute(
                update(Job).where(Job.id == job).values(status=JobStatus.SUCCEEDED, progress=1, finished_at=now())
            )

    timer = threading.Timer(3, finish)  # by then the command has started and looked
    timer.start()
    done = amun(operator, "jobs", "watch", job, "--json", "--timeout", 60)
    timer.join()
    assert done.status == 0, done.err
    assert done.json == plain.get(f"{url}/v1/jobs/{job}", headers=operator).json()
    assert "unlearn digits-cnn: queued (0 %)" in done.err
    assert "unlearn digits-cnn: succeeded (100 %)" in done.err


def test_a_stream_shows_events_and_progress_until_its_end(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING), as_json(SUCCEEDED))
    progress = {"status": "running", "phase": "finetune", "step": "AMUN", "progress": 0.5, "eta_seconds": 3.0}
    messages = [event(7, "job.started"), (None, "progress", progress), ("8", "end", SUCCEEDED)]
    contract.answer("GET", EVENTS, stream(*messages))
    done = watch(contract, "--json")
    assert (done.status, done.json) == (0, SUCCEEDED)
    assert "2026-11-24T10:00:00Z job.started" in done.err
    assert "unlearn m: finetune AMUN (50 %)" in done.err
    assert [asked.headers["accept"] for asked in contract.asked if asked.path == EVENTS] == ["text/event-stream"]


def test_a_stream_that_breaks_off_goes_on_where_it_was(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING), as_json(RUNNING), as_json(SUCCEEDED))
    broken = stream(event(7, "job.started"), event(8, "job.retried"), broken=True)
    contract.answer("GET", EVENTS, broken, stream(event(9, "job.succeeded"), (None, "end", SUCCEEDED)))
    done = watch(contract)
    assert done.status == 0, done.err
    asked = [each.headers.get("last-event-id") for each in contract.asked if each.path == EVENTS]
    assert asked == [None, "8"]
    assert done.err.count("job.started") == 1
    assert "job.succeeded" in done.err


@pytest.mark.parametrize(
    "answer",
    [as_json({"data": [], "next_cursor": None}), problem(503, Retry_After="1"), problem(422, "No such id")],
    ids=["a page", "no place for a stream", "an id that is not known"],
)
def test_where_there_is_no_stream_the_job_is_looked_at(answer: Any, contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING), as_json({**RUNNING, "phase": "audit"}), as_json(SUCCEEDED))
    contract.answer("GET", EVENTS, answer)
    done = watch(contract)
    assert done.status == 0, done.err
    assert "unlearn m: audit" in done.err
    assert len([each for each in contract.asked if each.path == EVENTS]) == 1


def test_an_error_in_the_stream_asks_for_it_again(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING), as_json(RUNNING), as_json(SUCCEEDED))
    error = (None, "error", {"title": "Not available at the moment", "detail": "Connect again."})
    contract.answer("GET", EVENTS, stream(event(7, "job.started"), error), stream((None, "end", SUCCEEDED)))
    assert watch(contract).status == 0
    asked = [each.headers.get("last-event-id") for each in contract.asked if each.path == EVENTS]
    assert asked == [None, "7"]


def test_a_failed_job_fails_and_says_why(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(FAILED))
    done = watch(contract)
    assert done.status == 1
    assert "job j failed: out_of_memory: Use a smaller batch." in done.err


def test_a_silent_stream_is_asked_for_again_and_does_not_outlive_the_time_that_was_given(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.4)
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING))
    contract.answer("GET", EVENTS, stream(event(7, "job.started"), silent=True))
    started = time.monotonic()
    done = watch(contract, "--timeout", 1.5)
    assert 1.5 <= time.monotonic() - started < 3.5
    assert done.status == 6
    assert "goes on" in done.err
    asked = [each.headers.get("last-event-id") for each in contract.asked if each.path == EVENTS]
    assert asked[:2] == [None, "7"]


def test_watching_outlives_a_service_that_starts_again(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING), as_json({}, broken=True), as_json(SUCCEEDED))
    contract.answer("GET", EVENTS, as_json({"data": [], "next_cursor": None}))
    done = watch(contract)
    assert done.status == 0, done.err
    assert "broke off" in done.err


def test_watching_ends_where_the_service_is_gone(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING), as_json({}, broken=True))
    contract.answer("GET", EVENTS, as_json({"data": [], "next_cursor": None}))
    assert watch(contract).status == 4


def test_a_job_is_cancelled_with_a_reason(contract: Contract) -> None:
    contract.answer("POST", "/v1/jobs/j/cancel", as_json(RUNNING, 202))
    done = at(contract.url)(KEY, "jobs", "cancel", "j", "--reason", "why")
    assert (done.status, done.out) == (0, "")
    assert contract.asked[0].json == {"reason": "why"}
    assert "it is running now" in done.err
    assert at(contract.url)(KEY, "jobs", "cancel", "j", "--json").json == RUNNING


def test_a_retry_is_a_new_job_that_can_be_watched(contract: Contract) -> None:
    contract.answer("POST", "/v1/jobs/j/retry", as_json({**RUNNING, "id": "k"}, 202))
    contract.answer("GET", "/v1/jobs/k", as_json({**SUCCEEDED, "id": "k"}))
    done = at(contract.url)(KEY, "jobs", "retry", "j", "--watch", "--json")
    assert (done.status, done.json["id"]) == (0, "k")
    assert "job k takes the place of j" in done.err
    assert at(contract.url)(KEY, "jobs", "retry", "j", "--json").json["id"] == "k"


def test_ctrl_c_stops_watching_alone(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING))
    contract.answer("GET", EVENTS, as_json({"data": [], "next_cursor": None}))
    monkeypatch.setattr("service.cli.stopped.Deadline.sleep", interrupted)
    done = watch(contract)
    assert done.status == 130
    assert "goes on" in done.err


def test_a_proxy_of_the_environment_is_not_asked_for_this_host(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    contract.answer("GET", "/v1/jobs/j", as_json(SUCCEEDED))
    done = watch(contract)
    assert done.status == 0, done.err


def test_why_a_stream_ended_early_is_said(contract: Contract) -> None:
    contract.answer("GET", "/v1/jobs/j", as_json(RUNNING), as_json(SUCCEEDED))
    contract.answer("GET", EVENTS, stream((None, "error", {"title": "x", "detail": "No dispatcher is running."})))
    done = watch(contract)
    assert done.status == 0, done.err
    assert "No dispatcher is running." in done.err
