"""What every process of these tests needs, imported once: the application has its routes built by a first request."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from starlette.testclient import TestClient

import service.webhooks.sending
import worker.tasks
from models.log import configure_logging
from models.settings import Settings
from service import schema
from service.app import create_app
from worker import report

# The application imports these where it first needs them, which would be in each of the hundreds of processes anew.
LATE = (
    "celery.app.amqp",
    "celery.backends.base",
    "celery.events.receiver",
    "kombu.simple",
    "kombu.transport.redis",
    "opentelemetry.sdk.metrics",
    "psycopg",
    "worker.report.plots",
)

for name in LATE:
    importlib.import_module(name)
configure_logging()
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(data_dir=Path(folder))
    schema.upgrade(settings)
    APPLICATION = create_app(settings, dispatch=False)
    with TestClient(APPLICATION) as client:
        client.post("/v1/deletion-requests", json={})

__all__ = ["APPLICATION", "report", "service", "worker"]
