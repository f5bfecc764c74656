"""/v1/events"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from models.chain import verify_chain
from models.records import Event, EventSeal
from service.deps import ReadSession
from service.lists.paging import Page, Paged
from service.schemas.events import ChainAnswer, EventAnswer, event_answer
from service.security import AsCompliance

router = APIRouter(prefix="/v1/events", tags=["events"])

RECORD = r"^[a-z_]{1,32}$"
RECORD_ID = r"^[A-Za-z0-9._:-]{1,64}$"


@router.get("")
def list_log(
    _: AsCompliance,
    session: ReadSession,
    paging: Paged,
    record: Annotated[str | None, Query(pattern=RECORD, description="Kind of record, such as job.")] = None,
    record_id: Annotated[str | None, Query(pattern=RECORD_ID, description="One record of that kind.")] = None,
) -> Page[EventAnswer]:
    """The event log, oldest first. An event appears here once it is sealed, a moment after it happened."""
    query = select(Event, EventSeal).join(EventSeal, EventSeal.event_id == Event.id)
    if record is not None:
        query = query.where(EventSeal.record == record)
    if record_id is not None:
        query = query.where(EventSeal.record_id == record_id)
    rows, cursor = paging.cut(session, query, EventSeal.position, oldest_first=True)
    return Page(data=[event_answer(row[0], row[1]) for row in rows], next_cursor=cursor)


@router.get("/verify")
def verify_log(_: AsCompliance, session: ReadSession) -> ChainAnswer:
    """Computes the hash of every sealed event anew, and names the first position that is not what was sealed."""
    return ChainAnswer.model_validate(verify_chain(session))
