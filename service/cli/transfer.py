"""Files to and from the service, each checked by its sha256."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import typer

from service.cli.bars import counted
from service.cli.client import Api
from service.cli.output import print_json
from service.cli.stopped import Damaged

CHUNK = 1 << 20
UPLOAD_SECONDS = 600.0  # the service answers once the last byte is on its disk
ETAG = re.compile(r'(?:W/)?"([0-9a-f]{64})"')


def download(api: Api, path: str, target: Path) -> str:
    """Save what is at ``path`` and return its sha256. The file appears whole or not at all.

    Raises Damaged where it is not what the header ETag says, typer.BadParameter where ``target`` cannot be written.
    """
    with api.stream(path) as answer:
        said = ETAG.fullmatch(answer.headers.get("ETag", ""))
        if said is None:
            raise Damaged(f"The service did not say which sha256 {path} has: nothing was saved.")
        length = answer.headers.get("Content-Length", "")
        try:
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except OSError as error:
            raise typer.BadParameter(f"cannot write to {target.parent}: {error.strerror}") from None
        partial = Path(name)
        try:
            digest = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as file, counted(target.name, int(length) if length else None) as counter:
                for block in answer.iter_bytes(CHUNK):
                    file.write(block)
                    digest.update(block)
                    counter.add(len(block))
            if digest.hexdigest() != said[1]:
                raise Damaged(
                    f"What arrived has sha256 {digest.hexdigest()}, not {said[1]}: nothing was saved. Try again."
                )
            partial.chmod(0o666 & ~_umask())  # mkstemp made it for this user alone
            try:
                partial.replace(target)
            except OSError as error:
                raise typer.BadParameter(f"cannot write to {target}: {error.strerror}") from None
        finally:
            partial.unlink(missing_ok=True)
    return digest.hexdigest()


def saved(api: Api, target: Path, sha256: str, shown: str) -> None:
    """Where a download is: ``shown`` for people; standard output is JSON where it must be."""
    if api.machine:
        print_json({"file": str(target), "sha256": sha256})
    else:
        print(shown)


def upload(api: Api, file: Path) -> str:
    """Send a checkpoint and return its sha256, under which the service keeps it."""
    try:
        size = file.stat().st_size
        sha256 = _hash(file, size)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None
    with counted(f"send {file.name}", size) as counter:

        def content() -> Iterator[bytes]:
            counter.restart()
            for block in _blocks(file):
                yield block
                counter.add(len(block))

        api.put(f"/v1/uploads/{sha256}", content, size, UPLOAD_SECONDS)
    return sha256


def _hash(file: Path, size: int) -> str:
    digest = hashlib.sha256()
    with counted(f"hash {file.name}", size) as counter:
        for block in _blocks(file):
            digest.update(block)
            counter.add(len(block))
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(CHUNK):
            yield block


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
