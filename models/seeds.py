"""Seeds of jobs: drawn at random, or repeatable where the operator fixed AMUN_SEED. Never set by a caller."""

from __future__ import annotations

import hashlib
import secrets

from models.settings import Settings

BITS = 62


def new_seed(settings: Settings, *parts: str) -> int:
    """A seed of 62 bits; with ``settings.seed`` it depends on that and on what the job is for."""
    if settings.seed is None:
        return secrets.randbits(BITS)
    digest = hashlib.sha256("\0".join([str(settings.seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8]) >> (64 - BITS)
