"""Public keys as JSON Web Keys (RFC 7517, RFC 8037)."""

from __future__ import annotations

from pydantic import Field

from service.schemas.common import Answer


class Jwk(Answer):
    kty: str
    crv: str
    x: str = Field(description="The public key, base64url.")
    kid: str = Field(description="RFC 7638 thumbprint; the keyid of envelopes.")
    use: str
    alg: str


class Jwks(Answer):
    keys: list[Jwk]
