"""The sealed log is checked link by link; whoever gets past the triggers is found."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import DBAPIError

from models import chain
from models.chain import Bad, Chain, Head, verify_chain
from models.records import Event, EventSeal, record_event
from models.session import Database
from service.duties.sealing import seal_events

EVENTS = 7


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "ROWS_AT_ONCE", 2)


@pytest.fixture
def sealed(database: Database) -> list[uuid.UUID]:
    """Ids of seven sealed events, the first at position 1; the database's own defence is gone."""
    with database.write() as session:
        made = []
        for number in range(EVENTS):
            made.append(record_event(session, "something.happened", "job", number, "test", number=number, share=0.1))
            session.flush()
    seal_events(database)
    with database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            for table in ("events", "event_seals"):
                connection.execute(text(f"DROP TRIGGER {table}_append_only ON {table}"))
            connection.execute(text("ALTER TABLE event_seals DROP CONSTRAINT fk_event_seals_event_id_events"))
        else:
            for table in ("events", "event_seals"):
                for verb in ("update", "delete"):
                    connection.execute(text(f"DROP TRIGGER {table}_no_{verb}"))
    return [event.id for event in made]


def change(database: Database, *statements: object) -> None:
    with database.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
        connection.commit()
        connection.invalidate()  # its pragma must not outlive this


def checked(database: Database) -> Chain:
    with database.read() as session:
        return verify_chain(session)


def test_an_empty_log_is_intact(database: Database) -> None:
    assert checked(database) == Chain(sealed=0, unsealed=0, head=None, first_bad=None)


def test_a_log_that_nobody_touched_is_intact(database: Database, sealed: list[uuid.UUID]) -> None:
    with database.write() as session:
        record_event(session, "something.happened", "job", 8, "test")
    found = checked(database)
    with database.read() as session:
        last = session.get_one(EventSeal, EVENTS)
    assert found == Chain(sealed=EVENTS, unsealed=1, head=Head(EVENTS, last.hash), first_bad=None)
    assert found.intact


FIELDS = {
    "name": "something.else",
    "record": "model",
    "record_id": "99",
    "actor": "nobody",
    "data": {"number": 99, "share": 0.1},
    "at": datetime(2026, 1, 1, tzinfo=UTC),
}


@pytest.mark.fault(13)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("position", [1, 4, 6])
def test_a_changed_event_is_named(field: str, position: int, database: Database, sealed: list[uuid.UUID]) -> None:
    event = sealed[position - 1]
    change(database, update(Event).where(Event.id == event).values({field: FIELDS[field]}))
    assert checked(database).first_bad == Bad(position, event, "the event was changed after it was sealed")
    assert not checked(database).intact


def test_the_first_of_two_changed_events_is_named(database: Database, sealed: list[uuid.UUID]) -> None:
    change(database, update(Event).where(Event.id.in_([sealed[5], sealed[2]])).values(actor="nobody"))
    found = checked(database).first_bad
    assert found is not None
    assert (found.position, found.event) == (3, sealed[2])


@pytest.mark.fault(13)
def test_a_deleted_event_is_named(database: Database, sealed: list[uuid.UUID]) -> None:
    change(database, delete(Event).where(Event.id == sealed[3]))
    assert checked(database).first_bad == Bad(4, sealed[3], "the event was deleted")


@pytest.mark.parametrize("position", [1, 4])
def test_a_gap_in_the_positions_is_named(position: int, database: Database, sealed: list[uuid.UUID]) -> None:
    change(
        database,
        delete(EventSeal).where(EventSeal.position == position),
        delete(Event).where(Event.id == sealed[position - 1]),
    )
    why = f"no event is sealed here; the next one is at {position + 1}"
    assert checked(database).first_bad == Bad(position, None, why)


@pytest.mark.fault(13)
@pytest.mark.parametrize("forged", ["0" * 64, "no hash"])
@pytest.mark.parametrize("position", [1, 4])
def test_a_changed_hash_is_named(position: int, forged: str, database: Database, sealed: list[uuid.UUID]) -> None:
    change(database, update(EventSeal).where(EventSeal.position == position).values(hash=forged))
    assert checked(database).first_bad == Bad(position, sealed[position - 1], "the hash of its seal was changed")


def test_a_change_at_the_end_is_named_though_nothing_tells_which_it_was(
    database: Database, sealed: list[uuid.UUID]
) -> None:
    change(database, update(EventSeal).where(EventSeal.position == EVENTS).values(hash="0" * 64))
    why = "the event or the hash of its seal was changed"
    assert checked(database).first_bad == Bad(EVENTS, sealed[-1], why)


@pytest.mark.parametrize("name", [{"record": "model"}, {"record_id": "99"}], ids=str)
def test_a_seal_that_hides_its_event_from_its_record_is_named(
    name: dict[str, str], database: Database, sealed: list[uuid.UUID]
) -> None:
    change(database, update(EventSeal).where(EventSeal.position == 3).values(name))
    why = "its seal names another record than the event does"
    assert checked(database).first_bad == Bad(3, sealed[2], why)


def test_two_events_that_changed_places_are_named(database: Database, sealed: list[uuid.UUID]) -> None:
    def place(position: int, event: uuid.UUID) -> object:
        return update(EventSeal).where(EventSeal.position == position).values(event_id=event)

    change(database, place(2, uuid.uuid4()), place(5, sealed[1]), place(2, sealed[4]))
    found = checked(database).first_bad
    assert found is not None
    assert (found.position, found.event) == (2, sealed[4])


def test_an_event_that_no_record_can_read_is_named(database: Database, sealed: list[uuid.UUID]) -> None:
    spoil = text("UPDATE events SET at = 'never' WHERE record_id = '3'")
    if database.engine.dialect.name == "postgresql":
        with pytest.raises(DBAPIError):  # it stores no such value, so there is none to be found
            change(database, spoil)
        return
    change(database, spoil)
    found = checked(database).first_bad
    assert found is not None
    assert found.position in (3, 4)
    assert "cannot be read" in found.why


def test_a_log_that_was_cut_short_shows_in_its_head(database: Database, sealed: list[uuid.UUID]) -> None:
    """The one thing that a chain of hashes cannot show by itself: signed documents and readers keep its head."""
    before = checked(database).head
    change(database, delete(EventSeal).where(EventSeal.position == EVENTS), delete(Event).where(Event.id == sealed[-1]))
    after = checked(database)
    assert after.intact
    assert after.head != before
