"""A client that was written from docs/api.md alone (reader.py) does the work of all three users against a live service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.settings import Settings
from tests.e2e.conftest import PATIENCE_SECONDS, Service

CLIENT = Path(__file__).with_name("reader.py")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Its webhooks may point to this machine, where the client has its receiver."""
    settings = Settings(
        data_dir=tmp_path / "data", dispatch_seconds=0.5, threads=1, seed=1, webhook_networks="127.0.0.0/8"
    )
    made = Service(settings, application="default")
    with made.embedded:
        yield made
        made.close()


def test_a_client_written_from_the_page_finds_every_promise_kept(service: Service) -> None:
    keys = {role.name: key for role, key in service.keys.items()}
    done = subprocess.run(
        [sys.executable, CLIENT],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "API": service.embedded.url,
            **keys,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
