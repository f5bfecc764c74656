"""Which deletion requests a caller may see."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from models.records import Application, DeletionRequest, Role, TrainingSet
from service.deps import ReadSession, WriteSession
from service.errors import NotFound
from service.security import Authenticated, Principal


def visible(principal: Principal) -> Select[DeletionRequest, str, str]:
    """Requests with the names of application and training set; an application sees its own."""
    query = (
        select(DeletionRequest, Application.name, TrainingSet.name)
        .join(Application, Application.id == DeletionRequest.application_id)
        .join(TrainingSet, TrainingSet.id == DeletionRequest.training_set_id)
    )
    if principal.role is Role.APPLICATION:
        query = query.where(DeletionRequest.application_id == principal.application_id)
    return query


def find(session: Session, request_id: uuid.UUID, principal: Principal) -> tuple[DeletionRequest, str, str]:
    """Raises NotFound, alike for others' requests and for none."""
    found = session.execute(visible(principal).where(DeletionRequest.id == request_id)).one_or_none()
    if found is None:
        raise NotFound("There is no deletion request of this id that this key may see.")
    return found[0], found[1], found[2]


def _loaded(request_id: uuid.UUID, principal: Authenticated, session: ReadSession) -> tuple[DeletionRequest, str, str]:
    return find(session, request_id, principal)


def _to_decide(
    request_id: uuid.UUID, principal: Authenticated, session: WriteSession
) -> tuple[DeletionRequest, str, str]:
    return find(session, request_id, principal)


LoadedRequest = Annotated[tuple[DeletionRequest, str, str], Depends(_loaded)]
RequestToDecide = Annotated[tuple[DeletionRequest, str, str], Depends(_to_decide)]
