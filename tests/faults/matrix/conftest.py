"""The service's fixtures, a server of Redis to torment, a job, and a disk that is small enough to fill."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from models.records import Job, JobKind, TrainingSet
from models.session import Database
from tests.conftest import Server, find_program, free_port, missing
from tests.service.conftest import (  # noqa: F401
    application,
    client,
    compliance,
    digits,
    operator,
    shop,
    world,
)


@pytest.fixture
def job(database: Database) -> uuid.UUID:
    """A queued register job of a training set."""
    with database.write() as session:
        made = TrainingSet(name="set", source={"kind": "builtin", "path": "digits"}, controls={"share": 0.5})
        session.add(made)
        session.flush()
        queued = Job(kind=JobKind.REGISTER, training_set_id=made.id, seed=1)
        session.add(queued)
    return queued.id


class Broker:
    """A Redis server of one test's own, which may be stopped, frozen, filled and emptied."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, socket_connect_timeout=1)
        self.start()

    def start(self) -> None:
        self._server = Server(self._command, self._folder, signal.SIGTERM)
        self._server.wait(self._answers)

    def stop(self) -> None:
        self._server.stop()

    def freeze(self) -> None:
        """From now on it listens and never answers."""
        self._server._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._server._process.send_signal(signal.SIGCONT)

    def fill(self) -> None:
        self.client.config_set("maxmemory", 1)

    def empty(self) -> None:
        self.client.config_set("maxmemory", 0)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture
def broker(server_folder: Callable[[str], Path]) -> Iterator[Broker]:
    program = find_program("redis-server")
    if program is None:
        missing("redis-server")
        raise AssertionError("it was skipped")
    made = Broker(program, server_folder("redis"))
    yield made
    made.thaw()
    made.client.close()
    made.stop()


class SmallDisk:
    """A file system of its own, of a few MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / ".filler"

    def fill(self, *, but: int = 0) -> None:
        """Leave no byte free, or ``but`` bytes."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        if but:
            os.truncate(self._filler, self._filler.stat().st_size - but)

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def small_disk(server_folder: Callable[[str], Path]) -> Iterator[SmallDisk]:
    """24 MiB in memory, mounted for one test: by root, or by sudo that asks for no password. Servers may use it too."""
    folder = server_folder("small")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    owner = folder.stat()
    options = f"size=24m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    mount = [*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        missing("a tmpfs of one's own (mount, as root or by sudo)")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)
