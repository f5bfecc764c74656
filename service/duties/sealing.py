"""Seals: chain the hashes of events, in the order in which the dispatcher finds them."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError

from models.crashes import crash_point
from models.evidence import GENESIS, seal
from models.records import Event, EventSeal
from models.session import Database

MOST_A_ROUND = 500
# Events commit out of order; no transaction that records one stays open for nearly this long.
LOOK_BACK = timedelta(minutes=10)


def seal_events(database: Database, *, everything: bool = False) -> int:
    """Seal what is unsealed; returns how many. ``everything`` looks at the whole log, not only at its recent end."""
    with database.read() as session:
        last = session.execute(
            select(EventSeal, Event)
            .join(Event, Event.id == EventSeal.event_id)
            .order_by(EventSeal.position.desc())
            .limit(1)  # without it PostgreSQL sends the whole log for its last row
        ).one_or_none()
        unsealed = ~exists().where(EventSeal.event_id == Event.id)
        query = select(Event).where(unsealed).order_by(Event.id).limit(MOST_A_ROUND)
        if last is not None and not everything:
            query = query.where(Event.at >= last.Event.at - LOOK_BACK)
        events = list(session.scalars(query))
    if not events:
        return 0
    position, previous = (last.EventSeal.position, last.EventSeal.hash) if last is not None else (0, GENESIS)
    seals = []
    for event in events:
        position += 1
        previous = seal(previous, event, position)
        seals.append(
            EventSeal(
                position=position, event_id=event.id, hash=previous, record=event.record, record_id=event.record_id
            )
        )
    try:
        with database.write() as session:
            session.add_all(seals)
            session.flush()
            crash_point("seal.before_commit")
        crash_point("seal.after_commit")
    except IntegrityError:  # another dispatcher sealed at these positions
        return 0
    return len(seals)
