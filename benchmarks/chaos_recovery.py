"""How long after each kill the service did again what the killed process is needed for, read from rows."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from models.records import Event, Job, JobKind, JobStatus
from models.session import Database
from tests.caller import Accepted


@dataclass(frozen=True)
class Kill:
    """SIGKILL to every process of one container."""

    name: str
    at: datetime
    down_seconds: float
    running: list[uuid.UUID]  # jobs that a killed worker held

    @property
    def piece(self) -> str:
        """service, worker, redis or db."""
        return self.name.partition("-")[0]

    def told(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "at": self.at.isoformat(timespec="milliseconds"),
            "down_seconds": round(self.down_seconds, 1),
            "running": len(self.running),
        }


def running_on(database: Database, worker: str) -> list[uuid.UUID]:
    """Jobs that a worker runs now; none where the database does not answer."""
    try:
        with database.read() as session:
            mine = (Job.status == JobStatus.RUNNING, Job.worker.like(f"{worker}:%"))
            return list(session.scalars(select(Job.id).where(*mine)))
    except Exception:
        return []


def recoveries(
    database: Database, kills: list[Kill], accepted: list[Accepted], urls: dict[str, str]
) -> list[dict[str, Any]]:
    """One entry a kill and effect: which piece, what came again, and after how many seconds.

    An API process: the next POST that was accepted by any, and by itself. A worker: each job that it held succeeded, or was
    claimed anew where a later kill hit it too; without one, the next job that succeeded. Redis: the next job that was
    planned after the kill, and so had to be told of, succeeded. PostgreSQL: the next POST was accepted, and the next job
    succeeded. After the last request there may be nothing left to come again: then there is no entry.
    """
    with database.read() as session:
        ended = select(Job.created_at, Job.finished_at).where(
            Job.kind == JobKind.UNLEARN, Job.status == JobStatus.SUCCEEDED
        )
        jobs = [(row.created_at, row.finished_at) for row in session.execute(ended.order_by(Job.finished_at))]
        started = select(Event.record_id, Event.at).where(Event.name == "job.started").order_by(Event.at)
        claims = [(str(record), at) for record, at in session.execute(started)]
        finished = {job.id: job.finished_at for job in session.scalars(select(Job))}
    found = []
    for kill in kills:
        posts = sorted((post for post in accepted if post.at > kill.at), key=lambda post: post.at)
        post = ("a POST accepted", _first(post.at for post in posts))
        own = ("a POST accepted by the process", _first(post.at for post in posts if post.url == urls.get(kill.name)))
        done = ("a job succeeded", _first(end for _, end in jobs if end > kill.at))
        told = ("a job planned and succeeded", _first(end for made, end in jobs if made > kill.at))
        held = [job for job in kill.running if (finished[job] or kill.at) >= kill.at]  # others ended just before it
        lost = [_again(job, finished[job], kill, kills, claims) for job in held]
        came = {"service": [post, own], "redis": [told], "db": [post, done], "worker": lost or [done]}[kill.piece]
        found += [_told(kill, what, at) for what, at in came if at is not None]
    return found


def _told(kill: Kill, what: str, at: datetime) -> dict[str, Any]:
    seconds = round((at - kill.at).total_seconds(), 1)
    return {"piece": kill.piece, "killed": kill.name, "what": what, "seconds": seconds}


def _again(
    job: uuid.UUID,
    finished: datetime | None,
    kill: Kill,
    kills: list[Kill],
    claims: list[tuple[str, datetime]],
) -> tuple[str, datetime | None]:
    claimed = _first(at for record, at in claims if record == str(job) and at > kill.at)
    hit = [other for other in kills if other.at > kill.at and job in other.running]
    return ("the lost job claimed anew, and lost again", claimed) if hit else ("the lost job succeeded", finished)


def _first(times: Iterable[datetime | None]) -> datetime | None:
    return next(iter(times), None)
