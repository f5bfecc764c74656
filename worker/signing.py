"""Signatures of evidence: in-toto statements in DSSE envelopes. The only code that reads a private signing key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models import secrets
from models.crashes import crash_point
from models.records import SigningKey
from models.secrets import UnusableSecret
from models.settings import Settings
from models.verify import PAYLOAD_TYPE, STATEMENT, thumbprint


@dataclass(frozen=True)
class Key:
    """An Ed25519 key that may sign; ``key_id`` is the RFC 7638 thumbprint of its public half."""

    key_id: str
    signer: CryptoSigner = field(repr=False)

    @classmethod
    def of(cls, private: Ed25519PrivateKey) -> Key:
        public = private.public_key()
        key_id = thumbprint(public.public_bytes_raw())
        return cls(key_id, CryptoSigner(private, SSlibKey.from_crypto(public, key_id)))


def active_key(session: Session, settings: Settings) -> Key:
    """The newest key that is not retired and whose private file is here; made where there is none.

    The session is one that writes. The file is durable before the row is, so no published key lacks its private half.

    Raises:
        UnusableSecret: the file's mode lets anybody else read it, or it does not hold the key of its row.
    """
    found = _usable(session, settings.secrets)
    if found is None and session.get_bind().dialect.name == "postgresql":
        # SQLite lets one writer in anyway; without this, two first signatures at once would make two keys.
        session.execute(text("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"))
        found = _usable(session, settings.secrets)
    return found or _make(session, settings.secrets)


def sign(key: Key, subjects: list[tuple[str, str]], predicate_type: str, predicate: dict[str, Any]) -> bytes:
    """A DSSE envelope around an in-toto statement, as canonical JSON: the same input gives the same bytes.

    Args:
        key: signs; its id is added to the predicate as ``key_id``.
        subjects: name and sha256 of every file that the statement vouches for.
        predicate_type: models.verify.AUDIT_REPORT or ERASURE_CERTIFICATE.
        predicate: document_id, kind, edition, issued_at, supersedes, and verdict or outcome.
    """
    payload = rfc8785.dumps(statement(subjects, predicate_type, {**predicate, "key_id": key.key_id}))
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(key.signer)
    return rfc8785.dumps(envelope.to_dict())


def statement(subjects: list[tuple[str, str]], predicate_type: str, predicate: dict[str, Any]) -> dict[str, Any]:
    """in-toto Statement v1."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def _usable(session: Session, folder: Path) -> Key | None:
    live = select(SigningKey.key_id).where(SigningKey.retired_at.is_(None))
    for key_id in session.scalars(live.order_by(SigningKey.created_at.desc(), SigningKey.key_id)):
        if (folder / _file(key_id)).exists():  # another worker may keep its secrets elsewhere
            return _load(folder, key_id)
    return None


def _load(folder: Path, key_id: str) -> Key:
    name = _file(key_id)
    try:
        private = serialization.load_pem_private_key(secrets.read(folder, name), password=None)
    except (TypeError, ValueError):
        raise UnusableSecret(f"secret {name} is no private key: restore it from a back-up") from None
    if not isinstance(private, Ed25519PrivateKey) or thumbprint(private.public_key().public_bytes_raw()) != key_id:
        raise UnusableSecret(f"secret {name} holds another key than its name says: restore it from a back-up")
    return Key.of(private)


def _make(session: Session, folder: Path) -> Key:
    private = Ed25519PrivateKey.generate()
    key = Key.of(private)
    secrets.keep(folder, _file(key.key_id), key.signer.private_bytes)
    crash_point("signing.key_kept")
    session.add(SigningKey(key_id=key.key_id, public_key=private.public_key().public_bytes_raw().hex()))
    session.flush()
    return key


def _file(key_id: str) -> str:
    return f"signing-{key_id}.pem"
