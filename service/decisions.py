"""What people decide about a deletion request: cancelled, held, resumed, extended, approved, rejected.

Each function moves what may still be moved and raises Conflict where nothing may; the transaction is then rolled back.
Rows are locked as a finishing job locks them, job before erasures before request: whoever commits first has decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, exists, func, select
from sqlalchemy.orm import Session

from models import lifecycle
from models.base import now
from models.deletion_request import LIVE
from models.moves import advance
from models.records import (
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobStatus,
    RequestStatus,
    record_event,
)
from models.settling import lock_requests
from service.due import EXTENSIONS, extended
from service.duties.erasing import controls_are_buried
from service.errors import Conflict
from service.security import Principal

PAST_RETURN = (ErasureStatus.DONE, ErasureStatus.AWAITING_RELEASE)
NOTHING_LEFT = "no erasure is left in it"


def cancel(session: Session, request: DeletionRequest, principal: Principal, reason: str | None) -> None:
    """Spare whatever is not forgotten yet, controls included; what is forgotten stays so. Raises Conflict."""
    moved = _call_off(session, request, principal, "its request was cancelled", reason)
    _lock(session, request)
    spared = _controls_wait(session, request)
    if not moved and not spared and request.status not in (RequestStatus.ON_HOLD, RequestStatus.AWAITING_APPROVAL):
        raise Conflict(f"The request is {_state(request)}: nothing of it is left that could be cancelled.")
    request.cancelled_at, request.held_at = now(), None
    _decided(session, request, principal, "cancelled", reason, erasures=moved, controls_spared=spared)


def hold(session: Session, request: DeletionRequest, principal: Principal, reason: str) -> None:
    """Nothing of it is begun until it is resumed; its due date stays. Raises Conflict."""
    moved = _take_out(session, request, principal, ErasureStatus.ON_HOLD, [ErasureStatus.OPEN], "on hold", reason)
    _lock(session, request)
    stopped = exists().where(Erasure.request_id == request.id, Erasure.status == ErasureStatus.ON_HOLD)
    waits = session.scalar(select(stopped)) or _controls_wait(session, request)
    if not moved and (request.held_at is not None or not waits):
        raise Conflict(f"The request is {_state(request)}: nothing of it is left that could be held.")
    request.held_at = now()
    _decided(session, request, principal, "held", reason, erasures=moved)


def resume(session: Session, request: DeletionRequest, principal: Principal, reason: str | None) -> None:
    """Everything that is on hold goes on, whether the request or its job was stopped. Raises Conflict."""
    of_request = Erasure.request_id == request.id
    moved = advance(
        session,
        Erasure,
        of_request,
        ErasureStatus.OPEN,
        only_from=[ErasureStatus.ON_HOLD],
        job_id=None,
        reason=None,
    )
    _lock(session, request)
    if not moved and request.held_at is None:
        raise Conflict(f"The request is {_state(request)}: nothing of it is on hold.")
    request.held_at = None
    _decided(session, request, principal, "resumed", reason, erasures=moved)


def extend(session: Session, request: DeletionRequest, principal: Principal, reason: str) -> None:
    """Once, within the first period, and as far as the regulation allows. Raises Conflict."""
    _lock(session, request)
    if request.status not in LIVE:
        raise Conflict(f"The request is {_state(request)}: there is nothing left to extend.")
    if request.extended_at is not None:
        raise Conflict("The period was extended already, and no regulation allows it twice.")
    if request.regulation not in EXTENSIONS:
        raise Conflict(f"{request.regulation} allows no extension: the request stays due {_day(request.due_at)}.")
    if now() > request.due_at:
        raise Conflict(f"The first period ended {_day(request.due_at)}: an extension had to be told before.")
    request.original_due_at, request.due_at = request.due_at, extended(request.regulation, request.due_at)
    request.extended_at, request.extension_reason = now(), reason
    request.due_soon_told_at = request.overdue_told_at = None
    _decided(
        session,
        request,
        principal,
        "extended",
        reason,
        original_due_at=request.original_due_at.isoformat(),
        due_at=request.due_at.isoformat(),
        due_rule=EXTENSIONS[request.regulation].source,
    )


def approve(session: Session, request: DeletionRequest, principal: Principal, reason: str | None) -> None:
    """Let a request begin that waits for a person because of its size. Raises Conflict."""
    _lock(session, request)
    if request.status is not RequestStatus.AWAITING_APPROVAL:
        raise Conflict(f"The request is {_state(request)}: only one that awaits approval can be approved.")
    request.approved_at = now()
    _decided(session, request, principal, "approved", reason)


def reject(session: Session, request: DeletionRequest, principal: Principal, reason: str) -> None:
    """Refuse it for good; the person is told why by its certificate. Raises Conflict once any of it was erased."""
    moved = _call_off(session, request, principal, "its request was rejected", reason)
    _lock(session, request)
    if request.status not in LIVE:
        raise Conflict(f"The request is {_state(request)}: it has ended.")
    forgotten = exists().where(Erasure.request_id == request.id, Erasure.status.in_(PAST_RETURN))
    if session.scalar(select(forgotten)):
        raise Conflict("A model has forgotten its samples already: cancel what is left, or release the new version.")
    if request.has_controls and not _controls_wait(session, request):
        raise Conflict("Its control images are erased already: cancel what is left.")
    request.rejected_at, request.held_at = now(), None
    _decided(session, request, principal, "rejected", reason, erasures=moved)


def _call_off(session: Session, request: DeletionRequest, principal: Principal, why: str, reason: str | None) -> int:
    """Cancel its erasures that have not come to an end, failed ones too: nobody shall retry them."""
    advance(
        session,
        Erasure,
        Erasure.request_id == request.id,
        ErasureStatus.OPEN,
        only_from=[ErasureStatus.FAILED],
        job_id=None,
    )
    starts = [ErasureStatus.OPEN, ErasureStatus.ON_HOLD]
    return _take_out(session, request, principal, ErasureStatus.CANCELLED, starts, why, reason, finished_at=now())


def _take_out(
    session: Session,
    request: DeletionRequest,
    principal: Principal,
    target: ErasureStatus,
    starts: Sequence[ErasureStatus],
    why: str,
    reason: str | None,
    **values: datetime,
) -> int:
    """Move the request's erasures out of the jobs that they are in; returns how many moved.

    A running job is stopped and queued again without them. One that serves nobody any more is cancelled.
    """
    met: list[Job] = []
    moved = 0
    of_request = Erasure.request_id == request.id
    while True:
        jobs = _lock_jobs(session, request, met)
        for job in jobs:
            if job.status is JobStatus.RUNNING:
                said = f"a request in it is {target.value.replace('_', ' ')}"
                lifecycle.requeue(session, job, job.token, actor=principal.actor, reason=said, counted=False)
        met.extend(jobs)
        moved += advance(
            session, Erasure, of_request, target, only_from=starts, job_id=None, reason=reason or why, **values
        )
        # Planned and claimed between the look at its jobs and this: once more, for the job is known now.
        if not session.scalar(select(exists().where(of_request, Erasure.status == ErasureStatus.RUNNING))):
            break
    for job in met:
        attached = select(func.count()).select_from(Erasure).where(Erasure.job_id == job.id)
        if not session.scalar(attached):
            lifecycle.call_off(session, job, job.token, actor=principal.actor, reason=NOTHING_LEFT)
    return moved


def _lock_jobs(session: Session, request: DeletionRequest, met: list[Job]) -> list[Job]:
    """Live jobs that an erasure of the request is in, but for those met before."""
    attached = exists().where(
        Erasure.job_id == Job.id,
        Erasure.request_id == request.id,
        Erasure.status.in_([ErasureStatus.OPEN, ErasureStatus.RUNNING]),
    )
    query = (
        select(Job)
        .where(
            attached,
            Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]),
            Job.id.not_in([job.id for job in met]),
        )
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(query))


def _lock(session: Session, request: DeletionRequest) -> None:
    lock_requests(session, request.id)
    session.refresh(request)


def _controls_wait(session: Session, request: DeletionRequest) -> bool:
    """Whether it names controls that shall go, and no step of that has been taken."""
    return bool(
        session.scalar(
            select(DeletionRequest.id).where(
                and_(
                    DeletionRequest.id == request.id,
                    DeletionRequest.has_controls,
                    DeletionRequest.controls_erased_at.is_(None),
                    DeletionRequest.cancelled_at.is_(None),
                    DeletionRequest.rejected_at.is_(None),
                    ~controls_are_buried(),
                )
            )
        )
    )


def _decided(
    session: Session, request: DeletionRequest, principal: Principal, decision: str, reason: str | None, **data: object
) -> None:
    if decision != "extended":  # which has a column of its own for it
        request.decision_reason = reason
    record_event(
        session,
        f"deletion_request.{decision}",
        "deletion_request",
        request.id,
        principal.actor,
        reason=reason,
        **data,
    )


def _state(request: DeletionRequest) -> str:
    return request.status.value.replace("_", " ")


def _day(at: datetime) -> str:
    return f"on {at.date().isoformat()}"
