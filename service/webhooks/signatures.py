"""Secrets of webhooks and the signatures of messages, by Standard Webhooks (HMAC-SHA-256)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from datetime import datetime, timedelta

from standardwebhooks import Webhook as Signer

OVERLAP = timedelta(hours=24)  # how long a rotated secret goes on signing beside the new one


def secret(key: bytes, webhook: uuid.UUID, generation: int) -> str:
    """``whsec_…``: 32 bytes that follow from the key file, so that a stolen database signs nothing."""
    derived = hmac.new(key, f"{webhook}:{generation}".encode(), hashlib.sha256).digest()
    return "whsec_" + base64.b64encode(derived).decode()


def headers(secrets: list[str], message_id: str, at: datetime, body: str) -> dict[str, str]:
    """The three headers of a message that is sent at ``at``; one signature for each secret."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(each).sign(message_id, at, body) for each in secrets),
    }
