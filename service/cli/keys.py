"""amun keys: API keys and the key that signs evidence, in the data folder of this machine"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.choices import KeyRole
from service.cli.data import DataDir, console, database_of, settings_of

if TYPE_CHECKING:
    from models.settings import Settings

ACTOR = "cli"

keys = typer.Typer(no_args_is_help=True, help="API keys, shown once when made, and the key that signs evidence.")


@keys.command("create")
def keys_create(
    role: Annotated[KeyRole, typer.Option(help="What the key may do.")],
    application: Annotated[str | None, typer.Option(help="Name of the application, for role application.")] = None,
    label: Annotated[str, typer.Option(help="For whom, in lists.")] = "",
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    data: DataDir = None,
) -> None:
    """Make a key and print it, once."""
    from models.base import now
    from models.records import Role
    from models.secrets import API_KEY_PEPPER, load_or_create
    from service import security

    if (role == "application") != (application is not None):
        raise typer.BadParameter("--application NAME goes with --role application, and only with it")
    settings = settings_of(data)
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    expires = now() + timedelta(days=days) if days is not None else None
    with database_of(settings) as database, database.write() as session:
        secret = security.create_key(
            session, pepper, Role(role), application=application, label=label, expires_at=expires, actor=ACTOR
        )
    print(secret)


@keys.command("list")
def keys_list(data: DataDir = None) -> None:
    """Ids, roles and dates; secrets are not kept."""
    from sqlalchemy import select

    from models.base import now
    from models.records import ApiKey

    with database_of(settings_of(data)) as database, database.read() as session:
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
    from models.secrets import API_KEY_PEPPER, load_or_create
    from service import security

    settings = settings_of(data)
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    with database_of(settings) as database, database.write() as session:
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
    from service import security

    with database_of(settings_of(data)) as database, database.write() as session:
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
    from sqlalchemy import select, update

    from models.base import now
    from models.records import SigningKey

    with database_of(settings_of(data)) as database, database.write() as session:
        live = SigningKey.retired_at.is_(None)
        retired = list(session.scalars(select(SigningKey.key_id).where(live).order_by(SigningKey.created_at)))
        session.execute(update(SigningKey).where(live).values(retired_at=now()))
    for key_id in retired:
        print(f"{key_id} retired: it signs no more, and stays in /.well-known/jwks.json")
    if not retired:
        print("there is no signing key to retire")
    print("the worker makes the next key at its next signature")


def first_keys(settings: Settings) -> None:
    """One key for each role, printed, where there is no key yet."""
    from sqlalchemy import select

    from models.records import ApiKey, Role
    from models.secrets import API_KEY_PEPPER, load_or_create
    from service import security

    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    with database_of(settings) as database, database.write() as session:
        if session.scalar(select(ApiKey.id).limit(1)) is not None:
            return
        console.print("first start: these keys are shown once, keep them")
        for role in Role:
            application = "default" if role is Role.APPLICATION else None
            secret = security.create_key(
                session, pepper, role, application=application, label="first start", actor=ACTOR
            )
            console.print(f"  {role.value:<11} {secret}", soft_wrap=True)
