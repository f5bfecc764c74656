"""Examples of every body and answer, from a run of the service, and of every parameter, for the OpenAPI document."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

SCHEMAS: dict[str, Any] = json.loads(files("service").joinpath("examples.json").read_text(encoding="utf-8"))

# Description, where the route gives none of its own, and an example.
PARAMETERS: dict[str, tuple[str, Any]] = {
    "status": ("Those in this state.", None),
    "limit": ("Records on a page.", 50),
    "name": ("Name given at registration.", "digits-cnn"),
    "number": ("Number, counted from 1.", 2),
    "sha256": ("Of the file, in hexadecimal digits.", SCHEMAS["UploadAnswer"]["sha256"]),
    "if-none-match": ("ETag that the caller has.", f'"{SCHEMAS["VersionAnswer"]["sha256"]}"'),
    "idempotency-key": ("Chosen by the caller.", "crm-9911"),
    "model": ("Name of a model.", "digits-cnn"),
    "training_set": ("Name of a training set.", "digits"),
    "regulation": ("That the request names.", "GDPR"),
    "due_before": ("Due before then.", "2026-12-25T00:00:00Z"),
    "overdue": ("Due before now.", True),
    "sort": ("Order of the list.", "due"),
    "request_id": ("Id of the deletion request.", SCHEMAS["RequestAnswer"]["id"]),
    "kind": ("What the job does.", "unlearn"),
    "job_id": ("Id of the job.", SCHEMAS["JobAnswer"]["id"]),
    "Last-Event-ID": ("Of a stream that broke off.", "13"),
    "verdict": ("Of the audit.", "pass"),
    "from": ("Made at or after.", "2026-11-01T00:00:00Z"),
    "to": ("Made before.", "2026-12-01T00:00:00Z"),
    "report_id": ("Id of the report.", SCHEMAS["ReportAnswer"]["id"]),
    "record": ("Kind of record.", "job"),
    "record_id": ("One record of that kind.", SCHEMAS["JobAnswer"]["id"]),
    "webhook_id": ("Id of the webhook.", SCHEMAS["WebhookAnswer"]["id"]),
}
