"""Secrets as files of mode 0600 in AMUN_SECRETS_DIR, made at first start."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

API_KEY_PEPPER = "api-key-pepper"  # API keys and fingerprints of bodies
SAMPLE_REFERENCES = "sample-reference-key"  # pseudonyms of samples in reports
SUPPRESSION = "suppression-key"  # names of erased samples


class UnusableSecret(RuntimeError):
    """A secret file is readable by others, or not of the right length."""


def load_or_create(folder: Path, name: str) -> bytes:
    """32 random bytes, the same for every process that shares the folder.

    Raises UnusableSecret where the file's mode lets anybody else read it or it was cut short.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / name
    draft = folder / f".{name}.{os.getpid()}.{time.monotonic_ns()}"
    if not path.exists():
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # atomic, and refuses to replace what another process made meanwhile
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    if path.stat().st_mode & 0o077:
        raise UnusableSecret(f"secret {name} is open to others: chmod 600 it")
    value = path.read_bytes()
    if len(value) != 32:
        raise UnusableSecret(f"secret {name} has {len(value)} bytes instead of 32: restore it from a back-up")
    return value


def keyed_hash(key: bytes, message: str) -> str:
    """HMAC-SHA-256 as 64 hex digits."""
    return hmac.new(key, message.encode(), hashlib.sha256).hexdigest()
