"""Paths of the API."""

from __future__ import annotations

from urllib.parse import quote


def to(*parts: str | int) -> str:
    """A path under /v1. What the caller typed stays one part of it, whatever it holds."""
    return "/v1/" + "/".join(_one(str(part)) for part in parts)


def _one(part: str) -> str:
    quoted = quote(part, safe="")
    return quoted.replace(".", "%2E") if part in (".", "..") else quoted
