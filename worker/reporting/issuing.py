"""A document to its files: JSON, PDF, CSV and the envelope that signs them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from models import artifacts
from models.base import new_id
from models.session import Database
from models.settings import Settings
from models.verify import AUDIT_REPORT, ENVELOPE, ERASURE_CERTIFICATE, FILES
from worker import report
from worker.plan import OutputFile
from worker.report import wording
from worker.signing import Key, active_key, sign


@dataclass(frozen=True)
class Written:
    """Files of a signed document by name; ``document_id`` is also that of its row."""

    files: dict[str, OutputFile]
    document_id: uuid.UUID
    edition: int
    supersedes: uuid.UUID | None
    key_id: str
    verdict: str  # of a certificate: its outcome


def signing_key(database: Database, settings: Settings) -> Key:
    """In a short transaction of its own, since a first key is a row too. Raises models.secrets.UnusableSecret."""
    with database.write() as session:
        return active_key(session, settings)


def head(settings: Settings, key: Key, kind: str, issued_at: datetime) -> dict[str, Any]:
    """Group 1 of a first edition."""
    return {
        "id": str(new_id()),
        "schema_version": wording.SCHEMA_VERSION,
        "kind": kind,
        "edition": 1,
        "supersedes": None,
        "issued_at": issued_at.isoformat(timespec="seconds"),
        "issuer": settings.issuer,
        "key_id": key.key_id,
        "verify": wording.VERIFY,
    }


def issue(folder: Path, key: Key, document: dict[str, Any], checkpoints: Mapping[str, str]) -> Written:
    """Write the document's files into ``folder``; ``checkpoints`` are further signed files, sha256 by name."""
    about = document["document"]
    certificate = about["kind"] == "erasure_certificate"
    kind = ERASURE_CERTIFICATE if certificate else AUDIT_REPORT
    json_name, pdf_name, csv_name = FILES[kind]
    (folder / json_name).write_bytes(report.dumps(document))
    report.render_pdf(document, folder / pdf_name)
    (folder / csv_name).write_bytes(report.samples_csv(document))
    files = {name: _described(folder / name) for name in FILES[kind]}
    subjects = [(name, file.sha256) for name, file in files.items()]
    told = {name: about[name] for name in ("kind", "edition", "issued_at", "supersedes")}
    verdict = document["outcome"] if certificate else document["finding"]["verdict"]
    predicate = {"document_id": about["id"], **told, "outcome" if certificate else "verdict": verdict}
    (folder / ENVELOPE).write_bytes(sign(key, [*subjects, *checkpoints.items()], kind, predicate))
    files[ENVELOPE] = _described(folder / ENVELOPE)
    return Written(
        files=files,
        document_id=uuid.UUID(about["id"]),
        edition=about["edition"],
        supersedes=uuid.UUID(about["supersedes"]) if about["supersedes"] else None,
        key_id=key.key_id,
        verdict=verdict,
    )


def _described(path: Path) -> OutputFile:
    return OutputFile(name=path.name, sha256=artifacts.sha256_of(path), size=path.stat().st_size)
