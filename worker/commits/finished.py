"""What a job that is about to be committed has made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.claim import Claim
from worker.plan import OutputFile
from worker.reporting import Written


class Overtaken(RuntimeError):
    """What the job started from is not served any more: what it made knows what another version has forgotten since."""


@dataclass(frozen=True)
class Finished:
    """``folder`` is the staging folder; ``relative`` the place, below the data folder, of the published files."""

    taken: Claim
    folder: Path
    relative: str
    files: dict[str, OutputFile]
    outcome: dict[str, Any]
    written: Written | None

    @property
    def documents(self) -> Written:
        """Raises ValueError where the job writes none."""
        if self.written is None:
            raise ValueError(f"a job of kind {self.taken.job.kind.value} writes no documents")
        return self.written

    def path(self, name: str) -> str:
        return f"{self.relative}/{name}"
