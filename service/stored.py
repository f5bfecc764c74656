"""Stored documents, read whole so that what is sent is what was checked."""

from __future__ import annotations

import hashlib

from fastapi import Response

from models.settings import Settings
from service.errors import Damaged


def stored(settings: Settings, path: str, sha256: str) -> bytes:
    """The bytes of a stored file. Raises Damaged where it is missing or was changed."""
    try:
        content = (settings.data_dir / path).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(
            "The stored document is not the one that was written: ask the operator to restore it from a back-up."
        )
    return content


def served(settings: Settings, path: str, sha256: str, media_type: str, name: str) -> Response:
    """A stored file as an answer. Raises Damaged."""
    headers = {"ETag": f'"{sha256}"', "Content-Disposition": f'inline; filename="{name}"'}
    return Response(stored(settings, path, sha256), media_type=media_type, headers=headers)
