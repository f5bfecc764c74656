"""The data folder of this machine, for commands that work on it rather than over HTTP.

SQLAlchemy and what rests on it are imported where they are used: `amun --help` and the commands over HTTP need none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from models.session import Database
    from models.settings import Settings

DataDir = Annotated[Path | None, typer.Option("--data", help="Data folder (AMUN_DATA_DIR).")]
console = Console(highlight=False)


def settings_of(data: Path | None) -> Settings:
    from models.settings import Settings, get_settings

    return Settings(data_dir=data) if data is not None else get_settings()


@contextmanager
def database_of(settings: Settings) -> Iterator[Database]:
    """Its connections are closed at the end. Raises schema.WrongSchema where it is not at this release's schema."""
    from models.session import Database
    from service import schema

    database = Database(settings.database)
    try:
        schema.check(database)
        yield database
    finally:
        database.dispose()


def migrated(settings: Settings) -> None:
    from service import schema

    copy = schema.upgrade(settings)
    if copy is not None:
        console.print(f"the database was copied to {copy.name} before its schema was changed")
