"""Seals: chain the hashes of events, in the order in which the dispatcher finds them."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from sqlalchemy import Table, bindparam, exists, insert, select
from sqlalchemy.exc import IntegrityError

from models.crashes import crash_point
from models.evidence import GENESIS, seal
from models.records import Event, EventSeal
from models.session import Database

AT_ONCE = 100  # events in one transaction: on SQLite, requests wait for it
MOST_A_ROUND = 5000
# Events commit out of order, nearly all within seconds. What a transaction of minutes commits is found by a longer look
# back, and what is later still by a look at the whole log.
RECENT = timedelta(seconds=15)
LOOK_BACK = timedelta(minutes=10)

# Built once, as in service.claims: they run every second. Over columns: an object for each event costs more than its seal.
_INSERT = insert(cast(Table, EventSeal.__table__)).inline()
_LAST = (
    select(EventSeal.position, EventSeal.hash, Event.at)
    .join(Event, Event.id == EventSeal.event_id)
    .order_by(EventSeal.position.desc())
    .limit(1)  # without it PostgreSQL sends the whole log for its last row
)
_UNSEALED = (
    select(*cast(Table, Event.__table__).columns)
    .where(~exists().where(EventSeal.event_id == Event.id))
    # By time, which has an index: in the order of ids, SQLite would walk through the whole log to what is recent.
    .order_by(Event.at, Event.id)
    .limit(AT_ONCE)
)
_RECENT_UNSEALED = _UNSEALED.where(Event.at >= bindparam("since"))


def seal_events(database: Database, *, look_back: timedelta = LOOK_BACK, everything: bool = False) -> int:
    """Seal what is unsealed; returns how many.

    ``look_back``: how far behind the last sealed event to look for what was committed late; ``everything``: all the way.
    """
    sealed = 0
    while sealed < MOST_A_ROUND:
        number = _seal_some(database, None if everything else look_back)
        sealed += number
        if number < AT_ONCE:
            break
    return sealed


def _seal_some(database: Database, look_back: timedelta | None) -> int:
    with database.read() as session:
        last = session.execute(_LAST).one_or_none()
        if last is None or look_back is None:
            events = session.execute(_UNSEALED).all()
        else:
            events = session.execute(_RECENT_UNSEALED, {"since": last.at - look_back}).all()
    if not events:
        return 0
    position, previous = (last.position, last.hash) if last is not None else (0, GENESIS)
    seals = []
    for event in events:
        position += 1
        previous = seal(previous, event, position)
        seals.append(
            {
                "position": position,
                "event_id": event.id,
                "hash": previous,
                "record": event.record,
                "record_id": event.record_id,
            }
        )
    try:
        with database.write() as session:
            session.connection().execute(_INSERT, seals)
            crash_point("seal.before_commit")
        crash_point("seal.after_commit")
    except IntegrityError:  # another dispatcher sealed at these positions
        return 0
    return len(seals)
