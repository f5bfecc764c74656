"""Progress on standard error: bars on a terminal, a line a change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from service.cli.output import console, note, plain


class Bars:
    """One line for each name, added when it is first shown."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, tuple[int, str]] = {}

    def show(self, name: str, share: float, doing: str, left: float | None = None) -> None:
        """``share`` is 0..1, ``left`` the seconds to go where they were estimated and some are left."""
        doing = plain(doing)
        if name not in self._tasks:
            self._tasks[name] = (self._progress.add_task(plain(name), total=1.0, doing=""), "")
        task, before = self._tasks[name]
        self._tasks[name] = (task, doing)
        shown = doing if not left else f"{doing}, {left:.0f} s left"
        self._progress.update(task, completed=share, doing=shown)  # type: ignore[arg-type]
        if doing != before and not self._progress.console.is_terminal:
            note(f"{name}: {doing} ({100 * share:.0f} %)")

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(Text(plain(text)))


@contextmanager
def bars() -> Iterator[Bars]:
    columns = (_text("description"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), _text("fields[doing]"))
    terminal = console(stderr=True)
    with Progress(*columns, console=terminal, disable=not terminal.is_terminal) as progress:
        yield Bars(progress)


@contextmanager
def counted(title: str, size: int | None) -> Iterator[_Counter]:
    """Bytes that were moved, out of ``size``."""
    terminal = console(stderr=True)
    columns = (_text("description"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal, disable=not terminal.is_terminal) as progress:
        yield _Counter(progress, progress.add_task(plain(title), total=size))


class _Counter:
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress = progress
        self._task = task

    def restart(self) -> None:
        self._progress.reset(self._task)  # type: ignore[arg-type]

    def add(self, count: int) -> None:
        self._progress.advance(self._task, count)  # type: ignore[arg-type]


def _text(what: str) -> TextColumn:
    return TextColumn(f"{{task.{what}}}", markup=False)
