"""/v1/deletion-requests/{id}/cancel and the other decisions of people"""

from __future__ import annotations

from fastapi import APIRouter, status
from sqlalchemy.orm import Session

from models.records import DeletionRequest
from models.settling import settle
from service import decisions
from service.deps import WriteSession
from service.errors import Conflict, NotFound, responses
from service.requests import RequestToDecide
from service.routers.deletion_requests import answer_in_full
from service.schemas.common import OptionalReason, Reason
from service.schemas.deletion_requests import RequestAnswer
from service.security import AsApplicationOrOperator, AsOperator

router = APIRouter(
    prefix="/v1/deletion-requests/{request_id}", tags=["deletion requests"], responses=responses(NotFound, Conflict)
)


@router.post("/cancel", status_code=status.HTTP_202_ACCEPTED)
def cancel_request(
    principal: AsApplicationOrOperator,
    loaded: RequestToDecide,
    session: WriteSession,
    body: OptionalReason | None = None,
) -> RequestAnswer:
    """Call it off, an application its own: what no model has forgotten yet is spared, what is forgotten stays so."""
    decisions.cancel(session, loaded[0], principal, body.reason if body else None)
    return _decided(session, *loaded)


@router.post("/hold", status_code=status.HTTP_202_ACCEPTED)
def hold_request(principal: AsOperator, loaded: RequestToDecide, body: Reason, session: WriteSession) -> RequestAnswer:
    """Keep it back until it is resumed; a job that serves it is stopped and runs again without it. It stays due."""
    decisions.hold(session, loaded[0], principal, body.reason)
    return _decided(session, *loaded)


@router.post("/resume", status_code=status.HTTP_202_ACCEPTED)
def resume_request(
    principal: AsOperator, loaded: RequestToDecide, session: WriteSession, body: OptionalReason | None = None
) -> RequestAnswer:
    """Let it go on after a hold, or after its job was cancelled."""
    decisions.resume(session, loaded[0], principal, body.reason if body else None)
    return _decided(session, *loaded)


@router.post("/extend", status_code=status.HTTP_202_ACCEPTED)
def extend_request(
    principal: AsOperator, loaded: RequestToDecide, body: Reason, session: WriteSession
) -> RequestAnswer:
    """Extend the period once, as far as its regulation allows; the person must be told why within the first period."""
    decisions.extend(session, loaded[0], principal, body.reason)
    return _decided(session, *loaded)


@router.post("/approve", status_code=status.HTTP_202_ACCEPTED)
def approve_request(
    principal: AsOperator, loaded: RequestToDecide, session: WriteSession, body: OptionalReason | None = None
) -> RequestAnswer:
    """Let a request begin that takes a whole class or a large share of the training images."""
    decisions.approve(session, loaded[0], principal, body.reason if body else None)
    return _decided(session, *loaded)


@router.post("/reject", status_code=status.HTTP_202_ACCEPTED)
def reject_request(
    principal: AsOperator, loaded: RequestToDecide, body: Reason, session: WriteSession
) -> RequestAnswer:
    """Refuse it before anything was erased; its certificate tells the reason."""
    decisions.reject(session, loaded[0], principal, body.reason)
    return _decided(session, *loaded)


def _decided(session: Session, request: DeletionRequest, application: str, training_set: str) -> RequestAnswer:
    settle(session)
    return answer_in_full(session, request, application, training_set)
