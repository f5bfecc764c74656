"""docs/api.md is run as a reader would run it: every shell block, from top to bottom, against the embedded service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.settings import Settings
from tests.conftest import missing
from tests.e2e.conftest import PATIENCE_SECONDS, Service
from tests.service.webhooks.receiver import receiver

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "api.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """As `amun up` starts it; webhooks may point to this machine, for there is no other."""
    settings = Settings(
        data_dir=tmp_path / "data", dispatch_seconds=0.5, threads=1, seed=1, webhook_networks="127.0.0.0/8"
    )
    made = Service(settings, application="default")
    with made.embedded:
        yield made
        made.close()


def test_every_command_of_the_page_does_what_it_says(service: Service, tmp_path: Path) -> None:
    for program in ("curl", "jq"):
        if shutil.which(program) is None:
            missing(program)
    script = "\n".join(["set -euo pipefail", *BLOCK.findall(PAGE.read_text(encoding="utf-8"))])
    folder = tmp_path / "reader"
    folder.mkdir()
    with receiver() as hook:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "API": service.embedded.url,
            "HOOK": f"http://127.0.0.1:{hook.port}/amun",
            **{role.name: key for role, key in service.keys.items()},
        }
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, said
        types = {json.loads(message.body)["type"] for message in hook.received}
    assert "webhook.test" in types, said
    for name in ("report.pdf", "report.zip", "certificate.zip", "model.safetensors"):
        assert (folder / name).stat().st_size > 1000, name
