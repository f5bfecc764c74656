"""/v1/deletion-requests/preview"""

from __future__ import annotations

from fastapi import APIRouter

from service.deps import ReadSession, SuppressionKey
from service.errors import Conflict, NotFound, Unprocessable, responses
from service.preview import preview
from service.schemas.deletion_requests import NewDeletionRequest
from service.schemas.previews import PreviewAnswer
from service.security import AsApplication

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])


@router.post("/preview", responses=responses(NotFound, Conflict, Unprocessable))
def preview_deletion_request(
    principal: AsApplication, body: NewDeletionRequest, suppression_key: SuppressionKey, session: ReadSession
) -> PreviewAnswer:
    """What would come of a request: each selector, the models that it touches, what earlier jobs let expect.

    Nothing is stored. A request that would be refused for what was found is answered with `accepted: false` and the
    problem.
    """
    return preview(session, suppression_key, principal, body)
