"""Requests that come while others are being stored share a transaction, and nothing else."""

from __future__ import annotations

import asyncio
import threading
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


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.group_commit.SECONDS", 60)


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
        time.sleep(0.6)
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
    counted, begun, go_on = Counted(database), threading.Event(), threading.Event()

    def first(session: Session) -> str:
        begun.set()
        assert go_on.wait(30)
        return inserting("a")(session)

    async def send() -> list[str]:
        together = GroupCommit(counted.writing)
        sent = [asyncio.create_task(together.stored(first))]
        await asyncio.to_thread(begun.wait, 30)
        sent += [asyncio.create_task(together.stored(inserting(name))) for name in "bcd"]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*sent)

    assert asyncio.run(send()) == stored(database) == list("abcd")
    assert counted.committed == 2


def test_a_transaction_that_takes_long_ends_before_the_next_work(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.group_commit.SECONDS", 0.5)
    counted = Counted(database)
    works = [inserting("a"), slowly("slow"), inserting("b"), inserting("c")]
    assert all_at_once(counted, works) == ["a", "slow", "b", "c"]
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


class Answered(Exception):
    """As psycopg has it."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def failing(sqlstate: str | None) -> Work:
    def work(_: Session) -> str:
        raise OperationalError("SELECT 1", None, Answered(sqlstate))

    return work


def test_a_database_that_does_not_answer_is_waited_for_once(database: Database) -> None:
    counted = Counted(database)
    told = all_at_once(counted, [failing(None), inserting("a"), failing(None)])
    assert [type(each) for each in told] == [OperationalError] * 3
    assert counted.begun == 1


def test_a_database_that_stops_answering_is_waited_for_once_more(database: Database) -> None:
    counted = Counted(database)
    works = [inserting("a"), inserting("twice"), inserting("twice"), failing(None), inserting("b")]
    first, once, again, *others = all_at_once(counted, works)
    assert (first, once) == ("a", "twice")
    assert isinstance(again, IntegrityError)
    assert [type(each) for each in others] == [OperationalError] * 2
    assert counted.begun == 5  # together, and each alone up to the one that was not answered


@pytest.mark.parametrize("sqlstate", ["40P01", "40001", "57014"])
def test_a_deadlock_or_a_time_limit_is_one_request_s_alone(database: Database, sqlstate: str) -> None:
    first, failed, last = all_at_once(Counted(database), [inserting("a"), failing(sqlstate), inserting("b")])
    assert (first, last) == ("a", "b")
    assert isinstance(failed, OperationalError)
    assert stored(database) == ["a", "b"]


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


class Panic(BaseException):
    """As a library in Rust raises where it finds itself broken."""


def test_whoever_waits_hears_of_a_thread_that_was_ended_and_the_next_is_stored(database: Database) -> None:
    def panicking(_: Session) -> str:
        raise Panic

    async def send() -> list[Any]:
        together = GroupCommit(Counted(database).writing)
        told = await asyncio.gather(*map(together.stored, [panicking, inserting("a")]), return_exceptions=True)
        return [*told, await together.stored(inserting("next"))]

    *ended, stored_next = asyncio.run(send())
    assert [type(each) for each in ended] == [RuntimeError] * 2
    assert stored(database) == [stored_next] == ["next"]


def test_one_who_gave_up_before_it_was_begun_is_not_stored(database: Database) -> None:
    async def send() -> str:
        together = GroupCommit(Counted(database).writing)
        left = asyncio.create_task(together.stored(inserting("left")))
        stays = asyncio.create_task(together.stored(inserting("stays")))
        await asyncio.sleep(0)
        left.cancel()
        return await stays

    assert asyncio.run(send()) == "stays"
    assert stored(database) == ["stays"]
