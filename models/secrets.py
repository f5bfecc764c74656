"""Secrets as files of mode 0600 in AMUN_SECRETS_DIR, made at first start."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from models.artifacts import sync_folder

API_KEY_PEPPER = "api-key-pepper"  # API keys and fingerprints of bodies
SAMPLE_REFERENCES = "sample-reference-key"  # pseudonyms of samples in reports
SUPPRESSION = "suppression-key"  # names of erased samples
WEBHOOK_KEY = "webhook-key"  # the signing secret of each webhook follows from it


class UnusableSecret(RuntimeError):
    """A secret file is readable by others, or not of the right length."""


def load_or_create(folder: Path, name: str) -> bytes:
    """32 random bytes, the same for every process that shares the folder.

    Raises UnusableSecret where the file's mode lets anybody else read it or it was cut short.
    """
    if not (folder / name).exists():
        keep(folder, name, secrets.token_bytes(32))
    value = read(folder, name)
    if len(value) != 32:
        raise UnusableSecret(f"secret {name} has {len(value)} bytes instead of 32: restore it from a back-up")
    return value


def keep(folder: Path, name: str, value: bytes) -> None:
    """Write a secret durably with mode 0600; one of this name that is already there stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{name}.{os.getpid()}.{time.monotonic_ns()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, folder / name)  # atomic, and refuses to replace what another process made meanwhile
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    sync_folder(folder)


def read(folder: Path, name: str) -> bytes:
    """Raises UnusableSecret where the file's mode lets anybody else read it, OSError where there is none."""
    path = folder / name
    if path.stat().st_mode & 0o077:
        raise UnusableSecret(f"secret {name} is open to others: chmod 600 it")
    return path.read_bytes()


def keyed_hash(key: bytes, message: str) -> str:
    """HMAC-SHA-256 as 64 hex digits."""
    return hmac.new(key, message.encode(), hashlib.sha256).hexdigest()
