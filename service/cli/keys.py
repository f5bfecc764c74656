"""amun keys: API keys and the key that signs evidence, in the data folder of this machine"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.choices import KeyRole
from service.cli.data import DataDir, console, database_of, settings_of

if TYPE_CHECKING:
    from models.settings import Settings

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
    with database_of(settings).write() as session:
        secret = security.create_key(
            session, pepper, Role(role), application=application, label=label, expires_at=expires
        )
    print(secret)


@keys.command("list")
def keys_list(data: DataDir = None) -> None:
    """Ids, roles and dates; secrets are not kept."""
    from sqlalchemy import select

    from models.base import now
    from models.records import ApiKey

    with database_of(settings_of(data)).read() as session:
        for key in session.scalars(select(ApiKey).order_by(ApiKey.created_at)):
            state = "revoked" if key.revoked_at else "expired" if key.expires_at and key.expires_at <= now() else "live"
            owner = key.application.name if key.application else "-"
            print(f"{key.id}  {key.role.value:<11}  {owner:<24}  {state:<8}  {key.created_at:%Y-%m-%d}  {key.label}")


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="As `amun keys list` shows it.")], data: DataDir = None
) -> None:
    """Refuse a key from now on."""
    from models.base import now
    from models.records import ApiKey

    with database_of(settings_of(data)).write() as session:
        key = session.get(ApiKey, key_id)
        if key is None:
            raise typer.BadParameter(f"there is no key {key_id}")
        key.revoked_at = key.revoked_at or now()
    print(f"{key_id} revoked")


@keys.command("rotate-signing")
def keys_rotate_signing(data: DataDir = None) -> None:
    """Retire the key that signs evidence; what it signed stays verifiable."""
    from sqlalchemy import select, update

    from models.base import now
    from models.records import SigningKey

    with database_of(settings_of(data)).write() as session:
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
    with database_of(settings).write() as session:
        if session.scalar(select(ApiKey.id).limit(1)) is not None:
            return
        console.print("first start: these keys are shown once, keep them")
        for role in Role:
            application = "default" if role is Role.APPLICATION else None
            secret = security.create_key(session, pepper, role, application=application, label="first start")
            console.print(f"  {role.value:<11} {secret}", soft_wrap=True)
