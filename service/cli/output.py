"""What people see. Results go to standard output, everything else to standard error.

Texts come from callers of the service, and are shown on other people's terminals: nothing in them is markup or a control
sequence here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

DUE_SOON_DAYS = 7
WIDE = 10_000  # columns of a pipe: lines are cut nowhere
COLOURS = {
    "done": "green",
    "ready": "green",
    "released": "green",
    "completed": "green",
    "succeeded": "green",
    "delivered": "green",
    "pass": "green",
    "exact": "green",
    "failed": "red",
    "rejected": "red",
    "under_unlearned": "red",
    "over_unlearned": "red",
    "partially_completed": "red",
    "withdrawn": "red",
    "quarantined": "yellow",
    "inconclusive": "yellow",
    "awaiting_approval": "yellow",
    "awaiting_release": "yellow",
    "on_hold": "yellow",
    "running": "cyan",
    "training": "cyan",
    "registering": "cyan",
}

Row = Mapping[str, Any]
Columns = Mapping[str, str | Callable[[Row], Any]]  # title: a field's name, or what the cell shows


def plain(text: object) -> str:
    """On one line of a terminal: line ends are blanks, other control characters are shown as �."""
    spaced = str(text).replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return "".join(each if each.isprintable() else "�" for each in spaced)


def note(text: str) -> None:
    """A message for whoever runs the command, which may have several lines."""
    for line in text.splitlines():
        print(plain(line), file=sys.stderr)


def print_json(value: Any) -> None:
    print_bytes(json.dumps(value, ensure_ascii=False, indent=2).encode())


def print_bytes(content: bytes) -> None:
    """Standard output, byte for byte, whatever encoding the terminal has."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content if content.endswith(b"\n") else content + b"\n")
    sys.stdout.buffer.flush()


def console(*, stderr: bool = False, markup: bool = False) -> Console:
    """``markup`` for our own texts alone."""
    made = Console(stderr=stderr, highlight=False, markup=markup, emoji=False)
    if not made.is_terminal:
        made.width = WIDE
    return made


def table(rows: Sequence[Row], columns: Columns) -> None:
    """One line a row."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        drawn.add_column(title, no_wrap=title == "id")
    for row in rows:
        drawn.add_row(*(cell(row.get(what) if isinstance(what, str) else what(row)) for what in columns.values()))
    console().print(drawn)


def details(row: Row, columns: Columns) -> None:
    """One line a field; those that say nothing are left out."""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column()
    for title, what in columns.items():
        value = row.get(what) if isinstance(what, str) else what(row)
        if value not in (None, [], {}):
            drawn.add_row(title, cell(value))
    console().print(drawn)


def cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, dict):
        return Text(", ".join(f"{plain(name)}: {cell(part)}" for name, part in value.items()) or "-")
    if isinstance(value, list):
        return Text(", ".join(str(cell(part)) for part in value) or "-")
    text = "-" if value is None or value == "" else plain(value)
    return Text(text, style=COLOURS.get(text, ""))


def moment(said: str | None) -> str | None:
    """A time of an answer, in UTC, to the minute."""
    return f"{datetime.fromisoformat(said).astimezone(UTC):%Y-%m-%d %H:%M}" if said is not None else None


def at(field: str) -> Callable[[Row], str | None]:
    return lambda row: moment(row.get(field))


def due(row: Row) -> Text:
    """The last day and how far it is: red once it has passed, yellow in its last week."""
    day = datetime.fromisoformat(row["due_at"]).astimezone(UTC).date()
    last = f"{day:%Y-%m-%d}"
    days = row.get("days_left", (day - datetime.now(UTC).date()).days)  # a receipt stays as it was: it counts none
    if days is None:
        return Text(last)
    if days < 0:
        return Text(f"{last} ({_days(-days)} overdue)", style="red")
    return Text(f"{last} ({_days(days)} left)", style="yellow" if row.get("due_soon", days <= DUE_SOON_DAYS) else "")


def anything(value: Any, title: str = "") -> None:
    """An answer of whatever form: lists of records as tables, the rest by name."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        _records(value, title)
        return
    if not isinstance(value, dict):
        _heading(title)
        console().print(cell(value))
        return
    nested = {name: part for name, part in value.items() if _is_nested(part)}
    flat = {name: part for name, part in value.items() if name not in nested}
    if flat:
        _heading(title)
        details(flat, {name.replace("_", " "): name for name in flat})
    for name, part in nested.items():
        anything(part, f"{title}{': ' if title else ''}{name.replace('_', ' ')}")


def _records(rows: Sequence[Row], title: str) -> None:
    if any(isinstance(part, dict) and len(part) > 1 for row in rows for part in row.values()):  # too wide for a line
        for number, row in enumerate(rows, start=1):
            anything(row, f"{title} {number}")
        return
    names = dict.fromkeys(name for row in rows for name in row)
    _heading(title)
    table(rows, {name.replace("_", " "): name for name in names})


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) > 1 and any(isinstance(part, dict | list) for part in value.values())
    return isinstance(value, list) and any(isinstance(part, dict) for part in value)


def _heading(title: str) -> None:
    if title:
        console().print(Text(f"\n{plain(title)}", style="bold"))


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count} days"
