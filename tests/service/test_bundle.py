"""A bundle has the same bytes every time, and all that is needed to check it but the key."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import pytest

from models import verify
from service.bundle import bundle

CONTENTS = {"report.json": b"{}", "envelope.json": b"{}", "report.pdf": b"%PDF"}


def test_a_bundle_holds_the_files_the_verifier_and_how_to_use_it() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle(CONTENTS))) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found.keys() == {*CONTENTS, "verify.py", "README.txt"}
    assert {name: found[name] for name in CONTENTS} == CONTENTS
    assert found["verify.py"] == Path(verify.__file__).read_bytes()
    assert b"pip install cryptography" in found["README.txt"]
    assert b"jwks.json" in found["README.txt"]


def test_a_bundle_has_the_same_bytes_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bundle(CONTENTS)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert bundle(dict(reversed(CONTENTS.items()))) == first
