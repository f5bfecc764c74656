"""Services that have come to a certain stage, made once for both pairs and copied for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from models.settings import Settings
from tests import replaying
from tests.conftest import _administer
from tests.faults.plays import Play, play
from tests.service.webhooks.receiver import Receiver, receiver

STAGES: dict[str, tuple[str | None, str]] = {  # the stage before, and the act that leads on from there
    "empty": (None, "open_office"),
    "registered": ("empty", "register"),
    "trained": ("registered", "train"),
    "asked": ("trained", "ask"),
    "forgotten": ("asked", "forget"),
    "done": ("forgotten", "go_on"),
}
ROWS = 40
MEMORY = Path("/dev/shm")  # noqa: S108 - each run makes a folder of its own there
WELL_BEHAVED = replaying.command(rows=ROWS)
COMMON = {
    "webhook_networks": "127.0.0.0/8",
    "rate_limit": "",
    "pipeline": WELL_BEHAVED,
    "lease_seconds": 90,  # none expires on a slow machine, unless a test says that it is later
    "heartbeat_seconds": 60,
}
_numbers = itertools.count()


@pytest.fixture(scope="session")
def told() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Celery makes folders in the default data folder when the worker's tasks are imported."""
    before = os.environ.get("AMUN_DATA_DIR")
    os.environ["AMUN_DATA_DIR"] = str(tmp_path_factory.mktemp("imported"))
    yield
    os.environ.pop("AMUN_DATA_DIR")
    if before is not None:
        os.environ["AMUN_DATA_DIR"] = before


class Pair:
    """A database and a broker, and folders with what lies beside them."""

    def __init__(self, folder: Path, receiver: str) -> None:
        self.receiver = receiver
        self._folder = folder
        self._stages: dict[str, Settings] = {}
        self._copies: list[Settings] = []

    def at(self, stage: str, **options: object) -> Settings:
        """Settings of a service of the test's own that has come to ``stage``; ``bare`` is before its migration.

        ``options`` are those of the replaying child.
        """
        made = self._copy(self._stage(stage)) if stage != "bare" else self._new(migrated=False)
        self._copies.append(made)
        pipeline = replaying.command(rows=ROWS, **options)
        return made.model_copy(update={"pipeline": pipeline})

    def forget_copies(self) -> None:
        while self._copies:
            self._remove(self._copies.pop())

    def _remove(self, settings: Settings) -> None:
        shutil.rmtree(settings.data_dir)

    def _stage(self, stage: str) -> Settings:
        if stage not in self._stages:
            before, act = STAGES[stage]
            made = self._copy(self._stage(before)) if before is not None else self._new(migrated=True)
            ended = play(Play(made, act, self.receiver))
            assert ended.exitcode == 0, ended.told
            assert not ended.told, ended.told["error"]
            self._stages[stage] = made
        return self._stages[stage]

    def _next(self) -> Path:
        return self._folder / f"{next(_numbers)}"

    def _new(self, migrated: bool) -> Settings:
        raise NotImplementedError

    def _copy(self, settings: Settings) -> Settings:
        raise NotImplementedError


class Embedded(Pair):
    def __init__(self, folder: Path, receiver: str, migrated: Path) -> None:
        super().__init__(folder, receiver)
        self._migrated = migrated

    def _new(self, migrated: bool) -> Settings:
        folder = self._next()
        folder.mkdir()
        if migrated:
            shutil.copyfile(self._migrated, folder / "amun.sqlite3")
        return Settings(data_dir=folder, **COMMON)  # type: ignore[arg-type]

    def _copy(self, settings: Settings) -> Settings:
        folder = shutil.copytree(settings.data_dir, self._next())
        return settings.model_copy(update={"data_dir": folder})


class Production(Pair):
    def __init__(self, folder: Path, receiver: str, server: str, migrated: str, broker: str) -> None:
        super().__init__(folder, receiver)
        self._server, self._migrated, self._broker = server, migrated, broker

    def _new(self, migrated: bool) -> Settings:
        folder = self._next()
        folder.mkdir()
        return Settings(
            data_dir=folder,
            database_url=self._database(self._migrated if migrated else "template1"),
            broker_url=self._broker,
            **COMMON,  # type: ignore[arg-type]
        )

    def _copy(self, settings: Settings) -> Settings:
        redis.Redis.from_url(self._broker).flushdb()
        folder = shutil.copytree(settings.data_dir, self._next())
        url = self._database(settings.database.rsplit("/", 1)[1])
        return settings.model_copy(update={"data_dir": folder, "database_url": url})

    def _remove(self, settings: Settings) -> None:
        super()._remove(settings)
        _administer(self._server, f"DROP DATABASE {settings.database.rsplit('/', 1)[1]} WITH (FORCE)")

    def _database(self, template: str) -> str:
        name = f"amun_fault_{next(_numbers)}"
        _administer(self._server, f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"{self._server.rsplit('/', 1)[0]}/{name}"


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: a killed process loses nothing that is in the page cache either."""
    with tempfile.TemporaryDirectory(prefix="amun-faults-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def embedded(memory: Path, told: Receiver, migrated_sqlite: Path) -> Pair:
    return Embedded(memory, f"http://127.0.0.1:{told.port}/in", migrated_sqlite)


@pytest.fixture(scope="session")
def production(memory: Path, told: Receiver, postgres_url: str, migrated_postgres: str, redis_url: str) -> Pair:
    return Production(memory, f"http://127.0.0.1:{told.port}/in", postgres_url, migrated_postgres, redis_url)


@pytest.fixture(params=["embedded", "production"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """SQLite with Celery's filesystem transport, then PostgreSQL with Redis. What a test had copied goes with it."""
    found: Pair = request.getfixturevalue(request.param)
    yield found
    found.forget_copies()
