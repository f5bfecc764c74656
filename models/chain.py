"""The check of the event log: every hash of the chain computed anew."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import Row, exists, func, select
from sqlalchemy.orm import Session

from models.event import Event, EventSeal
from models.evidence import GENESIS, seal

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Head:
    """The last seal. Who keeps it elsewhere can tell later that the log was cut short, which the log alone cannot."""

    position: int
    hash: str


@dataclass(frozen=True)
class Bad:
    """The first position at which the log is not what was sealed; ``event`` is None where nothing is left there."""

    position: int
    event: uuid.UUID | None
    why: str


@dataclass(frozen=True)
class Chain:
    sealed: int
    unsealed: int
    head: Head | None
    first_bad: Bad | None

    @property
    def intact(self) -> bool:
        return self.first_bad is None


def head_of_log(session: Session) -> Head | None:
    """The last seal, unchecked; None while nothing is sealed."""
    last = session.scalars(select(EventSeal).order_by(EventSeal.position.desc()).limit(1)).one_or_none()
    return Head(last.position, last.hash) if last is not None else None


def verify_chain(session: Session) -> Chain:
    """Read the whole log up to its present head, a batch at a time, and compute its hashes anew."""
    head = head_of_log(session)
    unsealed = select(func.count()).select_from(Event).where(~exists().where(EventSeal.event_id == Event.id))
    return Chain(
        sealed=session.scalar(select(func.count()).select_from(EventSeal)) or 0,
        unsealed=session.scalar(unsealed) or 0,
        head=head,
        first_bad=_first_bad(session, head) if head is not None else None,
    )


def _first_bad(session: Session, head: Head) -> Bad | None:
    query = (
        select(EventSeal, Event)
        .outerjoin(Event, Event.id == EventSeal.event_id)
        .where(EventSeal.position <= head.position)
        .order_by(EventSeal.position)
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    position, previous = 0, GENESIS
    try:
        with session.execute(query) as rows:
            for stored, event in rows:
                position += 1
                if stored.position != position:
                    return Bad(position, None, f"no event is sealed here; the next one is at {stored.position}")
                if event is None:
                    return Bad(position, stored.event_id, "the event was deleted")
                if _sealed(previous, event, position) != stored.hash:
                    return Bad(position, event.id, _which(previous, event, stored, rows.fetchone()))
                if (stored.record, stored.record_id) != (event.record, event.record_id):
                    return Bad(position, event.id, "its seal names another record than the event does")
                previous = stored.hash
    except ValueError:  # no time, no JSON: somebody wrote past the records
        return Bad(position + 1, None, f"a row among the {ROWS_AT_ONCE} from here on cannot be read")
    return None


def _which(previous: str, event: Event, stored: EventSeal, following: Row[EventSeal, Event] | None) -> str:
    """What was changed: the seal after it was made from the true hash of the one in doubt."""
    if following is not None and following[1] is not None:
        after, next_event = following
        if _sealed(stored.hash, next_event, after.position) == after.hash:
            return "the event was changed after it was sealed"
        computed = _sealed(previous, event, stored.position)
        if computed is not None and _sealed(computed, next_event, after.position) == after.hash:
            return "the hash of its seal was changed"
    return "the event or the hash of its seal was changed"


def _sealed(previous: str, event: Event, position: int) -> str | None:
    """None where there is no such seal: a hash that is not one, or data that could never have been sealed."""
    try:
        return seal(previous, event, position)
    except ValueError:
        return None
