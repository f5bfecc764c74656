"""Checkpoints to upload, and what is left in the folder of uploads."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from starlette.testclient import TestClient

from models.settings import Settings

Headers = dict[str, str]


def checkpoint(floats: int = 1000, seed: int = 1, metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file, put together by hand from the format's description."""
    half = floats // 2
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    header["weight"] = {"dtype": "F32", "shape": [half], "data_offsets": [0, 4 * half]}
    header["bias"] = {"dtype": "F32", "shape": [floats - half], "data_offsets": [4 * half, 4 * floats]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", seed) * floats


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(client: TestClient, headers: Headers, content: bytes, name: str | None = None) -> Any:
    headers = {**headers, "Content-Type": "application/octet-stream"}
    return client.put(f"/v1/uploads/{name or sha(content)}", headers=headers, content=content)


def files(settings: Settings) -> list[str]:
    folder = settings.data_dir / "uploads"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []
