"""Files under the data folder: where they lie, how they are published, checked and overwritten.

``staging/<job>.<token>/`` belongs to one attempt of one job. ``store/<owner>/<job>.<token>/`` is what a committed row
names; nothing is shared between owners, and only a row makes a folder count.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

CHUNK = 1 << 20
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NotErased(RuntimeError):
    """A row that was overwritten did not read back as zeros."""


def staging(data_dir: Path, job: uuid.UUID, token: int) -> Path:
    return data_dir / "staging" / f"{job}.{token}"


def store(owner: uuid.UUID, job: uuid.UUID, token: int) -> str:
    """Relative folder of a job's published files."""
    return f"store/{owner}/{job}.{token}"


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Temporary file in the same folder, fsync, rename, fsync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def publish(staged: Path, data_dir: Path, relative: str) -> Path:
    """Move a staged folder to its place in the store, durably. The row that names it is committed afterwards."""
    for file in staged.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    sync_folder(staged)
    target = data_dir / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staged, target)
    sync_folder(target.parent)
    sync_folder(staged.parent)
    return target


def erase_rows(path: Path, row_size: int, indices: Iterable[int]) -> None:
    """Overwrite fixed-size rows with zeros, fsync, and read them back.

    Raises ValueError for a row outside the file and NotErased where a row does not read back as zeros.
    """
    zeros = bytes(row_size)
    rows = sorted(set(indices))
    size = path.stat().st_size
    if rows and (rows[0] < 0 or (rows[-1] + 1) * row_size > size):
        raise ValueError(f"row {rows[-1]} lies outside {path.name}")
    with path.open("r+b", buffering=0) as file:
        for row in rows:
            file.seek(row * row_size)
            file.write(zeros)
        os.fsync(file.fileno())
        for row in rows:
            file.seek(row * row_size)
            if file.read(row_size) != zeros:
                raise NotErased(f"row {row} of {path.name} still holds data")


def destroy(path: Path) -> None:
    """Overwrite a file with zeros, remove it, and look that it is gone; nothing happens where there is none.

    Raises NotErased where it is still there. No sanitisation of the medium: a file system may keep old blocks.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            left = path.stat().st_size
            while left > 0:
                left -= file.write(bytes(min(CHUNK, left)))
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        pass
    if path.exists():
        raise NotErased(f"{path.name} is still there")


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def is_full_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in FULL_DISK


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
