"""API keys, their roles, and who may call what. Without a declared role a route answers nobody."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.base import now
from models.records import ApiKey, Application, Role, record_event
from models.session import Database
from service.errors import Forbidden, Problem, Unauthenticated
from service.limiting import RateLimits
from service.query import refuse_unknown_parameters
from service.together import Ended, Together

KEY = re.compile(r"unl_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
ID_BYTES = 6
SECRET_BYTES = 32
LOOK_UPS = 16  # of keys at a time

# Built once, as in service.claims.
_KEY = select(ApiKey.role, ApiKey.application_id, ApiKey.secret_hmac, ApiKey.revoked_at, ApiKey.expires_at).where(
    ApiKey.id == bindparam("key")
)

_bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", bearerFormat="unl_<id>_<secret>")


class NoSuchKey(LookupError):
    """No key has this id."""


class KeyEnded(ValueError):
    """The key is revoked or expired."""


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
    actor: str | None = None,
) -> str:
    """Store a new key and return it, the only time that it can be read. With an ``actor`` the log tells of it.

    An application that does not exist yet is made. Raises ValueError unless exactly the role application names one.
    """
    if (role is Role.APPLICATION) != (application is not None):
        raise ValueError("a key of role application names its application, a key of any other role names none")
    owner = application_named(session, application).id if application is not None else None
    key, secret = _insert(session, pepper, role, owner, label, expires_at)
    if actor is not None:
        _record(session, "key.created", key, actor)
    return secret


def rotate_key(session: Session, pepper: bytes, key_id: str, overlap: timedelta, *, actor: str) -> tuple[str, ApiKey]:
    """A new key of the same role, application and label, and the old one's row, which expires after ``overlap``.

    A key that was made to expire is followed by one that lives as long. Raises NoSuchKey, and KeyEnded for one that is
    revoked or expired: nobody can be using it, so nothing is to be handed over.
    """
    old = _locked(session, key_id)
    at = now()
    if not _live(old.revoked_at, old.expires_at, at):
        raise KeyEnded(f"key {key_id} is revoked or expired: create a new one instead")
    expires_at = at + (old.expires_at - old.created_at) if old.expires_at is not None else None
    new, secret = _insert(session, pepper, old.role, old.application_id, old.label, expires_at)
    old.expires_at = min(at + overlap, old.expires_at or at + overlap)
    _record(session, "key.rotated", old, actor, successor=new.id)
    _record(session, "key.created", new, actor, predecessor=old.id)
    return secret, old


def revoke_key(session: Session, key_id: str, *, actor: str) -> tuple[ApiKey, bool]:
    """Refuse a key from the commit on: its row, and whether that is new. Raises NoSuchKey.

    The row is read for every request after it has come, and every second for every live stream: nothing caches it.
    """
    key = _locked(session, key_id)
    if key.revoked_at is not None:
        return key, False
    key.revoked_at = now()
    _record(session, "key.revoked", key, actor)
    return key, True


def _insert(
    session: Session, pepper: bytes, role: Role, owner: uuid.UUID | None, label: str, expires_at: datetime | None
) -> tuple[ApiKey, str]:
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        id=key_id,
        role=role,
        application_id=owner,
        secret_hmac=_digest(pepper, secret),
        label=label,
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, f"unl_{key_id}_{secret}"


def _locked(session: Session, key_id: str) -> ApiKey:
    key = session.scalars(select(ApiKey).where(ApiKey.id == key_id).with_for_update(of=ApiKey)).one_or_none()
    if key is None:
        raise NoSuchKey(f"there is no key {key_id}: `amun keys list` shows them")
    return key


def _record(session: Session, name: str, key: ApiKey, actor: str, **more: str) -> None:
    application = session.get(Application, key.application_id) if key.application_id is not None else None
    record_event(
        session,
        name,
        "api_key",
        key.id,
        actor,
        role=key.role.value,
        application=application.name if application is not None else None,
        expires_at=key.expires_at.isoformat() if key.expires_at is not None else None,
        **more,
    )


def application_named(session: Session, name: str) -> Application:
    """The application of this name, made where there is none."""
    found = session.scalars(select(Application).where(Application.name == name)).one_or_none()
    if found is None:
        found = Application(name=name)
        session.add(found)
        session.flush()
    return found


def authenticate(connection: Connection, pepper: bytes, token: str) -> Principal:
    """The principal of a live key. Raises Unauthenticated, which does not tell unknown, expired and revoked apart."""
    form = KEY.fullmatch(token)
    if form is None:
        raise Unauthenticated
    key = connection.execute(_KEY, {"key": form[1]}).one_or_none()
    right = hmac.compare_digest(_digest(pepper, form[2]), key.secret_hmac if key is not None else bytes(32))
    if key is None or not right or not _live(key.revoked_at, key.expires_at, now()):
        raise Unauthenticated
    return Principal(form[1], key.role, key.application_id)


def still_live(session: Session, principal: Principal) -> bool:
    """Whether the key of an answer that is still being sent would be let in now."""
    key = session.get(ApiKey, principal.key_id)
    return key is not None and _live(key.revoked_at, key.expires_at, now())


def _live(revoked_at: datetime | None, expires_at: datetime | None, at: datetime) -> bool:
    return revoked_at is None and (expires_at is None or expires_at > at)


def _digest(pepper: bytes, secret: str) -> bytes:
    return hmac.new(pepper, b"key:" + secret.encode(), hashlib.sha256).digest()


class KeyFirstMiddleware:
    """Reads nothing of a body under /v1 that comes without a live key.

    FastAPI reads and parses a body before it asks for any dependency, and a key is one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        request = Request(scope)

        async def after_the_key() -> Message:
            await _principal(request, await _bearer(request))
            return await receive()

        await self.app(scope, after_the_key, send)


class LookUps:
    """The keys of requests, looked up a few at a time, each after its request has come."""

    def __init__(self, database: Database, pepper: bytes, limits: RateLimits) -> None:
        self._database, self._pepper, self._limits = database, pepper, limits
        self._together: Together[tuple[str, str | None], Principal] = Together(self._look, LOOK_UPS)

    async def principal(self, token: str, host: str | None) -> Principal:
        """Whose key it is, which a client at ``host`` shows. Raises Unauthenticated or TooManyRequests."""
        return await self._together.done((token, host))

    def _look(self, shown: list[tuple[str, str | None]]) -> list[Ended]:
        # Outside the handlers' transactions: a wrong key must not queue for the write lock, nor hold a read lock under it.
        found: dict[str, Principal | None] = {}
        with self._database.look() as connection:
            for token in {token for token, _ in shown}:
                try:
                    found[token] = authenticate(connection, self._pepper, token)
                except Unauthenticated:
                    found[token] = None
        return [self._counted(found[token], host) for token, host in shown]

    def _counted(self, principal: Principal | None, host: str | None) -> Ended:
        try:
            if principal is None:
                self._limits.count_wrong_key(host)
                raise Unauthenticated
            self._limits.count_request(principal.key_id)
        except Problem as problem:
            return Ended(error=problem)
        return Ended(principal)


async def _principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    """Looked up and counted once a request, whoever asks first."""
    known: Principal | None = getattr(request.state, "principal", None)
    if known is not None:
        return known
    if credentials is None:
        raise Unauthenticated
    look_ups: LookUps = request.app.state.look_ups
    host = request.client.host if request.client is not None else None
    found = await look_ups.principal(credentials.credentials, host)
    request.state.principal = found
    return found


Authenticated = Annotated[Principal, Depends(_principal)]


# A proxy on this host connects from it too, and says in one of these for whom.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
THIS_HOST = ("127.0.0.1", "localhost", "::1")


async def _from_this_host_or_operator(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Raises Unauthenticated or Forbidden for a caller elsewhere who shows no operator's key."""
    here = request.client is not None and request.client.host in THIS_HOST and request.url.hostname in THIS_HOST
    if here and not any(name in request.headers for name in FORWARDED):
        return
    principal = await _principal(request, credentials)
    if principal.role is not Role.OPERATOR:
        raise Forbidden(f"This needs a key of role operator; yours has role {principal.role.value}.")


FromThisHostOrOperator = Annotated[None, Depends(_from_this_host_or_operator)]


class Requires:
    """A dependency that lets the given roles pass, with parameters that the route knows. Every route under /v1 has one."""

    def __init__(self, *roles: Role) -> None:
        self.roles = frozenset(roles)

    async def __call__(self, request: Request, principal: Authenticated) -> Principal:
        if principal.role not in self.roles:
            allowed = " or ".join(sorted(role.value for role in self.roles))
            raise Forbidden(f"This needs a key of role {allowed}; yours has role {principal.role.value}.")
        refuse_unknown_parameters(request)
        return principal


AsApplication = Annotated[Principal, Depends(Requires(Role.APPLICATION))]
AsOperator = Annotated[Principal, Depends(Requires(Role.OPERATOR))]
AsCompliance = Annotated[Principal, Depends(Requires(Role.COMPLIANCE, Role.OPERATOR))]
AsApplicationOrCompliance = Annotated[Principal, Depends(Requires(Role.APPLICATION, Role.COMPLIANCE))]
AsReceiver = Annotated[Principal, Depends(Requires(Role.APPLICATION, Role.OPERATOR))]
AsApplicationOrOperator = Annotated[Principal, Depends(Requires(Role.APPLICATION, Role.OPERATOR))]
AsAnyone = Annotated[Principal, Depends(Requires(*Role))]
