"""Requests that come while others are being stored share a transaction, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from models.records import Application
from models.session import Database
from service.errors import Conflict
from service.group_commit import MOST, GroupCommit

Work = Callable[[Session], str]


class Counted:
    """Transactions of a database: how many were committed, and one that is not."""

    def __init__(self, database: Database, fails: int | None = None) -> None:
        self.database, self.begun, self.committed, self.fails = database, 0, 0, fails

    @contextmanager
    def writing(self) -> Iterator[Session]:
        self.begun += 1
        with self.database.write() as session:
            yield session
            if self.begun == self.fails:
                raise OSError("no space left on device")
        self.committed += 1


def inserting(name: str) -> Work:
    def work(session: Session) -> str:
        session.add(Application(name=name))
        session.flush()
        return name

    return work


def slowly(name: str) -> Work:
    def work(session: Session) -> str:
        time.sleep(0.1)
        return inserting(name)(session)

    return work


def refused(_: Session) -> str:
    raise Conflict("not ready")


def all_at_once(transactions: Counted, works: list[Work]) -> list[Any]:
    """What became of each, all of them sent before any is stored."""

    async def send() -> list[Any]:
        together = GroupCommit(transactions.writing)
        return await asyncio.gather(*map(together.stored, works), return_exceptions=True)

    return asyncio.run(send())


def stored(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(session.scalars(select(Application.name)))


@pytest.mark.parametrize(("number", "transactions"), [(1, 1), (MOST, 1), (MOST + 1, 2), (3 * MOST, 3)])
def test_what_waits_together_is_stored_together(database: Database, number: int, transactions: int) -> None:
    names = [f"shop-{place:03d}" for place in range(number)]
    counted = Counted(database)
    assert all_at_once(counted, [inserting(name) for name in names]) == names
    assert counted.committed == transactions
    assert stored(database) == names


def test_what_comes_meanwhile_is_stored_next(database: Database) -> None:
    counted = Counted(database)

    async def send() -> list[str]:
        together = GroupCommit(counted.writing)
        first = asyncio.create_task(together.stored(inserting("a")))
        while not counted.begun:
            await asyncio.sleep(0)
        return [await first, *await asyncio.gather(*(together.stored(inserting(name)) for name in "bcd"))]

    assert asyncio.run(send()) == stored(database) == list("abcd")
    assert counted.committed == 2


def test_a_transaction_that_takes_long_ends_before_the_next_work(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.group_commit.SECONDS", 0.05)
    counted = Counted(database)
    assert all_at_once(counted, [inserting("a"), slowly("slow"), inserting("b"), inserting("c")]) == [
        "a",
        "slow",
        "b",
        "c",
    ]
    assert counted.committed == 2
    assert stored(database) == ["a", "b", "c", "slow"]


def test_who_is_refused_costs_the_others_nothing(database: Database) -> None:
    counted = Counted(database)
    first, problem, last = all_at_once(counted, [inserting("a"), refused, inserting("b")])
    assert (first, last) == ("a", "b")
    assert isinstance(problem, Conflict)
    assert counted.begun == 1
    assert stored(database) == ["a", "b"]


def test_what_fails_fails_alone(database: Database) -> None:
    counted = Counted(database)
    works = [inserting("a"), inserting("twice"), inserting("twice"), inserting("b")]
    first, once, again, last = all_at_once(counted, works)
    assert (first, once, last) == ("a", "twice", "b")
    assert isinstance(again, IntegrityError)
    assert stored(database) == ["a", "b", "twice"]
    assert counted.committed == 3  # each of its own, once the one for all had failed


def test_a_database_that_does_not_answer_is_waited_for_once(database: Database) -> None:
    def unanswered(_: Session) -> str:
        raise OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked"))

    counted = Counted(database)
    told = all_at_once(counted, [unanswered, inserting("a"), unanswered])
    assert [type(each) for each in told] == [OperationalError] * 3
    assert counted.begun == 1


def test_where_the_transaction_fails_all_are_told_and_nothing_is_stored(database: Database) -> None:
    counted = Counted(database, fails=1)
    told = all_at_once(counted, [inserting("a"), refused, inserting("b")])
    assert [type(each) for each in told] == [OSError] * 3
    assert counted.begun == 1
    assert stored(database) == []


def test_who_was_not_begun_when_the_transaction_failed_is_stored_by_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.group_commit.SECONDS", 0)
    failed, *others = all_at_once(Counted(database, fails=1), [inserting(name) for name in "abc"])
    assert isinstance(failed, OSError)
    assert others == stored(database) == ["b", "c"]


def test_one_who_no_longer_waits_keeps_nobody_from_the_answer(database: Database) -> None:
    counted = Counted(database)

    async def send() -> str:
        together = GroupCommit(counted.writing)
        left = asyncio.create_task(together.stored(inserting("left")))
        stays = asyncio.create_task(together.stored(inserting("stays")))
        await asyncio.sleep(0)
        left.cancel()
        return await stays

    assert asyncio.run(send()) == "stays"
    assert stored(database) == ["left", "stays"]
