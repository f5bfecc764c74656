"""The OpenAPI document as a file beside the tests: ``python -m tests.service.snapshot`` writes it anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from models.settings import Settings
from service.app import create_app

SNAPSHOT = Path(__file__).with_name("openapi.json")


def current(data_dir: Path) -> dict[str, Any]:
    return create_app(Settings(data_dir=data_dir), dispatch=False).openapi()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(current(Path(folder)), indent=1, sort_keys=True, ensure_ascii=False)
    SNAPSHOT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
