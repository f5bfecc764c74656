"""Stored documents: read whole and checked, so that what is sent is what was written."""

from __future__ import annotations

import hashlib

from fastapi import Response

from models.settings import Settings
from service.errors import Damaged

JSON, PDF, CSV, ZIP = "application/json", "application/pdf", "text/csv", "application/zip"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"


def stored(settings: Settings, path: str, sha256: str) -> bytes:
    """Content of a file of the data folder. Raises Damaged where it is missing or not what the row says."""
    try:
        content = (settings.data_dir / path).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(
            "The stored document is not the one that was written: ask the operator to restore it from a back-up."
        )
    return content


def sent(content: bytes, media_type: str, name: str) -> Response:
    """The response that carries a document under a name to save it as."""
    headers = {
        "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
        "Content-Disposition": f'inline; filename="{name}"',
    }
    return Response(content, media_type=media_type, headers=headers)
