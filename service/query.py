"""Query parameters that a route does not have are an error: a misspelt filter would otherwise let everything through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import Request

from service.errors import Unprocessable


def refuse_unknown_parameters(request: Request) -> None:
    """Raises Unprocessable, naming each query parameter that the route and its dependencies do not declare."""
    if not request.query_params:
        return
    known = set(_declared(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise Unprocessable(
            f"This path does not know every query parameter that was sent: {takes}.",
            errors=[{"parameter": name[:100], "detail": "unknown here"} for name in unknown],
        )


def _declared(dependant: Any) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for below in dependant.dependencies:
        yield from _declared(below)
