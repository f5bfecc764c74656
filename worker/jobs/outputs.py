"""The files a job leaves behind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from worker import plan as agreed
from worker.unlearning import images

CHECKPOINT = "checkpoint.safetensors"
PHI, MEMBERS = "phi.f32", "members.u8"
PIXELS, LABELS, DIGESTS, MANIFEST = "pixels.u8", "labels.i32", "digests.bin", "manifest.jsonl"
NEAR_DUPLICATES = "near_duplicates.jsonl"


class Outputs:
    """The files of one run. A file that is not complete never has its name."""

    def __init__(self, folder: Path, *, kept: bool = True) -> None:
        """Unless ``kept``, what is written goes nowhere: of several ranks one writes."""
        self.folder = folder
        self.names: list[str] = []
        self._kept = kept

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        if not self._kept:
            with open(os.devnull, "wb") as file:
                yield file
            return
        with images.durable(self.folder / name) as file:
            yield file
        self.names.append(name)

    def write(self, name: str, content: bytes) -> None:
        with self.open(name) as file:
            file.write(content)

    def listed(self) -> list[agreed.OutputFile]:
        return [
            agreed.OutputFile(name, sha256_of(self.folder / name), (self.folder / name).stat().st_size)
            for name in self.names
        ]

    def remove(self) -> None:
        while self.names:
            (self.folder / self.names.pop()).unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
