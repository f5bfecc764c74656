"""When a deletion request is due, by the regulation that it names."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta


class UnknownRegulation(ValueError):
    """No period is known for this regulation."""


class NoExtension(ValueError):
    """The regulation allows none."""


@dataclass(frozen=True)
class Period:
    """Calendar months, or days, from receipt to the last day on which an answer is in time."""

    source: str
    months: int = 0
    days: int = 0


# GDPR: Article 12(3), counted as Regulation 1182/71 does. CCPA: 11 CCR 7021(b). LGPD: Article 19(II).
PERIODS = {
    "GDPR": Period("Regulation (EU) 2016/679, Article 12(3)", months=1),
    "UK-GDPR": Period("UK GDPR, Article 12(3)", months=1),
    "CCPA": Period("11 CCR 7021(b)", days=45),
    "LGPD": Period("Lei 13.709/2018, Article 19(II)", days=15),
}

# Once, counted from the end of the first period. GDPR: two further months. CCPA: 90 days in all. LGPD knows none.
EXTENSIONS = {
    "GDPR": Period("Regulation (EU) 2016/679, Article 12(3), second sentence", months=2),
    "UK-GDPR": Period("UK GDPR, Article 12(3), second sentence", months=2),
    "CCPA": Period("11 CCR 7021(b), 90 days in all", days=45),
}
DUE_SOON = timedelta(days=7)


def due_at(regulation: str, received: datetime) -> datetime:
    """The last second, in UTC, of the last day of the period. Raises UnknownRegulation."""
    if regulation not in PERIODS:
        raise UnknownRegulation(regulation)
    return _end(PERIODS[regulation], received)


def extended(regulation: str, due: datetime) -> datetime:
    """The last second of the extended period, from the due date of the first. Raises NoExtension."""
    if regulation not in EXTENSIONS:
        raise NoExtension(regulation)
    return _end(EXTENSIONS[regulation], due)


def is_overdue(due: datetime, at: datetime) -> bool:
    return due < at


def is_due_soon(due: datetime, at: datetime) -> bool:
    """Whether it is due within `DUE_SOON`, and not overdue."""
    return at <= due <= at + DUE_SOON


def _end(period: Period, start: datetime) -> datetime:
    last = add_months(start.astimezone(UTC).date(), period.months) + timedelta(days=period.days)
    return datetime.combine(last, time(23, 59, 59), UTC)


def days_left(due: datetime, at: datetime) -> int:
    """Whole calendar days until the last day; 0 on it, negative after it."""
    return (due.astimezone(UTC).date() - at.astimezone(UTC).date()).days


def add_months(day: date, months: int) -> date:
    """The same day of a later month, or that month's last day where it has no such day."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
