"""Opaque cursors: a position in one list in one order, as text."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

LONGEST = 64
TAG_BYTES = 6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SIZES: dict[type[Any], int] = {uuid.UUID: 16, int: 8, datetime: 8, str: 32}

Position = tuple[Any, ...]  # values of the columns that a list is sorted by; the last of them is unique


class ForeignCursor(ValueError):
    """No page of this list, sorted as it is, has given out this cursor."""


def encode(order: str, position: Position) -> str:
    """The position in the list and order that ``order`` names."""
    content = _tag(order) + b"".join(_packed(value) for value in position)
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def decode(order: str, cursor: str, kinds: Sequence[type[Any]]) -> Position:
    """The position, with a value of each of ``kinds``: uuid.UUID, int, datetime, or str for a sha256. Raises ForeignCursor."""
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise ForeignCursor from None
    sizes = [SIZES[kind] for kind in kinds]
    if content[:TAG_BYTES] != _tag(order) or len(content) != TAG_BYTES + sum(sizes):
        raise ForeignCursor
    values, place = [], TAG_BYTES
    for kind, size in zip(kinds, sizes, strict=True):
        values.append(_unpacked(kind, content[place : place + size]))
        place += size
    return tuple(values)


def _tag(order: str) -> bytes:
    return hashlib.sha256(order.encode()).digest()[:TAG_BYTES]


def _packed(value: uuid.UUID | int | datetime | str) -> bytes:
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, str):
        return bytes.fromhex(value)
    return struct.pack(">q", (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value)


def _unpacked(kind: type[Any], content: bytes) -> Any:
    if kind is uuid.UUID:
        return uuid.UUID(bytes=content)
    if kind is str:
        return content.hex()
    (number,) = struct.unpack(">q", content)
    if kind is not datetime:
        return number
    try:
        return EPOCH + number * MICROSECOND
    except OverflowError:
        raise ForeignCursor from None
