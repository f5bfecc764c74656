"""A large body on its way to the disk: written, hashed and counted in blocks, never whole in memory."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from models import artifacts
from service.errors import NoSpace, Unprocessable
from service.safetensors_header import LENGTH, NotSafetensors, data_length, header_length

BLOCK = 1 << 20
SPARE = 64 << 20  # bytes of the disk that uploads leave to the database and to jobs


class Draft:
    """A file `.<sha256>.<random>` in the folder of uploads while it arrives; ``keep=False`` only hashes and counts.

    ``announced``: bytes that are to come, 0 where nobody said. Raises NoSpace where the disk has no room for them.
    """

    def __init__(self, folder: Path, sha256: str, announced: int, *, keep: bool) -> None:
        self.sha256 = sha256
        self.size = 0
        self._digest = hashlib.sha256()
        self._head = b""
        self._head_length: int | None = None
        self._data_length: int | None = None
        self._folder = folder
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
            require_space(folder, announced)
        self._path = folder / f".{sha256}.{secrets.token_hex(8)}" if keep else None
        self._file = self._path.open("xb") if self._path is not None else None

    def write(self, block: bytes) -> None:
        """Raises Unprocessable as soon as it cannot be safetensors, NoSpace where the disk is full."""
        self._digest.update(block)
        self.size += len(block)
        if self._data_length is None:
            self._look(block)
        if self._file is None:
            return
        require_space(self._folder, len(block))
        try:
            self._file.write(block)
        except OSError as error:
            raise _full(error) from error

    def finish(self) -> None:
        """Raises Unprocessable unless the file is complete and its hash is the announced one; then it is on the disk."""
        if self._data_length is None or self._head_length is None:
            raise _refused("it ends within its header")
        if self.size != self._head_length + self._data_length:
            raise _refused(f"its header describes {self._head_length + self._data_length:,} bytes, {self.size:,} came")
        if self._digest.hexdigest() != self.sha256:
            raise Unprocessable(
                "The body does not have the sha256 that the path names: send the file again, or correct the path.",
                errors=[{"parameter": "sha256", "detail": f"the body has {self._digest.hexdigest()}"}],
            )
        if self._file is not None:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise _full(error) from error
            self._file.close()

    def publish(self, target: Path) -> None:
        """Move the finished file to its place, durably."""
        if self._path is not None:
            os.replace(self._path, target)
            artifacts.sync_folder(target.parent)

    def discard(self) -> None:
        """Nothing stays of what was not published. Quick enough to run where no thread can be waited for any more."""
        if self._file is not None and self._path is not None:
            try:
                self._file.close()
            except OSError:  # what a full disk did not take
                pass
            self._path.unlink(missing_ok=True)

    def _look(self, block: bytes) -> None:
        self._head += block
        try:
            if self._head_length is None and len(self._head) > LENGTH.size:
                self._head_length = header_length(self._head)
            if self._head_length is not None and len(self._head) >= self._head_length:
                self._data_length = data_length(self._head[: self._head_length])
                self._head = b""
        except NotSafetensors as error:
            raise _refused(str(error)) from None


async def receive(stream: AsyncIterator[bytes], draft: Draft) -> None:
    """Write a body into the draft and finish it; the work on blocks of 1 MiB is done by threads."""
    pending, size = [], 0
    async for chunk in stream:
        pending.append(chunk)
        size += len(chunk)
        if size >= BLOCK or draft.size == 0:  # the first one at once: what is no safetensors is refused by its start
            await run_in_threadpool(draft.write, b"".join(pending))
            pending, size = [], 0
    await run_in_threadpool(draft.write, b"".join(pending))
    await run_in_threadpool(draft.finish)


def require_space(folder: Path, size: int) -> None:
    """Raises NoSpace unless the disk takes ``size`` more bytes and keeps some to spare."""
    free = artifacts.free_bytes(folder)
    if free < size + SPARE:
        raise NoSpace(
            f"The disk has {max(0, free - SPARE):,} bytes for uploads: free some there, or ask the operator of the machine."
        )


def _full(error: OSError) -> Exception:
    if artifacts.is_full_disk(error):
        return NoSpace("The disk is full: free some space there, or ask the operator of the machine.")
    return error


def _refused(why: str) -> Unprocessable:
    return Unprocessable(f"The body is not a safetensors file: {why}. Send the file itself, saved by safetensors.")
