"""What makes rows evidence: the canonical body of an event, its chained hash, and pseudonyms of samples."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import rfc8785
from sqlalchemy import Row

from models.event import Event
from models.secrets import keyed_hash
from models.training_set import Sample

GENESIS = hashlib.sha256(b"amun event log").hexdigest()


def event_body(event: Event | Row[Any], position: int) -> bytes:
    """RFC 8785 canonical JSON of an event, or of a row of its columns, at its position."""
    return rfc8785.dumps(
        {
            "position": position,
            "id": str(event.id),
            "at": event.at.isoformat(timespec="microseconds"),
            "name": event.name,
            "record": event.record,
            "record_id": event.record_id,
            "actor": event.actor,
            "data": event.data,
        }
    )


def seal(previous: str, event: Event | Row[Any], position: int) -> str:
    """sha256(previous hash || canonical body), in hex; the first event follows `GENESIS`."""
    return hashlib.sha256(bytes.fromhex(previous) + event_body(event, position)).hexdigest()


def sample_reference(key: bytes, training_set: uuid.UUID, index: int) -> str:
    """Pseudonym of a sample in reports: 16 hex digits of an HMAC that only the controller can recompute."""
    return keyed_hash(key, f"{training_set}/{index}")[:16]


def suppression_digest(key: bytes, training_set: uuid.UUID, field: str, value: object) -> str:
    """Keyed hash of one name of a sample; ``field`` is key, index, sha256, file_sha256 or subject."""
    return keyed_hash(key, f"{training_set}/{field}:{value}")


def content_digest(key: bytes, field: str, value: str) -> str:
    """Keyed hash of an image's content, the same in every training set; ``field`` is sha256 or file_sha256."""
    return keyed_hash(key, f"content/{field}:{value}")


def content_digests(key: bytes, sample: Sample) -> list[str]:
    """Keyed hashes by which the content of a sample is known in any training set."""
    contents = {"sha256": sample.sha256, "file_sha256": sample.file_sha256}
    return [content_digest(key, field, value) for field, value in contents.items() if value is not None]


def suppression_digests(key: bytes, sample: Sample) -> list[str]:
    """Keyed hashes of everything that names a sample, before the names are nulled."""
    names = {
        "index": sample.index,
        "key": sample.key,
        "sha256": sample.sha256,
        "file_sha256": sample.file_sha256,
        "subject": sample.subject,
    }
    return [
        suppression_digest(key, sample.training_set_id, field, value)
        for field, value in names.items()
        if value is not None
    ] + content_digests(key, sample)
