"""The header of a safetensors file: a little-endian length of 8 bytes, then that much JSON, then the tensors' bytes.

The front end looks no further: what the tensors hold, and whether they fit a network, is checked by the worker that loads them.
"""

from __future__ import annotations

import json
import struct
from typing import Any

LENGTH = struct.Struct("<Q")
LONGEST = 4 * 1024 * 1024  # of the JSON; a network of a thousand layers needs a tenth
METADATA = "__metadata__"
OTHERS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
}


class NotSafetensors(ValueError):
    """The message says what was found instead."""


def header_length(start: bytes) -> int:
    """Bytes up to the first tensor, from the file's first 9 or more. Raises NotSafetensors."""
    (length,) = LENGTH.unpack_from(start)
    if 2 <= length <= LONGEST and start[LENGTH.size : LENGTH.size + 1] == b"{":
        return LENGTH.size + int(length)
    # Only now: a header of 640 bytes begins as a pickle does.
    for magic, name in OTHERS.items():
        if start.startswith(magic):
            raise NotSafetensors(f"it is {name}")
    raise NotSafetensors(f"its first bytes do not announce a header of JSON of at most {LONGEST:,} bytes")


def data_length(header: bytes) -> int:
    """Bytes that the tensors take, from the whole header. Raises NotSafetensors where it does not describe any."""
    try:
        described = json.loads(header[LENGTH.size :].decode("utf-8"))
    except (ValueError, RecursionError):
        raise NotSafetensors("its header is not JSON") from None
    if not isinstance(described, dict):
        raise NotSafetensors("its header is not a JSON object")
    tensors = [value for name, value in described.items() if name != METADATA]
    if not tensors:
        raise NotSafetensors("it holds no tensor")
    spans = sorted(_span(tensor) for tensor in tensors)
    end = 0
    for start, stop in spans:
        if start != end:
            raise NotSafetensors("its tensors overlap, or leave a gap")
        end = stop
    return end


def _span(tensor: Any) -> tuple[int, int]:
    if isinstance(tensor, dict) and isinstance(tensor.get("dtype"), str) and _sizes(tensor.get("shape")):
        offsets: Any = tensor.get("data_offsets")
        if _sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]:
            return offsets[0], offsets[1]
    raise NotSafetensors("its header describes a tensor without dtype, shape and data_offsets")


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
