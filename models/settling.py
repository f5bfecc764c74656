"""The status of a deletion request: it follows from its erasures and from what people decided, and is stored.

A list of 100,000 requests is filtered by status: computed for each row, that would read all of them. So every transaction
that moves an erasure, or changes one of the columns below, brings the stored status up to date before it commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, and_, case, event, exists, literal, or_, select
from sqlalchemy.orm import Session

from models.deletion_request import DeletionRequest, RequestStatus
from models.erasure import Erasure, ErasureStatus
from models.event import record_event
from models.moves import UNSETTLED

ACTOR = "service"
IDS_AT_ONCE = 500


def derived_status() -> ColumnElement[str]:
    """First rule that holds: what a person must do, then what still moves, then how it ended."""
    request = DeletionRequest

    def some(*states: ErasureStatus) -> ColumnElement[bool]:
        return exists().where(Erasure.request_id == request.id, Erasure.status.in_(states)).correlate(request)

    controls_gone = and_(request.has_controls, request.controls_erased_at.is_not(None))
    ended_well = or_(some(ErasureStatus.DONE, ErasureStatus.NOT_APPLICABLE), controls_gone)
    controls_wait = and_(request.has_controls, request.controls_erased_at.is_(None), request.cancelled_at.is_(None))
    # What no model has to forget any more is erased as pixels and names even so: a person may still be asked about that.
    samples_wait = and_(some(ErasureStatus.NOT_APPLICABLE), request.samples_erased_at.is_(None))
    files_wait = or_(controls_wait, and_(samples_wait, request.cancelled_at.is_(None)))
    unapproved = and_(request.approval_required, request.approved_at.is_(None))
    controls_left = and_(request.has_controls, request.controls_erased_at.is_(None))
    spared = and_(request.cancelled_at.is_not(None), or_(controls_left, samples_wait))
    return case(
        (request.rejected_at.is_not(None), RequestStatus.REJECTED.value),
        (
            or_(some(ErasureStatus.ON_HOLD), and_(request.held_at.is_not(None), files_wait)),
            RequestStatus.ON_HOLD.value,
        ),
        (some(ErasureStatus.RUNNING), RequestStatus.RUNNING.value),
        (and_(unapproved, or_(some(ErasureStatus.OPEN), files_wait)), RequestStatus.AWAITING_APPROVAL.value),
        (some(ErasureStatus.OPEN), RequestStatus.QUEUED.value),
        (some(ErasureStatus.AWAITING_RELEASE), RequestStatus.AWAITING_RELEASE.value),
        (
            and_(or_(some(ErasureStatus.FAILED, ErasureStatus.CANCELLED), spared), ended_well),
            RequestStatus.PARTIALLY_COMPLETED.value,
        ),
        (some(ErasureStatus.FAILED), RequestStatus.FAILED.value),
        (or_(some(ErasureStatus.CANCELLED), spared), RequestStatus.CANCELLED.value),
        (controls_wait, RequestStatus.QUEUED.value),
        else_=literal(RequestStatus.COMPLETED.value),
    )


def unsettle(session: Session, *requests: uuid.UUID) -> None:
    """Say that the status of these requests may have changed: a statement wrote past the session's objects."""
    session.info.setdefault(UNSETTLED, set()).update(requests)


def settled(session: Session, request: uuid.UUID) -> None:
    """Say that the status of a request that was inserted just now is right already."""
    session.info.get(UNSETTLED, set()).discard(request)


def lock_requests(session: Session, *requests: uuid.UUID) -> None:
    """Lock these requests and all whose status this transaction has touched, in the order that every transaction takes."""
    session.flush()
    for ids in _chunks(sorted({*session.info.get(UNSETTLED, ()), *requests})):
        _lock(session, ids)


def settle(session: Session) -> None:
    """Bring the stored status of every request touched by this transaction up to date; a change is an event.

    Runs before each commit by itself; a handler calls it to answer with the new status.
    """
    session.flush()
    touched = sorted(session.info.pop(UNSETTLED, ()))
    for ids in _chunks(touched):
        # The rows first: what another transaction did to a second erasure of the same request must be visible below.
        _lock(session, ids)
        stored_and_right = (
            select(DeletionRequest, derived_status())
            .where(DeletionRequest.id.in_(ids))
            .order_by(DeletionRequest.id)
            .execution_options(populate_existing=True)
        )
        for request, right in session.execute(stored_and_right).all():
            if request.status == right:
                continue
            was, request.status = request.status, RequestStatus(right)
            record_event(
                session,
                "deletion_request.status_changed",
                "deletion_request",
                request.id,
                ACTOR,
                was=RequestStatus(was).value,
                now=request.status.value,
            )
    session.flush()
    session.info.pop(UNSETTLED, None)  # what was flushed just now is what was settled


def _lock(session: Session, ids: list[uuid.UUID]) -> None:
    locked = select(DeletionRequest.id).where(DeletionRequest.id.in_(ids)).order_by(DeletionRequest.id)
    session.execute(locked.with_for_update()).all()


def _chunks(ids: list[uuid.UUID]) -> Iterator[list[uuid.UUID]]:
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ids[start : start + IDS_AT_ONCE]


def _touched(objects: Iterable[Any]) -> set[uuid.UUID]:
    requests = {each.id for each in objects if isinstance(each, DeletionRequest)}
    return requests | {each.request_id for each in objects if isinstance(each, Erasure)}


@event.listens_for(Session, "after_flush")
def _after_flush(session: Session, _context: object) -> None:
    touched = _touched([*session.new, *session.dirty])
    if touched:
        unsettle(session, *touched)


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint: the rest of what it begins is still to come
        return
    if session.info.get(UNSETTLED) or session.new or session.dirty:
        settle(session)
