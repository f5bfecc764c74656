"""/v1/training-sets"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from models.records import Application, Event, Job, JobKind, JobStatus, TrainingSet, TrainingSetStatus
from service.app import create_app

Headers = dict[str, str]


def body(**changes: Any) -> dict[str, Any]:
    return {
        "name": "digits",
        "applications": ["shop"],
        "source": {"kind": "builtin", "path": "digits"},
        "controls": {"share": 0.3},
        **changes,
    }


def count(world: Any, record: type[Any]) -> int:
    with world.database.read() as session:
        return int(session.scalar(select(func.count()).select_from(record)))


def test_a_registration_is_accepted_with_its_job(client: TestClient, world: Any, operator: Headers) -> None:
    answer = client.post("/v1/training-sets", headers=operator, json=body())
    assert answer.status_code == 202
    assert answer.headers["Location"] == "/v1/training-sets/digits"
    assert answer.json()["training_set"]["status"] == "registering"
    with world.database.read() as session:
        job = session.scalars(select(Job)).one()
        assert (str(job.id), job.kind, job.status) == (answer.json()["job"]["id"], JobKind.REGISTER, JobStatus.QUEUED)
        assert {event.name for event in session.scalars(select(Event))} == {"training_set.accepted", "job.queued"}


def test_applications_that_do_not_exist_are_made_and_granted_once(
    client: TestClient, world: Any, operator: Headers, shop: Headers
) -> None:
    client.post("/v1/training-sets", headers=operator, json=body(applications=["shop", "new", "shop"]))
    assert client.get("/v1/training-sets/digits", headers=operator).json()["applications"] == ["new", "shop"]
    assert count(world, Application) == 2


def test_a_name_that_is_taken_is_refused(client: TestClient, world: Any, operator: Headers) -> None:
    assert client.post("/v1/training-sets", headers=operator, json=body()).status_code == 202
    answer = client.post("/v1/training-sets", headers=operator, json=body())
    assert answer.status_code == 409
    assert answer.json()["errors"][0]["pointer"] == "#/name"
    assert (count(world, TrainingSet), count(world, Job)) == (1, 1)


@pytest.mark.parametrize("path", ["../secrets", "a/../../b", "/etc", "a/..", "..", "", "a\0b", "a\\..\\b", "./..", "/"])
def test_a_path_that_leaves_the_import_root_is_refused(
    path: str, tmp_path: Path, world: Any, operator: Headers
) -> None:
    settings = world.settings.model_copy(update={"import_root": tmp_path})
    with TestClient(create_app(settings, dispatch=False)) as client:
        source = {"kind": "folder", "path": path}
        answer = client.post("/v1/training-sets", headers=operator, json=body(source=source))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/source/path"
    assert count(world, Job) == 0


def test_a_folder_below_the_import_root_is_accepted(tmp_path: Path, world: Any, operator: Headers) -> None:
    settings = world.settings.model_copy(update={"import_root": tmp_path})
    with TestClient(create_app(settings, dispatch=False)) as client:
        source = {"kind": "folder", "path": "cifar/train..v2"}
        answer = client.post(
            "/v1/training-sets", headers=operator, json=body(source=source, controls={"folder": "test"})
        )
    assert answer.status_code == 202
    assert answer.json()["training_set"]["controls"] == {"folder": "test"}


SOURCES = [
    {"kind": "folder", "path": "x"},
    {"kind": "arrays", "path": "faces.npz"},
    {"kind": "torchvision", "path": "x", "dataset": "FashionMNIST"},
]


@pytest.mark.parametrize("source", SOURCES)
def test_folders_and_files_need_an_import_root(source: dict[str, str], client: TestClient, operator: Headers) -> None:
    answer = client.post("/v1/training-sets", headers=operator, json=body(source=source))
    assert answer.status_code == 422
    assert "AMUN_IMPORT_ROOT" in answer.json()["detail"]


@pytest.mark.parametrize("controls", [{"folder": "test"}, {"share": 0.5}])
@pytest.mark.parametrize("source", [*SOURCES, SOURCES[0] | {"subjects": "subjects.csv"}])
def test_every_source_below_the_import_root_is_accepted_as_it_was_asked_for(
    source: dict[str, str], controls: dict[str, Any], tmp_path: Path, world: Any, operator: Headers
) -> None:
    settings = world.settings.model_copy(update={"import_root": tmp_path})
    with TestClient(create_app(settings, dispatch=False)) as client:
        answer = client.post("/v1/training-sets", headers=operator, json=body(source=source, controls=controls))
    assert answer.status_code == 202, answer.text
    made = answer.json()["training_set"]
    assert (made["source"], made["controls"], made["near_duplicates"]) == (source, controls, None)


@pytest.mark.parametrize("kind", ["arrays", "torchvision"])
@pytest.mark.parametrize("path", ["../x.npz", "/etc/x.npz", "a/../../x.npz"])
def test_files_outside_the_import_root_are_refused(
    kind: str, path: str, tmp_path: Path, world: Any, operator: Headers
) -> None:
    settings = world.settings.model_copy(update={"import_root": tmp_path})
    source = {"kind": kind, "path": path} | ({"dataset": "CIFAR10"} if kind == "torchvision" else {})
    with TestClient(create_app(settings, dispatch=False)) as client:
        answer = client.post("/v1/training-sets", headers=operator, json=body(source=source))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/source/path"


def test_a_set_shows_how_near_duplicates_were_searched_for(
    client: TestClient, world: Any, digits: uuid.UUID, operator: Headers
) -> None:
    found = {"method": "thumbnails", "searched": 40, "threshold": 0.05, "pairs": 3}
    with world.database.write() as session:
        session.get_one(TrainingSet, digits).near_duplicates = found
    assert client.get("/v1/training-sets/digits", headers=operator).json()["near_duplicates"] == found


@pytest.mark.parametrize(
    "changes",
    [
        {"controls": {}},
        {"controls": {"share": 0.3, "folder": "test"}},
        {"controls": {"share": 0}},
        {"controls": {"share": 1}},
        {"controls": {"folder": "test"}},
        {"controls": {"share": "NaN"}},
        {"source": {"kind": "builtin", "path": "faces"}},
        {"source": {"kind": "arrays", "path": "x"}},
        {"source": {"kind": "url", "path": "x"}},
        {"source": {"kind": "folder", "path": "x", "subjects": "../subjects.csv"}},
        {"source": {"kind": "folder", "path": "x", "subjects": ".."}},
        {"source": {"kind": "folder", "path": "x", "subjects": ""}},
        {"source": {"kind": "folder", "path": "x", "subjects": "a\n.csv"}},
        {"source": {"kind": "arrays", "path": "x", "subjects": "subjects.csv"}},
        {"source": {"kind": "torchvision", "path": "x"}},
        {"source": {"kind": "torchvision", "path": "x", "dataset": "CIFAR100"}},
        {"source": {"kind": "torchvision", "path": "x", "dataset": "CIFAR10"}, "controls": {"folder": "train"}},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "a" * 129},
        {"applications": ["-x"]},
        {"applications": "shop"},
    ],
    ids=str,
)
def test_a_registration_that_makes_no_sense_writes_nothing(
    changes: dict[str, Any], client: TestClient, world: Any, operator: Headers
) -> None:
    assert client.post("/v1/training-sets", headers=operator, json=body(**changes)).status_code == 422
    assert (count(world, TrainingSet), count(world, Job), count(world, Event)) == (0, 0, 0)


def test_a_fixed_seed_makes_the_job_repeatable(world: Any, operator: Headers) -> None:
    settings = world.settings.model_copy(update={"seed": 7})
    with TestClient(create_app(settings, dispatch=False)) as client:
        client.post("/v1/training-sets", headers=operator, json=body())
    with world.database.read() as session:
        # sha256("7\0register\0digits"), its first 62 bits
        assert session.scalar(select(Job.seed)) == 1683035608110612871


def test_an_unknown_set_is_not_found(client: TestClient, operator: Headers) -> None:
    assert client.get("/v1/training-sets/nothing", headers=operator).status_code == 404


def test_a_failed_registration_shows_its_reason(client: TestClient, world: Any, operator: Headers) -> None:
    set_id = world.training_set("broken", "shop", TrainingSetStatus.FAILED)
    with world.database.write() as session:
        session.get_one(TrainingSet, set_id).error = {"code": "data_error", "detail": "cat/1.png is not an image"}
    answer = client.get("/v1/training-sets/broken", headers=operator).json()
    assert answer["error"] == {"code": "data_error", "detail": "cat/1.png is not an image"}


def test_a_search_finds_rows_and_their_copies(client: TestClient, digits: uuid.UUID, operator: Headers) -> None:
    answer = client.post(
        "/v1/training-sets/digits/samples/search",
        headers=operator,
        json={"samples": [{"key": "train/00002"}, {"subject": "user-42"}, {"key": "nothing"}]},
    ).json()
    assert [outcome["outcome"] for outcome in answer["samples"]] == ["matched", "matched", "not_found"]
    assert [row["index"] for row in answer["data"]] == [2, 3, 5, 6, 45]
    assert answer["data"][0]["key"] == "train/00002"
    assert answer["data"][4]["split"] == "control"
