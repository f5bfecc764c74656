"""The console script `amun`: run the service, look after its keys, show the main job."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import select, update

from models import verify as verifier
from models.base import now
from models.records import ApiKey, Role, SigningKey
from models.secrets import API_KEY_PEPPER, load_or_create
from models.session import Database
from models.settings import Settings, get_settings
from service import schema, security
from service.demo import run_demo
from service.embedded import DidNotStart, Embedded

app = typer.Typer(
    no_args_is_help=True, help="Machine unlearning with a measured audit.", pretty_exceptions_enable=False
)
keys = typer.Typer(no_args_is_help=True, help="API keys, shown once when made, and the key that signs evidence.")
app.add_typer(keys, name="keys")
console = Console(highlight=False)
ACTOR = "cli"

DataDir = Annotated[Path | None, typer.Option("--data", help="Data folder (AMUN_DATA_DIR).")]


def _settings(data: Path | None) -> Settings:
    return Settings(data_dir=data) if data is not None else get_settings()


@app.command()
def up(
    data: DataDir = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Run API and worker in one data folder until Ctrl-C. First start prints one key for each role."""
    settings = _settings(data)
    _migrate(settings)
    _first_keys(settings)
    try:
        with Embedded(settings, host, port) as embedded:
            console.print(f"serving on {embedded.url} (documentation: {embedded.url}/docs); Ctrl-C stops it")
            console.print(f"data and logs: {settings.data_dir}")
            while True:
                time.sleep(1)
                embedded.watch()
    except KeyboardInterrupt:
        console.print("stopped")
    except DidNotStart as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from None


@app.command()
def migrate(data: DataDir = None) -> None:
    """Bring the database to this release's schema; a SQLite file is copied first."""
    _migrate(_settings(data))


@app.command()
def demo(
    data: Annotated[Path, typer.Option("--data", help="Folder for the demo; made anew each time.")] = Path("amun-demo"),
    seed: Annotated[int | None, typer.Option(help="Another seed than the committed one.")] = None,
) -> None:
    """The main job from nothing: register digits, train, forget some of them over HTTP, audit, report."""
    raise typer.Exit(run_demo(console, data.absolute(), seed))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder or zip.")],
    key: Annotated[list[Path] | None, typer.Option(help="Public keys you trust: JWKS, JWK or PEM.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The model's file, if it is not in the bundle.")] = None,
) -> None:
    """Check evidence offline. Exit status: 0 verified, 1 wrong, 2 unreadable, 3 integrity only (no key was given)."""
    result = verifier.verify(bundle, key or [], checkpoint)
    print("\n".join(result.lines))
    raise typer.Exit(result.status)


@keys.command("create")
def keys_create(
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    application: Annotated[str | None, typer.Option(help="Name of the application, for role application.")] = None,
    label: Annotated[str, typer.Option(help="For whom, in lists.")] = "",
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    data: DataDir = None,
) -> None:
    """Make a key and print it, once."""
    if (role is Role.APPLICATION) != (application is not None):
        raise typer.BadParameter("--application NAME goes with --role application, and only with it")
    settings = _settings(data)
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    expires = now() + timedelta(days=days) if days is not None else None
    with _database(settings).write() as session:
        secret = security.create_key(
            session, pepper, role, application=application, label=label, expires_at=expires, actor=ACTOR
        )
    print(secret)


@keys.command("list")
def keys_list(data: DataDir = None) -> None:
    """Ids, roles and dates; secrets are not kept."""
    with _database(_settings(data)).read() as session:
        for key in session.scalars(select(ApiKey).order_by(ApiKey.created_at)):
            state = "revoked" if key.revoked_at else "expired" if key.expires_at and key.expires_at <= now() else "live"
            owner = key.application.name if key.application else "-"
            expires = f"{key.expires_at:%Y-%m-%dT%H:%MZ}" if key.expires_at else "never"
            print(
                f"{key.id}  {key.role.value:<11}  {owner:<24}  {state:<8}  {key.created_at:%Y-%m-%d}  "
                f"expires {expires:<17}  {key.label}"
            )


@keys.command("rotate")
def keys_rotate(
    key_id: Annotated[str, typer.Argument(help="As `amun keys list` shows it.")],
    overlap_hours: Annotated[float, typer.Option(min=0, max=24 * 365, help="The old key lives on for so long.")] = 24,
    data: DataDir = None,
) -> None:
    """Make a key that takes the place of another, and print it, once."""
    settings = _settings(data)
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    with _database(settings).write() as session:
        try:
            secret, old = security.rotate_key(session, pepper, key_id, timedelta(hours=overlap_hours), actor=ACTOR)
        except (security.NoSuchKey, security.KeyEnded) as error:
            raise typer.BadParameter(str(error)) from None
    print(secret)
    print(f"{old.id} expires {old.expires_at:%Y-%m-%dT%H:%M:%SZ}: give the new key out before", file=sys.stderr)


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="As `amun keys list` shows it.")], data: DataDir = None
) -> None:
    """Refuse a key from now on."""
    with _database(_settings(data)).write() as session:
        try:
            key, new = security.revoke_key(session, key_id, actor=ACTOR)
        except security.NoSuchKey as error:
            raise typer.BadParameter(str(error)) from None
    said = (
        "revoked: it is refused from now on" if new else f"was revoked on {key.revoked_at:%Y-%m-%dT%H:%M:%SZ} already"
    )
    print(f"{key.id} ({key.role.value}{f', {key.label}' if key.label else ''}) {said}")


@keys.command("rotate-signing")
def keys_rotate_signing(data: DataDir = None) -> None:
    """Retire the key that signs evidence; what it signed stays verifiable."""
    with _database(_settings(data)).write() as session:
        live = SigningKey.retired_at.is_(None)
        retired = list(session.scalars(select(SigningKey.key_id).where(live).order_by(SigningKey.created_at)))
        session.execute(update(SigningKey).where(live).values(retired_at=now()))
    for key_id in retired:
        print(f"{key_id} retired: it signs no more, and stays in /.well-known/jwks.json")
    if not retired:
        print("there is no signing key to retire")
    print("the worker makes the next key at its next signature")


def _migrate(settings: Settings) -> None:
    copy = schema.upgrade(settings)
    if copy is not None:
        console.print(f"the database was copied to {copy.name} before its schema was changed")


def _database(settings: Settings) -> Database:
    database = Database(settings.database)
    schema.check(database)
    return database


def _first_keys(settings: Settings) -> None:
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    with _database(settings).write() as session:
        if session.scalar(select(ApiKey.id).limit(1)) is not None:
            return
        console.print("first start: these keys are shown once, keep them")
        for role in Role:
            application = "default" if role is Role.APPLICATION else None
            secret = security.create_key(
                session, pepper, role, application=application, label="first start", actor=ACTOR
            )
            console.print(f"  {role.value:<11} {secret}", soft_wrap=True)


if __name__ == "__main__":
    app()
