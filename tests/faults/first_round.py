"""A round over an empty service, for what it compiles: most statements of a dispatcher's round are always the same.

Loaded by the server that acts are forked from, and by nothing else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from models.settings import Settings
from service import schema
from tests import compiled
from tests.faults.scene import Scene

compiled.share()
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(data_dir=Path(folder))
    schema.upgrade(settings)
    scene = Scene(settings)
    scene.round()
    scene.close()
