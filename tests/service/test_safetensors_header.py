"""What the front end takes for safetensors."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
from starlette.testclient import TestClient

from models.settings import Settings
from service.safetensors_header import LONGEST
from tests.service.sent import Headers, checkpoint, files, put


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    """What a file is does not depend on the database: one is enough."""
    return sqlite_settings


def headed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends within its header"),
        (b"\x10\0\0\0", "ends within its header"),
        (pickle.dumps({"weight": [1.0] * 10}), "a pickle"),
        (b"PK\x03\x04" + bytes(100), "torch.save"),
        (b"\x89HDF\r\n\x1a\n" + bytes(10), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (struct.pack("<Q", LONGEST + 1) + b"{" + bytes(10), "do not announce"),
        (struct.pack("<Q", 64) + b"[" + bytes(80), "do not announce"),
        (struct.pack("<Q", 1000) + b"{" + bytes(80), "ends within its header"),
        (headed(b'{"weight": '), "not JSON"),
        (headed(b'{"\xff": 1}'), "not JSON"),
        (headed(b'{"a":' + b"[" * 100_000), "not JSON"),
        (headed(b"{}"), "no tensor"),
        (headed(json.dumps({"__metadata__": {}}).encode()), "no tensor"),
        (headed(json.dumps({"weight": 1}).encode(), bytes(4)), "without dtype"),
        (headed(json.dumps({"weight": {**TENSOR, "shape": [True]}}).encode(), bytes(4)), "without dtype"),
        (headed(json.dumps({"weight": {**TENSOR, "data_offsets": [4, 0]}}).encode(), bytes(4)), "without dtype"),
        (headed(json.dumps({"a": TENSOR, "b": TENSOR}).encode(), bytes(4)), "overlap"),
        (headed(json.dumps({"a": {**TENSOR, "data_offsets": [4, 8]}}).encode(), bytes(8)), "gap"),
        (checkpoint()[:-1], "came"),
        (checkpoint() + b"\0", "came"),
    ],
    ids=lambda part: part[:12] if isinstance(part, str) else None,
)
def test_what_is_no_safetensors_is_refused_and_leaves_nothing(
    content: bytes, said: str, client: TestClient, settings: Settings, operator: Headers
) -> None:
    answer = put(client, operator, content)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert files(settings) == []


def test_a_header_that_begins_like_a_pickle_is_none(client: TestClient, operator: Headers) -> None:
    text = json.dumps({"weight": TENSOR}).encode()
    content = headed(text + b" " * (0x0280 - len(text)), bytes(4))
    assert content.startswith(b"\x80\x02")
    assert put(client, operator, content).status_code == 201


def test_what_safetensors_itself_writes_is_taken(client: TestClient, operator: Headers) -> None:
    import torch
    from safetensors.torch import save

    content = save({"a": torch.zeros(3, 4), "b": torch.ones((), dtype=torch.int64), "empty": torch.zeros(0, 2)})
    assert put(client, operator, content).status_code == 201
