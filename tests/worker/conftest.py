"""What the tests of the worker share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from worker.report import pages, plots

OF_ONE_DOCUMENT = ("samples", "slices", "worst_sample")  # references and requests, which no plot shows


@pytest.fixture(scope="session", autouse=True)
def plots_of_an_audit_are_drawn_once() -> Iterator[None]:
    """Most reports here tell the same recorded audit, and drawing it takes longer than all else about a report."""
    drawn: dict[str, dict[str, bytes]] = {}

    def draw(audit: dict[str, Any]) -> dict[str, bytes]:
        key = json.dumps(_without(audit), sort_keys=True)
        if key not in drawn:
            drawn[key] = plots.draw(audit)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_draw", draw)
        yield


def _without(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _without(value) for name, value in part.items() if name not in OF_ONE_DOCUMENT}
    return part
