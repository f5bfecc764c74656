"""/v1/models/{name}/checkpoint and those of its versions"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response, status
from fastapi.responses import FileResponse
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from models.records import Application, Event, Model, ModelStatus, ModelVersion, VersionStatus, record_event
from models.release import released_version
from models.session import Database
from models.settings import Settings
from service.deps import CurrentDatabase, CurrentSettings, NameInPath, NumberInPath, model_named, version_numbered
from service.errors import Conflict, Damaged, Gone, NotFound, responses
from service.security import AsOperator, AsReceiver, Principal

router = APIRouter(prefix="/v1/models", tags=["models"])

DOWNLOADED = "checkpoint.downloaded"
IfNoneMatch = Annotated[str | None, Header(description="ETag of the checkpoint that the caller has.")]
CHECKPOINT: dict[int | str, dict[str, object]] = {
    200: {"description": "safetensors", "content": {"application/octet-stream": {}}},
    304: {"description": "The caller has it already."},
}
NOT_SERVED = {
    ModelStatus.TRAINING: "is still training: wait for its train job",
    ModelStatus.WITHDRAWN: "is withdrawn: no version of it may be used until one is released",
    ModelStatus.FAILED: "failed to train: there is no checkpoint",
    ModelStatus.RETIRED: "is retired: no version of it may be used",
}


@router.get(
    "/{name}/checkpoint",
    response_class=FileResponse,
    responses={**CHECKPOINT, **responses(NotFound, Conflict)},
)
def download_released(
    principal: AsReceiver,
    name: NameInPath,
    database: CurrentDatabase,
    settings: CurrentSettings,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The released checkpoint. Ask again with If-None-Match: a changed ETag tells that a new version is out.

    Who fetched which version is recorded: once it is superseded, its recipients still hold what was forgotten since.
    """
    with database.read() as session:
        model = model_named(session, name, principal)
        version = released_version(session, model)
    if version is None:
        raise Conflict(f"Model {model.name} {NOT_SERVED.get(model.status, 'has no released version')}.")
    return _checkpoint(database, settings, principal, model, version, if_none_match)


@router.get(
    "/{name}/versions/{number}/checkpoint",
    response_class=FileResponse,
    responses={**CHECKPOINT, **responses(NotFound, Gone)},
)
def download_version(
    principal: AsOperator,
    name: NameInPath,
    number: NumberInPath,
    database: CurrentDatabase,
    settings: CurrentSettings,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The checkpoint of any version, quarantined ones included."""
    with database.read() as session:
        model = model_named(session, name, principal)
        version = version_numbered(session, model, number)
    if version.status is VersionStatus.DESTROYED:
        raise Gone(f"Version {version.number} was destroyed: its file is gone.")
    return _checkpoint(database, settings, principal, model, version, if_none_match)


def _checkpoint(
    database: Database,
    settings: Settings,
    principal: Principal,
    model: Model,
    version: ModelVersion,
    if_none_match: str | None,
) -> Response:
    etag = f'"{version.sha256}"'
    digest = base64.b64encode(bytes.fromhex(version.sha256)).decode()
    headers = {"ETag": etag, "Repr-Digest": f"sha-256=:{digest}:", "Cache-Control": "private, no-cache"}
    known = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    if known & {etag, "*"}:
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    path: Path = settings.data_dir / version.path
    if not path.is_file() or path.stat().st_size != version.size:
        raise Damaged(
            f"The file of version {version.number} is not the one that was stored: ask the operator to restore it."
        )
    _record(database, principal, version)
    return FileResponse(path, filename=f"{model.name}-v{version.number}.safetensors", headers=headers)


def _record(database: Database, principal: Principal, version: ModelVersion) -> None:
    """An event before the first byte leaves, one for each key and version."""
    with database.read() as session:
        if _recorded(session, principal, version):
            return
    with database.write() as session:
        if _recorded(session, principal, version):
            return
        application = session.get(Application, principal.application_id) if principal.application_id else None
        record_event(
            session,
            DOWNLOADED,
            "version",
            version.id,
            principal.actor,
            application=application.name if application else None,
        )


def _recorded(session: Session, principal: Principal, version: ModelVersion) -> bool:
    there = exists().where(
        Event.record == "version",
        Event.record_id == str(version.id),
        Event.name == DOWNLOADED,
        Event.actor == principal.actor,
    )
    return bool(session.scalar(select(there)))
