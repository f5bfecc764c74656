"""amun backup, restore, ledger: copies of everything, on this machine"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.data import DataDir, console, database_of, settings_of

if TYPE_CHECKING:
    from service.backups.ledger import Applied


def backup(
    folder: Annotated[Path, typer.Argument(help="New folder for it: mode 0700, for it holds images and keys.")],
    data: DataDir = None,
    without_secrets: Annotated[bool, typer.Option("--without-secrets", help="You keep the secrets elsewhere.")] = False,
) -> None:
    """Copy database, files and secrets while the service runs. Nothing is destroyed meanwhile, so erasures wait for it."""
    from service.backups import databases, keeping, making

    settings = settings_of(data)
    with database_of(settings):
        pass
    try:
        made = making.make(settings, folder.absolute(), with_secrets=not without_secrets)
    except FileExistsError:
        raise typer.BadParameter(f"{folder} exists: name a new folder") from None
    except (databases.CannotCopy, keeping.Busy) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None
    print(f"{made.folder}: {made.files} files, {made.size} bytes")


def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.")],
    data: DataDir = None,
    ledger: Annotated[
        Path | None, typer.Option(help="A newer ledger: what was asked for and revoked since is in force again.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look whether the backup is whole.")] = False,
) -> None:
    """Restore a backup into an empty place and look that it is whole. Exit status 1: it is not, or was not restored."""
    from models.revisions import WrongSchema
    from service.backups import databases, making, restoring

    settings = settings_of(data)
    try:
        if check:
            manifest = making.check(folder)
            print(f"{folder}: whole, made at {manifest['made_at']} of {len(manifest['files'])} files")
            return
        done = restoring.restore(settings, folder.absolute(), ledger)
    except (making.NotABackup, restoring.NotEmpty, databases.CannotCopy, WrongSchema) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None
    bad = done.chain.first_bad
    print(f"restored the backup of {done.manifest['made_at']}")
    print(f"log: {done.chain.sealed} sealed, " + ("intact" if bad is None else f"WRONG at {bad.position}: {bad.why}"))
    print(f"files: {'as the rows say' if not done.wrong else 'WRONG: ' + ', '.join(done.wrong)}")
    if ledger is None:
        print("WITHOUT A NEWER LEDGER: what was erased, asked for or revoked since then is not. Restore with --ledger.")
    else:
        _told(done.applied)
    raise typer.Exit(0 if done.whole else 1)


def write_ledger(
    file: Annotated[Path, typer.Argument(help="Replaced durably, mode 0600.")], data: DataDir = None
) -> None:
    """Write what every restored backup needs to know: requests that were accepted, keys that were revoked."""
    from service.backups import making

    with database_of(settings_of(data)) as database, database.read() as session:
        print(f"{file}: {making.write_ledger(session, file.absolute())} entries")


def _told(applied: Applied) -> None:
    print(f"ledger: {len(applied.requests)} requests are asked for again, {len(applied.keys)} keys are revoked again")
    for request in applied.without_set:
        print(f"  {request}: its training set is not in the backup. Register the set without its samples.")
    for request in applied.called_off:
        print(f"  {request}: was cancelled or rejected since. Do so again before the service starts its job.")


BACKUPS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("backup", backup),
    ("restore", restore),
    ("ledger", write_ledger),
)
