"""A consistent copy of the database while it is in use, and the way back into an empty one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy import inspect, make_url

from models.session import Database
from models.settings import Settings

SQLITE, POSTGRES = "database.sqlite3", "database.dump"


class CannotCopy(RuntimeError):
    """The database could not be copied or restored; the message says why."""


def name_of_copy(settings: Settings) -> str:
    return SQLITE if settings.database.startswith("sqlite") else POSTGRES


def copy(settings: Settings, folder: Path) -> Path:
    """Copy the database into the folder. Raises CannotCopy."""
    target = folder / name_of_copy(settings)
    if target.name == SQLITE:
        source = sqlite3.connect(f"file:{make_url(settings.database).database}?mode=ro", uri=True, timeout=30)
        made = sqlite3.connect(target)
        try:
            source.backup(made)
        except sqlite3.Error as error:
            raise CannotCopy(f"SQLite could not copy the database: {error}") from error
        finally:
            made.close()
            source.close()
    else:
        _run(settings, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")
    return target


def restore(settings: Settings, copied: Path) -> None:
    """Make the database from its copy, all of it or nothing. Raises CannotCopy where there is one already."""
    if copied.name != name_of_copy(settings):
        raise CannotCopy(f"the backup is of the other kind of database: it holds {copied.name}; set AMUN_DATABASE_URL")
    if copied.name == SQLITE:
        target = Path(str(make_url(settings.database).database))
        if target.exists():
            raise CannotCopy(f"there is a database at {target}: restore into an empty place")
        draft = target.with_name(f".{target.name}.restoring")
        shutil.copyfile(copied, draft)
        draft.rename(target)
        return
    database = Database(settings.database)
    try:
        if inspect(database.engine).get_table_names():
            raise CannotCopy("the database holds tables: restore into an empty one")
    finally:
        database.dispose()
    _run(
        settings, "pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(copied)
    )


def _run(settings: Settings, program: str, *arguments: str) -> None:
    """A client program of PostgreSQL. The password goes by the environment: others see a command's arguments."""
    url = make_url(settings.database)
    given = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
    environment = os.environ | {name: str(value) for name, value in given.items() if value is not None}
    command = [_found(program), *arguments]
    command += [f"--dbname={url.database}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603 - our own command
    if done.returncode:
        raise CannotCopy(f"{program} failed: {done.stderr.strip()[-500:]}")


def _found(program: str) -> str:
    """The newest that is installed: an older one than the server refuses to copy it. Raises CannotCopy."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{program}")
    newest = max(versions, key=lambda path: float(path.parts[-3]), default=None)
    found = str(newest) if newest is not None else shutil.which(program)
    if found is None:
        raise CannotCopy(f"{program} is not installed: install PostgreSQL's client programs (postgresql-client)")
    return found
