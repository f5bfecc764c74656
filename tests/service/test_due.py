"""Periods of regulations, on dates worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from service.due import (
    EXTENSIONS,
    PERIODS,
    NoExtension,
    UnknownRegulation,
    days_left,
    due_at,
    extended,
    is_due_soon,
    is_overdue,
)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("regulation", "received", "last_day"),
    [
        ("GDPR", "2026-11-23T10:00:00", "2026-12-23"),
        ("GDPR", "2026-01-30T10:00:00", "2026-02-28"),
        ("GDPR", "2028-01-31T10:00:00", "2028-02-29"),
        ("GDPR", "2026-12-31T23:59:59", "2027-01-31"),
        ("GDPR", "2026-02-28T00:00:00", "2026-03-28"),
        ("UK-GDPR", "2026-05-31T10:00:00", "2026-06-30"),
        ("CCPA", "2026-01-01T10:00:00", "2026-02-15"),
        ("LGPD", "2026-02-20T10:00:00", "2026-03-07"),
    ],
)
def test_a_request_is_due_at_the_end_of_the_last_day(regulation: str, received: str, last_day: str) -> None:
    assert due_at(regulation, _at(received)) == _at(f"{last_day}T23:59:59")


def test_the_day_of_receipt_is_counted_in_utc() -> None:
    evening_in_new_york = datetime(2026, 1, 30, 22, 0, tzinfo=timezone(timedelta(hours=-5)))
    assert due_at("GDPR", evening_in_new_york) == _at("2026-02-28T23:59:59")
    assert due_at("CCPA", evening_in_new_york) == _at("2026-03-17T23:59:59")


def test_an_unknown_regulation_is_refused() -> None:
    with pytest.raises(UnknownRegulation):
        due_at("HIPAA", _at("2026-01-01T00:00:00"))


@pytest.mark.parametrize(
    ("at", "expected"),
    [("2026-12-01T00:00:00", 22), ("2026-12-23T23:00:00", 0), ("2026-12-24T00:00:00", -1)],
)
def test_days_left_count_calendar_days(at: str, expected: int) -> None:
    assert days_left(_at("2026-12-23T23:59:59"), _at(at)) == expected


@pytest.mark.parametrize(
    ("regulation", "received", "first", "second"),
    [
        ("GDPR", "2026-11-23T10:00:00", "2026-12-23", "2027-02-23"),
        ("GDPR", "2026-11-30T10:00:00", "2026-12-30", "2027-02-28"),
        ("GDPR", "2026-01-30T10:00:00", "2026-02-28", "2026-04-28"),
        ("UK-GDPR", "2026-05-31T10:00:00", "2026-06-30", "2026-08-30"),
        ("CCPA", "2026-01-01T10:00:00", "2026-02-15", "2026-04-01"),  # 90 days after 1 January
    ],
)
def test_an_extension_is_counted_from_the_first_due_date(
    regulation: str, received: str, first: str, second: str
) -> None:
    due = due_at(regulation, _at(received))
    assert due == _at(f"{first}T23:59:59")
    assert extended(regulation, due) == _at(f"{second}T23:59:59")


def test_where_there_is_no_extension_none_is_given() -> None:
    assert set(PERIODS) - set(EXTENSIONS) == {"LGPD"}
    with pytest.raises(NoExtension):
        extended("LGPD", _at("2026-03-07T23:59:59"))


@pytest.mark.parametrize(
    ("at", "soon", "late"),
    [
        ("2026-12-16T23:59:58", False, False),
        ("2026-12-16T23:59:59", True, False),
        ("2026-12-23T23:59:59", True, False),
        ("2026-12-24T00:00:00", False, True),
    ],
)
def test_a_request_is_due_soon_for_seven_days_and_then_overdue(at: str, soon: bool, late: bool) -> None:
    due = _at("2026-12-23T23:59:59")
    assert (is_due_soon(due, _at(at)), is_overdue(due, _at(at))) == (soon, late)
