"""API keys, their roles, and who may call what. Without a declared role a route answers nobody."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.base import now
from models.records import ApiKey, Application, Role
from models.session import Database
from service.errors import Forbidden, Unauthenticated

KEY = re.compile(r"unl_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
ID_BYTES = 6
SECRET_BYTES = 32

_bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", bearerFormat="unl_<id>_<secret>")


@dataclass(frozen=True)
class Principal:
    """Who calls: a key, its role and, for the role application, the one application it belongs to."""

    key_id: str
    role: Role
    application_id: uuid.UUID | None

    @property
    def actor(self) -> str:
        return f"key:{self.key_id}"


def create_key(
    session: Session,
    pepper: bytes,
    role: Role,
    application: str | None = None,
    label: str = "",
    expires_at: datetime | None = None,
) -> str:
    """Store a new key and return it, the only time that it can be read.

    An application that does not exist yet is made. Raises ValueError unless exactly the role application names one.
    """
    if (role is Role.APPLICATION) != (application is not None):
        raise ValueError("a key of role application names its application, a key of any other role names none")
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    session.add(
        ApiKey(
            id=key_id,
            role=role,
            application_id=application_named(session, application).id if application is not None else None,
            secret_hmac=_digest(pepper, secret),
            label=label,
            expires_at=expires_at,
        )
    )
    session.flush()
    return f"unl_{key_id}_{secret}"


def application_named(session: Session, name: str) -> Application:
    """The application of this name, made where there is none."""
    found = session.scalars(select(Application).where(Application.name == name)).one_or_none()
    if found is None:
        found = Application(name=name)
        session.add(found)
        session.flush()
    return found


def authenticate(session: Session, pepper: bytes, token: str) -> Principal:
    """The principal of a live key. Raises Unauthenticated, which does not tell unknown, expired and revoked apart."""
    form = KEY.fullmatch(token)
    if form is None:
        raise Unauthenticated
    key = session.get(ApiKey, form[1])
    right = hmac.compare_digest(_digest(pepper, form[2]), key.secret_hmac if key is not None else bytes(32))
    if key is None or not right or key.revoked_at is not None:
        raise Unauthenticated
    if key.expires_at is not None and key.expires_at <= now():
        raise Unauthenticated
    return Principal(key.id, key.role, key.application_id)


def _digest(pepper: bytes, secret: str) -> bytes:
    return hmac.new(pepper, b"key:" + secret.encode(), hashlib.sha256).digest()


def _principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    if credentials is None:
        raise Unauthenticated
    # A transaction of its own: a wrong key must not queue for the write lock, nor hold a read lock under it.
    database: Database = request.app.state.database
    with database.read() as session:
        return authenticate(session, request.app.state.pepper, credentials.credentials)


Authenticated = Annotated[Principal, Depends(_principal, max_concurrency=4)]


class Requires:
    """A dependency that lets the given roles pass. Every route under /v1 has one."""

    def __init__(self, *roles: Role) -> None:
        self.roles = frozenset(roles)

    def __call__(self, principal: Authenticated) -> Principal:
        if principal.role not in self.roles:
            allowed = " or ".join(sorted(role.value for role in self.roles))
            raise Forbidden(f"This needs a key of role {allowed}; yours has role {principal.role.value}.")
        return principal


AsApplication = Annotated[Principal, Depends(Requires(Role.APPLICATION))]
AsOperator = Annotated[Principal, Depends(Requires(Role.OPERATOR))]
AsCompliance = Annotated[Principal, Depends(Requires(Role.COMPLIANCE, Role.OPERATOR))]
AsApplicationOrCompliance = Annotated[Principal, Depends(Requires(Role.APPLICATION, Role.COMPLIANCE))]
AsReceiver = Annotated[Principal, Depends(Requires(Role.APPLICATION, Role.OPERATOR))]
AsApplicationOrOperator = Annotated[Principal, Depends(Requires(Role.APPLICATION, Role.OPERATOR))]
AsAnyone = Annotated[Principal, Depends(Requires(*Role))]
