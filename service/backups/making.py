"""Make a backup, and check one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models import artifacts, chain
from models.base import now
from models.records import record_event
from models.revisions import HEAD
from models.session import Database
from models.settings import Settings
from service.backups import databases, keeping, ledger

MANIFEST, LEDGER, FILES, SECRETS = "manifest.json", "ledger.jsonl", "files", "secrets"
FOLDERS = ("store", "uploads")  # staging is an attempt's own, and goes with it
FORMAT = 1
WAIT_SECONDS = 600.0


class NotABackup(RuntimeError):
    """The folder is no finished backup, or one that was changed; the message says where."""


@dataclass(frozen=True)
class Made:
    folder: Path
    files: int
    size: int  # bytes


def make(settings: Settings, folder: Path, *, with_secrets: bool = True) -> Made:
    """A backup in a new folder, which counts once its manifest is there.

    Raises FileExistsError, keeping.Busy and databases.CannotCopy.
    """
    folder.mkdir(mode=0o700, parents=True)
    name = f"{now():%Y%m%dT%H%M%S.%fZ}"
    database = Database(settings.database)
    try:
        with database.write() as session:
            record_event(session, "backup.begun", "backup", name, ledger.ACTOR, secrets=with_secrets)
        with keeping.copying(settings.data_dir, WAIT_SECONDS):
            copied = databases.copy(settings, folder)
            with database.read() as session:
                head = chain.head_of_log(session)
                write_ledger(session, folder / LEDGER)
            for name in FOLDERS:
                _copy_tree(settings.data_dir / name, folder / FILES / name)
        if with_secrets:
            _copy_tree(settings.secrets, folder / SECRETS)
    finally:
        database.dispose()
    files = {path.relative_to(folder).as_posix(): _described(path) for path in _files(folder)}
    manifest = {
        "format": FORMAT,
        "name": name,  # as the log has it
        "made_at": now().isoformat(),
        "release": version("amun-service"),
        "revision": HEAD,
        "database": copied.name,
        "head": {"position": head.position, "hash": head.hash} if head is not None else None,
        "secrets": with_secrets,
        "files": files,
    }
    artifacts.write_durably(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)  # the folder itself was closed from the beginning
    return Made(folder, len(files), sum(each["size"] for each in files.values()))


def write_ledger(session: Any, path: Path) -> int:
    """Write the ledger durably, mode 0600; returns its number of lines."""
    lines = [json.dumps(entry, sort_keys=True) for entry in ledger.entries(session)]
    artifacts.write_durably(path, "".join(line + "\n" for line in lines).encode())
    os.chmod(path, 0o600)
    return len(lines)


def check(folder: Path) -> dict[str, Any]:
    """The manifest of a backup whose every file is what was written. Raises NotABackup."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise NotABackup(f"{folder} holds no {MANIFEST}: it is no backup, or one that was not finished") from None
    except ValueError:
        raise NotABackup(f"the {MANIFEST} of {folder} cannot be read") from None
    if manifest.get("format") != FORMAT:
        raise NotABackup(f"the backup has format {manifest.get('format')}, this release reads {FORMAT}")
    listed = manifest["files"]
    there = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
    for name in sorted(there ^ set(listed)):
        raise NotABackup(f"{name} is {'missing' if name in listed else 'not in the manifest'}")
    for name, described in listed.items():
        if _described(folder / name) != described:
            raise NotABackup(f"{name} is not what was written")
    return manifest


def _copy_tree(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700, parents=True)
    for path in _files(source):
        to = target / path.relative_to(source)
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, to)
        except FileNotFoundError:  # an upload that was deleted, an attempt that was fenced: no row needs it
            continue
        with to.open("rb") as file:
            os.fsync(file.fileno())


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}
