"""amun up, migrate, demo, verify: what runs on this machine, without a service to ask"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models import verify as verifier
from service.cli.data import DataDir, console, migrated, settings_of
from service.cli.keys import first_keys


def up(
    data: DataDir = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Run API and worker in one data folder until Ctrl-C. First start prints one key for each role."""
    from service.embedded import DidNotStart, Embedded
    from service.stopping import interruptible, pause

    settings = settings_of(data)
    migrated(settings)
    first_keys(settings)
    try:
        with interruptible(), Embedded(settings, host, port) as embedded:
            console.print(f"serving on {embedded.url} (documentation: {embedded.url}/docs); Ctrl-C stops it")
            console.print(f"data and logs: {settings.data_dir}")
            while True:
                pause(1)
                embedded.watch()
    except KeyboardInterrupt:
        console.print("stopped")
    except DidNotStart as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None


def migrate(data: DataDir = None) -> None:
    """Bring the database to this release's schema; a SQLite file is copied first."""
    migrated(settings_of(data))


def demo(
    data: Annotated[Path, typer.Option("--data", help="Folder for the demo; made anew each time.")] = Path("amun-demo"),
    seed: Annotated[int | None, typer.Option(help="Another seed than the committed one.")] = None,
) -> None:
    """The main job from nothing: register digits, train, forget some of them over HTTP, audit, report."""
    from service.demo import run_demo

    raise typer.Exit(run_demo(console, data.absolute(), seed))


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip.")],
    key: Annotated[list[Path] | None, typer.Option(help="Public keys you trust: JWKS, JWK or PEM.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The model's file, if it is not in the bundle.")] = None,
) -> None:
    """Check evidence offline. Exit status: 0 verified, 1 wrong, 2 unreadable, 3 integrity only (no key was given)."""
    result = verifier.verify(bundle, key or [], checkpoint)
    raise typer.Exit(verifier.tell(result))


LOCAL = (up, migrate, demo, verify)
