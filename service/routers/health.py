"""Liveness and readiness, for load balancers and containers."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy.exc import SQLAlchemyError

from service import schema
from service.errors import Unavailable, responses

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=responses(Unavailable))
def readyz(request: Request) -> dict[str, str]:
    """The database answers and has this release's schema."""
    try:
        schema.check(request.app.state.database)
    except schema.WrongSchema as error:
        raise Unavailable(f"Not ready: {error}.", errors=[{"detail": str(error)}]) from None
    except SQLAlchemyError as error:
        reason = f"the database cannot be reached ({type(error).__name__})"
        raise Unavailable(f"Not ready: {reason}.", errors=[{"detail": reason}]) from None
    return {"status": "ready"}
