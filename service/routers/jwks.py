"""/.well-known/jwks.json: public keys of signed evidence, open to whoever verifies it."""

from __future__ import annotations

import base64

from fastapi import APIRouter, Response
from sqlalchemy import select

from models.records import SigningKey
from service.deps import ReadSession
from service.schemas.jwks import Jwk, Jwks

router = APIRouter(tags=["keys"])


@router.get("/.well-known/jwks.json")
def get_jwks(session: ReadSession, response: Response) -> Jwks:
    """Every key that ever signed, oldest first; a retired key stays, so that what it signed stays verifiable."""
    response.headers["Cache-Control"] = "public, max-age=300"
    rows = session.scalars(select(SigningKey).order_by(SigningKey.created_at, SigningKey.key_id))
    return Jwks(keys=[_jwk(row) for row in rows])


def _jwk(key: SigningKey) -> Jwk:
    x = base64.urlsafe_b64encode(bytes.fromhex(key.public_key)).decode().rstrip("=")
    return Jwk(kty="OKP", crv="Ed25519", x=x, kid=key.key_id, use="sig", alg="EdDSA")
