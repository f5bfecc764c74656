"""/v1/deletion-requests/{id}/certificate"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.records import Certificate, DeletionRequest, RequestStatus
from service.bundle import bundle
from service.deps import CurrentSettings, ReadSession
from service.errors import Conflict, Damaged, NotFound, responses
from service.requests import LoadedRequest
from service.security import AsApplicationOrCompliance
from service.stored import JSON, PDF, ZIP, sent, stored

router = APIRouter(prefix="/v1/deletion-requests", tags=["certificates"])

UNCERTIFIED = (RequestStatus.CANCELLED, RequestStatus.PARTIALLY_COMPLETED, RequestStatus.FAILED)


def newest_certificate(session: Session, request: DeletionRequest) -> Certificate | None:
    """The newest edition."""
    return session.scalars(
        select(Certificate).where(Certificate.request_id == request.id).order_by(Certificate.edition.desc()).limit(1)
    ).one_or_none()


def _loaded(loaded: LoadedRequest, session: ReadSession) -> Certificate:
    request = loaded[0]
    found = newest_certificate(session, request)
    if found is None:
        state = request.status.value.replace("_", " ")
        if request.status in UNCERTIFIED:
            raise Conflict(
                f"There is no certificate: the request is {state}; only what is completed or rejected gets one."
            )
        raise Conflict(
            f"There is no certificate yet: the request is {state}. It is issued once every model has forgotten the samples "
            "and their files were seen to be gone."
        )
    return found


LoadedCertificate = Annotated[Certificate, Depends(_loaded)]


@router.get(
    "/{request_id}/certificate",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}, **responses(NotFound, Conflict, Damaged)},
)
def get_certificate(
    _: AsApplicationOrCompliance, certificate: LoadedCertificate, settings: CurrentSettings
) -> Response:
    """The erasure certificate for machines, byte for byte as it was signed; it names no other request."""
    content = stored(settings, certificate.json_path, certificate.json_sha256)
    return sent(content, JSON, f"certificate-{certificate.id}.json")


@router.get(
    "/{request_id}/certificate/pdf",
    response_class=Response,
    responses={200: {"content": {"application/pdf": {}}}, **responses(NotFound, Conflict, Damaged)},
)
def get_certificate_pdf(
    _: AsApplicationOrCompliance, certificate: LoadedCertificate, settings: CurrentSettings
) -> Response:
    """The erasure certificate for people."""
    content = stored(settings, certificate.pdf_path, certificate.pdf_sha256)
    return sent(content, PDF, f"certificate-{certificate.id}.pdf")


@router.get(
    "/{request_id}/certificate/bundle",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}, **responses(NotFound, Conflict, Damaged)},
)
def get_certificate_bundle(
    _: AsApplicationOrCompliance, certificate: LoadedCertificate, settings: CurrentSettings
) -> Response:
    """The certificate in every form, its signature, and the program that checks it without this service."""
    files = {
        "certificate.json": stored(settings, certificate.json_path, certificate.json_sha256),
        "certificate.pdf": stored(settings, certificate.pdf_path, certificate.pdf_sha256),
        "samples.csv": stored(settings, certificate.csv_path, certificate.csv_sha256),
        "envelope.json": stored(settings, certificate.envelope_path, certificate.envelope_sha256),
    }
    return sent(bundle(files), ZIP, f"certificate-{certificate.id}.zip")
