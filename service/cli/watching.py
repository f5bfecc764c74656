"""Stay with a job or a request until it ends, or waits for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from service.cli.bars import Bars, bars
from service.cli.choices import JOB_ENDED, LIVE, WAITING
from service.cli.client import Api
from service.cli.exits import Exit
from service.cli.output import note
from service.cli.sse import Message, messages
from service.cli.stopped import Refused, Stopped, Unreachable

EVENT_STREAM = "text/event-stream"
PAUSE_SECONDS = 1.0
SILENCE_SECONDS = 20.0  # of a stream, which says something every 15 s: it is asked for anew
PATIENCE = 5  # tries while the service does not answer: it may be starting again

Answered = dict[str, Any]


def watch_job(api: Api, job_id: str) -> Answered:
    """The job once it has ended. Raises TimedOut, Refused, Unreachable."""
    path = f"/v1/jobs/{job_id}"
    with bars() as shown:
        job = _patiently(api, path)
        streams, last_id = True, None
        while job["status"] not in JOB_ENDED:
            _show_job(shown, job)
            try:
                for message in _streamed(api, f"{path}/events", last_id) if streams and _long_enough(api) else ():
                    last_id = message.id
                    if message.event == "error":
                        _say_why(message)
                    if message.event in ("end", "error"):  # the job itself tells how, or whether to ask again
                        break
                    _show_message(shown, job, message)
            except (_NoStream, Refused):  # a page, or no place for one more stream: looking at the job does as well
                streams = False
            except Unreachable:
                pass  # the next look at the job tells a stream that broke off from a service that is gone
            job = _patiently(api, path)
            if job["status"] not in JOB_ENDED:
                api.deadline.sleep(PAUSE_SECONDS)
        _show_job(shown, job)
    return job


def job_outcome(job: Answered) -> Exit:
    """Says how the job ended, and gives the exit status for that."""
    error = job["error"] or {}
    why = f": {error.get('code')}: {error.get('detail')}" if error else ""
    note(f"job {job['id']} {job['status']}{why}")
    return Exit.DONE if job["status"] == "succeeded" else Exit.FAILED


def watch_request(api: Api, request_id: str) -> Answered:
    """The request once it has ended or waits for a person. Raises TimedOut, Refused, Unreachable.

    Shows its jobs where the key may see them, else how far the request is in each model.
    """
    path = f"/v1/deletion-requests/{request_id}"
    sees_jobs = True
    with bars() as shown:
        while True:
            request = _patiently(api, path)
            for erasure in request["erasures"]:
                job = None
                if sees_jobs and erasure["job"] is not None and erasure["status"] in ("open", "running"):
                    job, sees_jobs = _job_of(api, erasure["job"])
                _show_erasure(shown, erasure, job)
            if request["status"] not in LIVE or request["status"] in WAITING:
                return request
            api.deadline.sleep(PAUSE_SECONDS)


def request_outcome(request: Answered) -> Exit:
    """Says where the request stands, and gives the exit status for that."""
    status = request["status"]
    note(f"request {request['id']}: {status.replace('_', ' ')}")
    for erasure in request["erasures"]:
        if erasure["reason"]:
            note(f"  {erasure['model']}: {erasure['status'].replace('_', ' ')}: {erasure['reason']}")
    if status == "completed":
        if request.get("certificate") is None:
            note("the certificate follows once the files were seen to be gone")
        return Exit.DONE
    return Exit.WAITS if status in WAITING else Exit.FAILED


class _NoStream(Stopped):
    """The service answers with a page."""


def _streamed(api: Api, path: str, last_id: str | None) -> Iterator[Message]:
    headers = {"Accept": EVENT_STREAM} | ({"Last-Event-ID": last_id} if last_id else {})
    with api.stream(path, headers, seconds=SILENCE_SECONDS) as answer:
        if not answer.headers.get("Content-Type", "").startswith(EVENT_STREAM):
            raise _NoStream
        yield from messages(takewhile(lambda _: _long_enough(api), answer.iter_text()), last_id)


def _long_enough(api: Api) -> bool:
    """Whether a stream that falls silent now is noticed before --timeout passes; else the job is looked at."""
    return api.deadline.left(SILENCE_SECONDS) == SILENCE_SECONDS


def _patiently(api: Api, path: str) -> Answered:
    for left in reversed(range(PATIENCE)):
        try:
            found: Answered = api.get(path).json()
            return found
        except Unreachable as error:
            if not left:
                raise
            note(f"{error} Trying again.")
            api.deadline.sleep(PAUSE_SECONDS * (PATIENCE - left))
    raise AssertionError("the last try returns or raises")


def _job_of(api: Api, job_id: str) -> tuple[Answered | None, bool]:
    try:
        return _patiently(api, f"/v1/jobs/{job_id}"), True
    except Refused as refused:
        if refused.status in (403, 404):
            return None, False
        raise


def _show_message(shown: Bars, job: Answered, message: Message) -> None:
    try:
        data = json.loads(message.data)
    except ValueError:  # of no use to anybody; the job is looked at in the end
        return
    if message.event == "progress":
        _show_job(shown, {**job, **data})
    elif isinstance(data, dict) and "name" in data:
        shown.say(f"{data.get('at', '')} {data['name']}".strip())


def _say_why(message: Message) -> None:
    try:
        note(json.loads(message.data)["detail"])
    except (ValueError, TypeError, KeyError):  # of another server than this service: the job tells
        pass


def _show_job(shown: Bars, job: Answered) -> None:
    doing = " ".join(filter(None, [job["phase"] or job["status"], job["step"]]))
    share = 1.0 if job["status"] == "succeeded" else job["progress"]
    shown.show(_title(job), share, job["status"] if job["status"] in JOB_ENDED else doing, job["eta_seconds"])


def _title(job: Answered) -> str:
    return f"{job['kind']} {job['model'] or job['training_set'] or ''}".strip()


def _show_erasure(shown: Bars, erasure: Answered, job: Answered | None) -> None:
    status = erasure["status"].replace("_", " ")
    if job is None:
        shown.show(erasure["model"], 1.0 if erasure["status"] == "done" else 0.0, status)
        return
    doing = " ".join(filter(None, [job["phase"] or job["status"], job["step"]]))
    shown.show(erasure["model"], job["progress"], doing, job["eta_seconds"])
