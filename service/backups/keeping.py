"""Who may overwrite files, and who copies them: never both at once. A lock on a file, so the end of a process frees it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".files.lock"
POLL_SECONDS = 0.1


class Busy(RuntimeError):
    """Files are being destroyed, or another backup is made, for longer than one waits."""


@contextmanager
def destroying(data_dir: Path) -> Iterator[bool]:
    """Whether files may be overwritten within the block; False while a backup copies them. Never waits."""
    with _opened(data_dir) as descriptor:
        yield _locked(descriptor, fcntl.LOCK_SH)


@contextmanager
def copying(data_dir: Path, seconds: float) -> Iterator[None]:
    """Nobody overwrites a file within the block. Raises Busy after so many seconds of waiting for those who do."""
    deadline = time.monotonic() + seconds
    with _opened(data_dir) as descriptor:
        while not _locked(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise Busy(f"files were being destroyed, or copied by another backup, for {seconds:.0f} s: try again")
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def _opened(data_dir: Path) -> Iterator[int]:
    descriptor = os.open(data_dir / NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
