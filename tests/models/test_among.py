"""Thousands of values as one parameter, on both databases."""

from __future__ import annotations

import uuid

from sqlalchemy import select

from models.among import among, among_given, each_given
from models.records import Application
from models.session import Database

MANY = 70_000  # more than either database takes as parameters of their own


def applications(database: Database, *names: str) -> list[uuid.UUID]:
    made = [Application(name=name) for name in names]
    with database.write() as session:
        session.add_all(made)
    return [application.id for application in made]


def test_ids_texts_and_numbers_are_found_whatever_their_number(database: Database) -> None:
    ids = applications(database, "a'0", "a'1", "a'2")
    with database.read() as session:
        others = [uuid.UUID(int=number) for number in range(MANY)]
        by_id = select(Application.id).where(among(Application.id, [*others, *ids[:2]])).order_by(Application.id)
        assert session.scalars(by_id).all() == ids[:2]
        by_name = select(Application.id).where(among(Application.name, ["a'1", 'b"', "\\"]))
        assert session.scalars(by_name).all() == [ids[1]]
        neither = select(Application.id).where(~among(Application.id, ids[1:]))
        assert session.scalars(neither).all() == [ids[0]]
        assert session.scalars(select(Application.id).where(among(Application.id, []))).all() == []


def test_a_statement_that_was_built_once_takes_other_values_each_time(database: Database) -> None:
    ids = applications(database, "0", "1", "2")
    named = select(Application.name).where(among_given(Application.id, "ids")).order_by(Application.name)
    with database.look() as connection:
        for wanted in ([ids[2]], ids[:2], []):
            found = connection.execute(named, {"ids": wanted}).scalars().all()
            assert found == [str(ids.index(each)) for each in wanted]


def test_given_values_are_rows(database: Database) -> None:
    names, ids = each_given(Application.name, "values"), each_given(Application.id, "values")
    known = uuid.uuid4()
    with database.look() as connection:
        texts = connection.scalars(select(names.c.value), {"values": ["2 of \"3'", "\\"]}).all()
        made = connection.scalars(select(ids.c.value), {"values": [known]}).all()
        none = connection.scalars(select(ids.c.value), {"values": []}).all()
    assert (texts, made, none) == (["2 of \"3'", "\\"], [known], [])
