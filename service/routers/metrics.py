"""/metrics, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from service.security import FromThisHostOrOperator

router = APIRouter(tags=["health"])


@router.get("/metrics", include_in_schema=False)
def metrics(_: FromThisHostOrOperator, request: Request) -> Response:
    """The numbers of this process and of the rows, in the format that the scraper asks for."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(request.app.state.registry), media_type=content_type)
