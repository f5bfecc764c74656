"""A job's events and progress as a live stream of server-sent events.

Messages: the job's sealed events (``id`` is their position, ``event`` their name), `progress` whenever a column of it
changed, `error` before the stream ends early, and `end` with the job as it ended. A reader that lost its connection sends
the last id it got as `Last-Event-ID` and misses nothing.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import anyio
import structlog
from anyio import CapacityLimiter, to_thread
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from sqlalchemy import exists, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.types import Message, Send

from models.records import Event, EventSeal, Job
from models.session import Database
from service import errors, security
from service.errors import Problem, Unauthenticated, Unavailable, Unprocessable
from service.schemas.events import EventAnswer, event_answer
from service.schemas.jobs import JobAnswer, JobProgress

STREAM = "text/event-stream"
LOOK_SECONDS = 0.5  # between two looks at the database; a revoked key is refused at the next one
KEEP_ALIVE_SECONDS = 15.0
UNREAD_SECONDS = 30.0  # a reader that takes nothing for so long is gone
RETRY_MILLISECONDS = 2000
UNSEALED_SECONDS = 30.0  # how long an ended job's last events are waited for: a dispatcher seals them within seconds
EVENTS_AT_ONCE = 200
UNSEALED = (
    "The job has ended, and its last events are not sealed: no dispatcher is running. GET the job to see how it ended; "
    "connect again with Last-Event-ID for the rest of its events once one runs."
)
THREADS = 4  # of all streams of a process together: handlers keep the rest, and their connections

log = structlog.get_logger(__name__)


def wanted(accept: str) -> bool:
    """Whether a header Accept asks for the stream by its name, and not for JSON rather than that."""
    qualities: dict[str, float] = {}
    for part in accept.lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        given = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        try:
            qualities[media] = float(given[0]) if given else 1.0
        except ValueError:
            qualities[media] = 0.0
    return qualities.get(STREAM, 0.0) > 0 and qualities[STREAM] >= qualities.get("application/json", 0.0)


class Streams:
    """The places for live streams in this process. Only the event loop touches it."""

    def __init__(self, places: int, stopping: Callable[[], bool]) -> None:
        self.places = places
        self.stopping = stopping
        self.taken = 0
        self.threads = CapacityLimiter(THREADS)

    def take(self) -> None:
        """Raises Unavailable where every place is taken, or the server is about to stop."""
        if self.stopping():
            raise Unavailable("This server is about to stop: connect again.")
        if self.taken >= self.places:
            raise Unavailable(f"All {self.places} live streams are taken: try again, or ask for the page.")
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1


class EventStream(StreamingResponse):
    """Ends when its reader takes nothing any more, rather than keep its place for ever."""

    media_type = STREAM

    def __init__(self, content: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must pass on what comes
        super().__init__(content, headers=headers)

    async def stream_response(self, send: Send) -> None:
        async def sent(message: Message) -> None:
            with anyio.fail_after(UNREAD_SECONDS):
                await send(message)

        try:
            await super().stream_response(sent)
        except TimeoutError:
            log.info("stream.unread")


@dataclass(frozen=True)
class Look:
    """What one short transaction saw. Events first, then progress, then how it ended."""

    events: list[EventAnswer]
    progress: JobProgress
    ended: JobAnswer | None  # set once the job has ended and everything about it was seen


@dataclass(frozen=True)
class Follower:
    """One caller who follows one job. ``load`` reads the job as its own path answers it."""

    database: Database
    principal: security.Principal
    job_id: uuid.UUID
    load: Callable[[uuid.UUID, Session], JobAnswer]

    def look(self, position: int) -> Look:
        """What is there after ``position``. Raises Unauthenticated once the key is revoked or expired."""
        with self.database.read() as session:
            if not security.still_live(session, self.principal):
                raise Unauthenticated
            # In this order: what was committed with the job's end is either still unsealed, or among the sealed.
            job = self.load(self.job_id, session)
            about = Event.record == "job", Event.record_id == str(self.job_id)
            sealed = exists().where(EventSeal.event_id == Event.id)
            ended = (
                not Job.MOVES[job.status] and session.scalar(select(Event.id).where(*about, ~sealed).limit(1)) is None
            )
            found = session.execute(
                select(Event, EventSeal)
                .join(EventSeal, EventSeal.event_id == Event.id)
                .where(*about, EventSeal.position > position)
                .order_by(EventSeal.position)
                .limit(EVENTS_AT_ONCE)
            ).all()
        complete = ended and len(found) < EVENTS_AT_ONCE
        events = [event_answer(event, seal) for event, seal in found]
        return Look(events, JobProgress.model_validate(job), job if complete else None)


def position_after(session: Session, job_id: uuid.UUID, last_event_id: str | None) -> int:
    """Where a stream goes on. Raises Unprocessable for an id that no event of this job has."""
    if last_event_id is None:
        return 0
    known = (
        exists()
        .where(EventSeal.position == int(last_event_id), EventSeal.event_id == Event.id)
        .where(Event.record == "job", Event.record_id == str(job_id))
    )
    if not session.scalar(select(known)):
        raise Unprocessable(
            "No event of this job has this id: send the last `id` that this stream gave out, or none to start anew.",
            errors=[{"parameter": "Last-Event-ID", "detail": "not given out by this stream"}],
        )
    return int(last_event_id)


async def follow(follower: Follower, streams: Streams, position: int, trace_id: str) -> AsyncIterator[bytes]:
    """The stream's bytes, from the event after ``position`` on. No transaction is open while it waits."""
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    progress: JobProgress | None = None
    last_sent, over = time.monotonic(), None
    while not streams.stopping():
        try:
            seen = await to_thread.run_sync(follower.look, position, limiter=streams.threads)
        except SQLAlchemyError as error:
            log.error("stream.database_unavailable", trace_id=trace_id, error=type(error).__name__)
            yield _problem(trace_id, Unavailable("The database does not answer: connect again with Last-Event-ID."))
            return
        except Problem as problem:
            yield _problem(trace_id, problem)
            return
        messages = [_message(event.name, event, event.position) for event in seen.events]
        if seen.progress != progress:
            messages.append(_message("progress", seen.progress))
        if seen.ended is not None:
            yield b"".join([*messages, _message("end", seen.ended)])
            return
        over = over or (time.monotonic() if not Job.MOVES[seen.progress.status] else None)
        if over is not None and not messages and time.monotonic() - over >= UNSEALED_SECONDS:
            yield _problem(trace_id, Unavailable(UNSEALED))
            return
        if not messages and time.monotonic() - last_sent >= KEEP_ALIVE_SECONDS:
            messages.append(KEEPALIVE_COMMENT)
        if messages:
            yield b"".join(messages)
            last_sent = time.monotonic()
        progress = seen.progress
        if seen.events:
            position = seen.events[-1].position
        if len(seen.events) < EVENTS_AT_ONCE:
            await anyio.sleep(LOOK_SECONDS)
    yield format_sse_event(comment="the server is about to stop: connect again with Last-Event-ID")


def _message(name: str, data: BaseModel, position: int | None = None) -> bytes:
    text = data.model_dump_json()
    return format_sse_event(event=name, data_str=text, id=str(position) if position is not None else None)


def _problem(trace_id: str, problem: Problem) -> bytes:
    text = json.dumps(errors.document(trace_id, problem))
    return format_sse_event(event="error", data_str=text)
