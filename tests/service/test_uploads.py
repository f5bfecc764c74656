"""/v1/uploads, and what becomes of uploads."""

from __future__ import annotations

import http.client
import json
import pickle
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from models import artifacts
from models.records import Event, Upload
from models.session import Database
from models.settings import Settings
from service import receiving, uploads
from tests.service.sent import Headers, checkpoint, files, put, sha
from tests.service.serving import eventually, serving


def events(database: Database, name: str) -> list[Event]:
    with database.read() as session:
        return list(session.scalars(select(Event).where(Event.name == name).order_by(Event.id)))


def test_an_upload_lies_under_its_hash_and_is_told_of(
    client: TestClient, settings: Settings, database: Database, operator: Headers
) -> None:
    content = checkpoint(metadata={"format": "pt"})
    answer = put(client, operator, content)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/uploads/{sha(content)}"
    body = answer.json()
    assert (body["sha256"], body["size"]) == (sha(content), len(content))
    assert files(settings) == [f"{sha(content)}.safetensors"]
    assert (settings.data_dir / "uploads" / files(settings)[0]).read_bytes() == content
    assert client.get(answer.headers["Location"], headers=operator).json() == body
    (received,) = events(database, "upload.received")
    assert (received.record, received.record_id) == ("upload", sha(content))
    assert received.actor == f"key:{operator['Authorization'].split('_')[1]}"
    with database.read() as session:
        row = session.scalars(select(Upload)).one()
        assert uploads.expires_at(settings, row) - row.created_at == timedelta(hours=24)
        assert body["expires_at"] > body["created_at"]


def test_the_same_again_is_compared_and_not_written_again(
    client: TestClient, settings: Settings, database: Database, operator: Headers
) -> None:
    content = checkpoint()
    first = put(client, operator, content).json()
    file = settings.data_dir / "uploads" / f"{sha(content)}.safetensors"
    before = file.stat()
    again = put(client, operator, content)
    assert (again.status_code, again.json()) == (200, first)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert put(client, operator, checkpoint(seed=2), sha(content)).status_code == 422
    assert len(events(database, "upload.received")) == 1


@pytest.mark.parametrize("damage", ["lost", "cut", "changed"])
def test_a_row_whose_file_was_damaged_is_repaired(
    damage: str, client: TestClient, settings: Settings, database: Database, operator: Headers
) -> None:
    content = checkpoint()
    put(client, operator, content)
    file = settings.data_dir / "uploads" / f"{sha(content)}.safetensors"
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(content[:-4] + (b"none" if damage == "changed" else b""))
    assert put(client, operator, content).status_code == 200
    assert file.read_bytes() == content
    assert [event.data["repaired"] for event in events(database, "upload.received")] == [False, True]


def test_a_body_with_another_hash_leaves_nothing(
    client: TestClient, settings: Settings, database: Database, operator: Headers
) -> None:
    answer = put(client, operator, checkpoint(), "0" * 64)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "sha256"
    assert files(settings) == []
    assert client.get("/v1/uploads", headers=operator).json()["data"] == []
    assert events(database, "upload.received") == []


@pytest.mark.parametrize("name", ["0" * 63, "0" * 65, "g" * 64, "A" * 64, "..", "0" * 64 + "%00"])
def test_a_path_that_is_no_hash_is_refused(name: str, client: TestClient, operator: Headers) -> None:
    assert put(client, operator, checkpoint(), name).status_code in (404, 405, 422)


def test_uploads_are_listed_a_page_at_a_time(client: TestClient, operator: Headers) -> None:
    made = sorted(put(client, operator, checkpoint(seed=seed)).json()["sha256"] for seed in range(5))
    found, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/uploads", headers=operator, params=query).json()
        found += [each["sha256"] for each in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == made
    assert client.get(f"/v1/uploads/{'0' * 64}", headers=operator).status_code == 404


def test_the_limit_holds_by_the_announced_length_and_by_counting(settings: Settings, operator: Headers) -> None:
    with serving(settings.model_copy(update={"upload_limit": 100_000})) as (_, url):
        announced = httpx.put(f"{url}/v1/uploads/{'0' * 64}", headers=operator, content=checkpoint(50_000))
        assert announced.status_code == 413
        assert "100,000" in announced.json()["detail"]
        content = checkpoint(50_000)
        chunks = (content[start : start + 4096] for start in range(0, len(content), 4096))
        counted = httpx.put(f"{url}/v1/uploads/{sha(content)}", headers=operator, content=chunks)
        assert counted.status_code == 413
        assert httpx.put(f"{url}/v1/uploads/{'0' * 64}", content=content[:1000]).status_code == 401
    assert files(settings) == []


def test_an_upload_is_streamed_in_blocks_and_a_client_that_leaves_leaves_no_file(
    settings: Settings, operator: Headers
) -> None:
    content = checkpoint(3_000_000)
    with serving(settings) as (_, url):
        address = urlsplit(url).netloc
        leaving = http.client.HTTPConnection(address)
        leaving.putrequest("PUT", f"/v1/uploads/{sha(content)}")
        for name, value in {**operator, "Content-Length": str(len(content))}.items():
            leaving.putheader(name, value)
        leaving.endheaders()
        leaving.send(content[: 5 << 20])
        folder = settings.data_dir / "uploads"
        assert eventually(lambda: any(file.stat().st_size >= 4 << 20 for file in drafts(folder)))
        leaving.close()
        assert eventually(lambda: files(settings) == [])
        chunks = (content[start : start + 70_000] for start in range(0, len(content), 70_000))
        answer = httpx.put(f"{url}/v1/uploads/{sha(content)}", headers=operator, content=chunks)
        assert answer.status_code == 201, answer.text
    assert (settings.data_dir / "uploads" / f"{sha(content)}.safetensors").read_bytes() == content


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob(".*")) if folder.exists() else []


@pytest.mark.fault(12)
def test_a_pickle_is_refused_before_the_rest_of_it_is_sent(settings: Settings, operator: Headers) -> None:
    with serving(settings) as (_, url):
        sending = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        sending.putrequest("PUT", f"/v1/uploads/{'0' * 64}")
        for name, value in {**operator, "Content-Length": str(1 << 30)}.items():
            sending.putheader(name, value)
        sending.endheaders()
        sending.send(pickle.dumps([1] * 100))
        answer = sending.getresponse()
        assert answer.status == 422
        assert "pickle" in json.loads(answer.read())["detail"]
        sending.close()
    assert files(settings) == []


@pytest.mark.fault(11)
def test_an_upload_that_the_disk_has_no_room_for_is_refused_before_it_is_sent(
    settings: Settings, operator: Headers
) -> None:
    free = artifacts.free_bytes(settings.data_dir)
    with serving(settings.model_copy(update={"upload_limit": 1 << 60})) as (_, url):
        sending = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        sending.putrequest("PUT", f"/v1/uploads/{'0' * 64}")
        for name, value in {**operator, "Content-Length": str(2 * free)}.items():
            sending.putheader(name, value)
        sending.endheaders()
        answer = sending.getresponse()
        assert answer.status == 507
        assert "disk" in json.loads(answer.read())["detail"]
        sending.close()
    assert files(settings) == []


@pytest.mark.fault(11)
def test_a_disk_that_fills_up_meanwhile_ends_the_upload(
    client: TestClient, settings: Settings, operator: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([receiving.SPARE + (1 << 30), receiving.SPARE + (2 << 20), receiving.SPARE])
    monkeypatch.setattr(artifacts, "free_bytes", lambda _: next(left))
    content = checkpoint(1_000_000)
    chunks = [content[start : start + (1 << 20)] for start in range(0, len(content), 1 << 20)]
    answer = client.put(f"/v1/uploads/{sha(content)}", headers=operator, content=iter(chunks))
    assert answer.status_code == 507
    assert files(settings) == []


def test_the_same_file_sent_twice_at_once_is_one_upload(settings: Settings, world: Any, operator: Headers) -> None:
    content = checkpoint(500_000)
    statuses: list[int] = []
    with serving(settings) as (_, url):

        def send() -> None:
            statuses.append(
                httpx.put(f"{url}/v1/uploads/{sha(content)}", headers=operator, content=content).status_code
            )

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [200, 200, 200, 201]
    assert files(settings) == [f"{sha(content)}.safetensors"]
