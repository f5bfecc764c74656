"""The command line on the real routes that decide, preview, search, follow, upload and tell."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from models.base import now
from models.records import DeletionRequest, Job, JobKind, JobStatus, record_event
from service.duties.sealing import seal_events
from tests.service.cli.conftest import Amun
from tests.service.conftest import Headers, World

CREATE = ("requests", "create", "--training-set", "digits")


@pytest.fixture(autouse=True)
def _set(digits: uuid.UUID) -> None:
    """Every test has the training set `digits` and its model."""


def made(amun: Amun, shop: Headers, *options: object) -> str:
    done = amun(shop, *CREATE, *options, "--json")
    assert done.status == 0, done.err
    return str(done.json["id"])


# lists
def test_real_filters_and_searches(amun: Amun, world: World, shop: Headers, operator: Headers) -> None:
    first, second, third = (made(amun, shop, "--index", index, "--external-id", f"crm-{index}") for index in (1, 2, 5))
    with world.database.write() as session:
        late = DeletionRequest.id == uuid.UUID(second)
        session.execute(update(DeletionRequest).where(late).values(due_at=now() - timedelta(days=2)))
    assert [each["id"] for each in amun(operator, "requests", "list", "--overdue", "--json").json] == [second]
    assert "2 days overdue" in amun(operator, "requests", "list", "--overdue").out
    both = amun(operator, "requests", "list", "--status", "queued", "--status", "on_hold", "--json").json
    assert [each["id"] for each in both] == [third, second, first]
    due = amun(operator, "requests", "list", "--sort", "due", "--json").json
    assert [each["id"] for each in due] == [second, first, third]
    assert [each["id"] for each in amun(shop, "requests", "search", "--external-id", "crm-1", "--json").json] == [first]
    person = amun(shop, "requests", "search", "--subject-file", "-", "--limit", 1, "--json", stdin="user-42\n")
    assert [each["id"] for each in person.json] == [third]


def test_a_real_preview(amun: Amun, shop: Headers) -> None:
    preview = (*CREATE, "--key", "train/00002", "--preview")
    done = amun(shop, *preview)
    assert done.status == 0, done.err
    assert "digits-cnn" in done.out
    assert amun(shop, *preview, "--json").json["accepted"] is True
    assert amun(shop, *CREATE, "--key", "nothing", "--preview").status == 1
    assert amun(shop, "requests", "list", "--json").json == []


# life
def test_real_decisions(amun: Amun, shop: Headers, operator: Headers) -> None:
    request = made(amun, shop, "--index", 1)
    for what, status in (("hold", "on_hold"), ("resume", "queued"), ("extend", "queued")):
        done = amun(operator, "requests", what, request, "--reason", "why", "--json")
        assert (done.status, done.json["status"]) == (0, status), done.err
    assert "extended" in amun(operator, "requests", "show", request).out
    assert amun(operator, "requests", "extend", request, "--reason", "again").status == 3
    done = amun(shop, "requests", "cancel", request)
    assert (done.status, done.out) == (0, "")
    assert "cancelled" in done.err
    assert amun(shop, "requests", "watch", request).status == 1
    assert amun(shop, "requests", "cancel", request).status == 3


def test_real_job_decisions(amun: Amun, world: World, operator: Headers) -> None:
    job = world.job("digits-cnn", JobKind.UNLEARN, JobStatus.QUEUED)
    done = amun(operator, "jobs", "cancel", job, "--reason", "why", "--json")
    assert (done.status, done.json["status"]) == (0, "cancelled"), done.err
    assert amun(operator, "jobs", "watch", job).status == 1
    assert str(job) in amun(operator, "jobs", "list").out
    assert "cancelled" in amun(operator, "jobs", "show", job).out
    assert amun(operator, "models", "retire", "digits-cnn", "--reason", "replaced").status == 0
    assert amun(operator, "models", "show", "digits-cnn", "--json").json["status"] == "retired"


# follow
def test_a_real_stream(amun: Amun, world: World, operator: Headers) -> None:
    import threading

    job = world.job("digits-cnn", JobKind.UNLEARN, JobStatus.RUNNING)
    with world.database.write() as session:
        record_event(session, "job.started", "job", job, "test")
    seal_events(world.database)

    def step(progress: float, **values: Any) -> None:
        with world.database.write() as session:
            session.execute(update(Job).where(Job.id == job).values(progress=progress, **values))

    timers = [
        threading.Timer(1.0, step, (0.5,), {"phase": "finetune"}),
        threading.Timer(2.5, step, (1.0,), {"status": JobStatus.SUCCEEDED, "finished_at": now()}),
    ]
    for timer in timers:
        timer.start()
    done = amun(operator, "jobs", "watch", job, "--json")
    for timer in timers:
        timer.join()
    assert (done.status, done.json["status"]) == (0, "succeeded"), done.err
    assert "job.started" in done.err
    assert "finetune (50 %)" in done.err


def test_a_real_upload(amun: Amun, operator: Headers, tmp_path: Path) -> None:
    import json
    import struct

    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    file = tmp_path / "m.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"name": "x", "training_set": "nothing", "network": {}, "recipe": {}}))
    done = amun(operator, "models", "create", "--file", model, "--checkpoint", file)
    assert done.status == 3
    assert "sent " in done.err
    file.write_bytes(b"no safetensors at all")
    done = amun(operator, "models", "create", "--file", model, "--checkpoint", file)
    assert done.status == 3
    assert "not a safetensors file" in done.err


# hooks
def test_real_webhooks(amun: Amun, shop: Headers) -> None:
    done = amun(shop, "webhooks", "create", "https://93.184.215.14/amun", "--event", "certificate.issued", "--json")
    assert done.status == 0, done.err
    hook = done.json["id"]
    assert hook in amun(shop, "webhooks", "list").out
    assert "certificate.issued" in amun(shop, "webhooks", "show", hook).out
    sent = amun(shop, "webhooks", "test", hook, "--json")
    assert sent.status == 0, sent.err
    number = sent.json["number"]
    assert "webhook.test" in amun(shop, "webhooks", "deliveries", hook).out
    assert "webhook.test" in amun(shop, "webhooks", "delivery", hook, number).out
    assert amun(shop, "webhooks", "redeliver", hook, number).status in (0, 3)
    assert amun(shop, "webhooks", "rotate-secret", hook).status == 0
    assert amun(shop, "webhooks", "enable", hook).status == 0
    assert amun(shop, "webhooks", "delete", hook).status == 0
    assert amun(shop, "webhooks", "show", hook).status == 3
