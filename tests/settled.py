"""Tests write rows that jobs and people would have written; what follows from them must follow here too."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.records import DeletionRequest, unsettle


def settle_all(session: Session) -> None:
    """Bring every request's status up to date at the commit, whatever statement wrote past the session's objects."""
    unsettle(session, *session.scalars(select(DeletionRequest.id)))
