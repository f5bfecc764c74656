"""The Celery application's name, task, queue and settings: JSON only, one id as argument, early acknowledgement."""

from __future__ import annotations

from typing import Any

from celery import Celery

from models import folder_broker
from models.settings import Settings

QUEUE = "amun"
RUN_TASK = "amun.run"


def celery_app(settings: Settings) -> Celery:
    """An application for publishing hints or, with tasks registered on it, for a worker."""
    app = Celery("amun")
    app.conf.update(
        broker_url=settings.broker_url or folder_broker.broker_url(),
        broker_transport_options=_transport_options(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=2,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_acks_late=False,  # the row's lease, not the broker, brings a lost job back
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=settings.broker_url is not None and settings.broker_url.startswith("redis"),
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        enable_utc=True,
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    if settings.broker_url:
        return {
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "global_keyprefix": "amun:",
        }
    folder = settings.data_dir / "broker"
    for name in ("messages", "processed", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "processed_folder": str(folder / "processed"),
        "control_folder": str(folder / "control"),
        "store_processed": False,
    }
