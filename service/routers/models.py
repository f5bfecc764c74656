"""/v1/models and their versions"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from sqlalchemy import Select, select
from sqlalchemy.orm import Session, aliased

from models.records import Model, ModelStatus, ModelVersion
from service.deps import (
    CurrentSettings,
    LoadedModel,
    LoadedVersion,
    LockedModel,
    ModelToRetire,
    ReadSession,
    VersionToChange,
    WriteSession,
)
from service.errors import Conflict, Gone, NotFound, Unprocessable, responses
from service.lists.paging import Page, Paged
from service.registration import queue_audit, register_model
from service.releases import quarantine_version, release_version
from service.retiring import retire
from service.schemas.common import Accepted, Reason
from service.schemas.models import ModelAccepted, ModelAnswer, NewModel, VersionAnswer
from service.security import AsCompliance, AsOperator

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post("", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict, Unprocessable))
def train(
    principal: AsOperator, body: NewModel, settings: CurrentSettings, session: WriteSession, response: Response
) -> ModelAccepted:
    """Train a model, or check one that was uploaded; a job does it, and trains its reference models."""
    model, job = register_model(session, settings, principal, body)
    response.headers["Location"] = f"/v1/models/{model.name}"
    accepted = Accepted(id=job.id, kind=job.kind.value, status=job.status.value, created_at=job.created_at)
    return ModelAccepted(model=_model(model), job=accepted)


@router.get("")
def list_models(
    _: AsCompliance,
    session: ReadSession,
    paging: Paged,
    status: Annotated[ModelStatus | None, Query()] = None,
) -> Page[ModelAnswer]:
    """Models, newest first."""
    query = select(Model) if status is None else select(Model).where(Model.status == status)
    rows, cursor = paging.cut(session, query, Model.id)
    return Page(data=[_model(row[0]) for row in rows], next_cursor=cursor)


@router.get("/{name}", responses=responses(NotFound))
def get_model(_: AsCompliance, model: LoadedModel) -> ModelAnswer:
    """One model, with every parameter it was registered with."""
    return _model(model)


@router.get("/{name}/versions", responses=responses(NotFound))
def list_versions(_: AsCompliance, model: LoadedModel, session: ReadSession, paging: Paged) -> Page[VersionAnswer]:
    """A model's versions, newest first."""
    rows, cursor = paging.cut(session, _versions(model), ModelVersion.number)
    return Page(data=[_version(model, row[0], row[1]) for row in rows], next_cursor=cursor)


@router.get("/{name}/versions/{number}", responses=responses(NotFound))
def get_version(_: AsCompliance, model: LoadedModel, version: LoadedVersion, session: ReadSession) -> VersionAnswer:
    """One version."""
    return _read_version(session, model, version)


@router.post(
    "/{name}/versions/{number}/release",
    status_code=status.HTTP_202_ACCEPTED,
    responses=responses(NotFound, Conflict, Gone),
)
def release(
    principal: AsOperator, model: LockedModel, version: VersionToChange, body: Reason, session: WriteSession
) -> VersionAnswer:
    """Serve a quarantined version on an operator's responsibility; the reason stays in the log."""
    release_version(session, model, version, principal, body.reason)
    return _read_version(session, model, version)


@router.post(
    "/{name}/versions/{number}/quarantine",
    status_code=status.HTTP_202_ACCEPTED,
    responses=responses(NotFound, Conflict),
)
def quarantine(
    principal: AsOperator, model: LockedModel, version: VersionToChange, body: Reason, session: WriteSession
) -> VersionAnswer:
    """Take the released version out of service; its model is withdrawn until a version is released."""
    quarantine_version(session, model, version, principal, body.reason)
    return _read_version(session, model, version)


@router.post("/{name}/audits", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict))
def audit(principal: AsOperator, model: LockedModel, settings: CurrentSettings, session: WriteSession) -> Accepted:
    """Audit the released version once more, with the controls and the signals that are still lawfully there."""
    job = queue_audit(session, settings, principal, model)
    return Accepted(id=job.id, kind=job.kind.value, status=job.status.value, created_at=job.created_at)


@router.post("/{name}/retire", status_code=status.HTTP_202_ACCEPTED, responses=responses(NotFound, Conflict))
def retire_model(principal: AsOperator, model: ModelToRetire, body: Reason, session: WriteSession) -> ModelAnswer:
    """Take it out of service for good: requests that wait for it are not applicable to it, and its files are destroyed."""
    retire(session, model, principal, body.reason)
    return _model(model)


def _versions(model: Model) -> Select[ModelVersion, int | None]:
    parent = aliased(ModelVersion)
    return (
        select(ModelVersion, parent.number)
        .outerjoin(parent, parent.id == ModelVersion.parent_id)
        .where(ModelVersion.model_id == model.id)
    )


def _read_version(session: Session, model: Model, version: ModelVersion) -> VersionAnswer:
    found, parent = session.execute(_versions(model).where(ModelVersion.id == version.id)).one()
    return _version(model, found, parent)


def _version(model: Model, version: ModelVersion, parent: int | None) -> VersionAnswer:
    return VersionAnswer(
        id=version.id,
        model=model.name,
        number=version.number,
        status=version.status,
        parent=parent,
        job=version.job_id,
        sha256=version.sha256,
        size=version.size,
        verdict=version.verdict,
        reason=version.reason,
        created_at=version.created_at,
        released_at=version.released_at,
        destroyed_at=version.destroyed_at,
    )


def _model(model: Model) -> ModelAnswer:
    return ModelAnswer(
        id=model.id,
        name=model.name,
        status=model.status,
        training_set=model.training_set.name,
        network=model.network,
        recipe=model.recipe,
        policy=model.policy,
        checkpoint=model.checkpoint,
        released_version=model.released_number,
        training=model.training,
        error=model.error,
        created_at=model.created_at,
    )
