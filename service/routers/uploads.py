"""/v1/uploads"""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request, Response, status
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from models.records import Upload
from models.settings import Settings
from service import receiving, uploads
from service.deps import CurrentDatabase, CurrentSettings, ReadSession
from service.errors import Conflict, Incomplete, NoSpace, NotFound, TooLarge, responses
from service.lists.paging import Page, Paged
from service.schemas.uploads import UploadAnswer
from service.security import AsOperator

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

log = structlog.get_logger(__name__)

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Of the file, in lower-case hexadecimal digits.")]
BODY = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.put(
    "/{sha256}",
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": UploadAnswer, "description": "It was there already."},
        **responses(Incomplete, TooLarge, NoSpace),
    },
    openapi_extra={"requestBody": BODY},
)
async def upload(
    principal: AsOperator,
    sha256: Sha256,
    request: Request,
    response: Response,
    database: CurrentDatabase,
    settings: CurrentSettings,
) -> UploadAnswer:
    """Upload a checkpoint in safetensors, to make a model of: its tensors are checked when the model is.

    Sent again, it is read and compared but not written again.
    """
    # The one handler that is not a plain `def`: only the event loop can read a body bit by bit. All its work on files
    # and rows is done by threads, and no transaction is open while bytes are waited for.
    folder = settings.data_dir / uploads.FOLDER
    there = await run_in_threadpool(uploads.intact, database, settings, sha256)
    announced = request.headers.get("content-length", "")
    expected = int(announced) if announced.isdecimal() else 0
    draft = await run_in_threadpool(receiving.Draft, folder, sha256, expected, keep=there is None)
    try:
        await receiving.receive(request.stream(), draft)
        await run_in_threadpool(draft.publish, settings.data_dir / uploads.relative_path(sha256))
    except ClientDisconnect:
        log.info("upload.disconnected", sha256=sha256, received=draft.size)
        raise Incomplete("The connection ended before the body did: send the file again.") from None
    finally:
        draft.discard()
    if there is not None:
        found, made = there, False
    else:
        found, made = await run_in_threadpool(
            uploads.enter, database, sha256, draft.size, key_id=principal.key_id, actor=principal.actor
        )
    response.status_code = status.HTTP_201_CREATED if made else status.HTTP_200_OK
    response.headers["Location"] = f"/v1/uploads/{sha256}"
    return _answer(settings, found)


@router.get("")
def list_uploads(_: AsOperator, session: ReadSession, paging: Paged, settings: CurrentSettings) -> Page[UploadAnswer]:
    """Uploads that no model was made of yet, by their sha256."""
    rows, cursor = paging.cut(session, select(Upload), Upload.sha256, oldest_first=True)
    return Page(data=[_answer(settings, row[0]) for row in rows], next_cursor=cursor)


@router.get("/{sha256}", responses=responses(NotFound))
def get_upload(_: AsOperator, sha256: Sha256, session: ReadSession, settings: CurrentSettings) -> UploadAnswer:
    """One upload and how long it stays."""
    found = session.get(Upload, sha256)
    if found is None:
        raise _unknown()
    return _answer(settings, found)


@router.delete("/{sha256}", status_code=status.HTTP_204_NO_CONTENT, responses=responses(NotFound, Conflict))
def delete_upload(principal: AsOperator, sha256: Sha256, database: CurrentDatabase, settings: CurrentSettings) -> None:
    """Destroy an upload now: its file is overwritten and removed before this answers."""
    if not uploads.destroy_upload(database, settings, sha256, actor=principal.actor):
        raise _unknown()


def _unknown() -> NotFound:
    return NotFound(
        "There is no such upload: it was never sent, or was destroyed once a model was made of it or unused."
    )


def _answer(settings: Settings, found: Upload) -> UploadAnswer:
    return UploadAnswer(
        sha256=found.sha256,
        size=found.size,
        created_at=found.created_at,
        expires_at=uploads.expires_at(settings, found),
    )
