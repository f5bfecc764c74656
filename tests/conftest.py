"""Databases and servers for tests: SQLite in a temporary folder, PostgreSQL and Redis started on free ports."""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from models.records import Base
from models.session import Database
from models.settings import Settings
from service import schema
from tests import compiled

# The tests keep every core busy: a job that gave way would wait for all the others.
os.environ.setdefault("AMUN_NICENESS", "0")
compiled.share()
gc.disable()  # until all tests are collected: what is imported stays, and to look for garbage among it took a sixth of that

START_SECONDS = 30.0
# These begin first, so that no core has one of them left to do when there is nothing else. A folder means all within.
# The first is never idle, as tests of whole services are at times: it fills the cores beside them.
LONGEST = (
    "tests/faults/test_crashes.py",
    "tests/e2e/",
    "tests/worker/test_pipeline.py",
    "tests/service/test_deletion_requests.py",
    "tests/service/test_following.py",
    "tests/faults/matrix/",
    "tests/worker/test_stopped_batches.py",
    "tests/worker/test_reporting.py",
    "tests/worker/test_ranks.py",
    "tests/worker/unlearning/",
)
UNPRIVILEGED = ("postgres", "nobody")  # initdb refuses root
_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, each in enumerate(LONGEST) if item.nodeid.startswith(each)), len(LONGEST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported and collected stays: not to be walked through again by every collection of garbage
    gc.enable()
    atexit.register(gc.freeze)  # nor for the last time


def missing(what: str) -> None:
    """Skip what needs a server that is not installed, or fail where servers are required."""
    reason = f"{what} was found neither on PATH nor where packages put it"
    if os.environ.get("AMUN_REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def find_program(name: str) -> str | None:
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unprivileged() -> pwd.struct_passwd | None:
    """The user that servers run as where the tests run as root; otherwise None: the tests' own user."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Callable[[str], Path]]:
    """Makes folders that servers can write to; pytest's own are closed to other users."""
    made: list[Path] = []

    def make(name: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"amun-{name}-"))
        made.append(folder)
        user = unprivileged()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        return folder

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A server process of an unprivileged user, in its own session so that Ctrl-C reaches the tests alone."""

    def __init__(self, command: list[str], folder: Path, stop_signal: signal.Signals) -> None:
        self._log = folder / "server.log"
        self._stop_signal = stop_signal
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=output, start_new_session=True, **as_user()
            )

    def wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"the server did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def as_user() -> dict[str, object]:
    user = unprivileged()
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "env": {**os.environ, "HOME": "/"}}


@pytest.fixture(scope="session")
def postgres_url(server_folder: Callable[[str], Path]) -> Iterator[str]:
    """SQLAlchemy URL of the maintenance database of a PostgreSQL server that lives as long as the tests."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    if initdb is None or postgres is None:
        missing("PostgreSQL")
    folder, port = server_folder("postgres"), free_port()
    data = folder / "data"
    subprocess.run(
        [initdb, "-D", data, "-U", "amun", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        cwd=folder,
        check=True,
        capture_output=True,
        **as_user(),
    )
    options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off", "max_connections=200"]
    command = [postgres, "-D", str(data), "-p", str(port), *(part for option in options for part in ("-c", option))]
    url = f"postgresql://amun@127.0.0.1:{port}/postgres"

    def ready() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    server = Server(command, folder, signal.SIGINT)
    server.wait(ready)
    yield url.replace("postgresql://", "postgresql+psycopg://")
    server.stop()


@pytest.fixture(scope="session")
def redis_url(server_folder: Callable[[str], Path]) -> Iterator[str]:
    """URL of a Redis server that lives as long as the tests and keeps nothing on disk."""
    program = find_program("redis-server")
    if program is None:
        missing("redis-server")
    folder, port = server_folder("redis"), free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    def ready() -> bool:
        client = redis.Redis(port=port, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
        finally:
            client.close()

    server = Server([*command, "--dir", str(folder)], folder, signal.SIGTERM)
    server.wait(ready)
    yield f"redis://127.0.0.1:{port}/0"
    server.stop()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("migrated"))
    schema.upgrade(settings)
    return settings.data_dir / "amun.sqlite3"


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a migrated database to copy; nobody is connected to it."""
    name = "amun_template"
    _administer(postgres_url, f"CREATE DATABASE {name}")
    url = postgres_url.removesuffix("postgres") + name
    schema.upgrade(Settings(data_dir=tmp_path_factory.mktemp("migrated"), database_url=url))
    return name


@pytest.fixture
def postgres_database(postgres_url: str, migrated_postgres: str) -> Iterator[str]:
    """SQLAlchemy URL of a migrated, empty database of this test's own, for those that change its schema or its server."""
    with _database(postgres_url, migrated_postgres) as url:
        yield url


@pytest.fixture(scope="module")
def postgres_of_module(postgres_url: str, migrated_postgres: str) -> Iterator[str]:
    """The same for all tests of a module."""
    with _database(postgres_url, migrated_postgres) as url:
        yield url


@contextmanager
def _database(postgres_url: str, migrated_postgres: str) -> Iterator[str]:
    name = f"amun_test_{next(_numbers)}"
    _administer(postgres_url, f"CREATE DATABASE {name} TEMPLATE {migrated_postgres}")
    yield postgres_url.removesuffix("postgres") + name
    _administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


class Reused:
    """A migrated database that tests use one after the other: making one takes longer than most of them."""

    # A test that changed the schema (took the log's triggers away, say) leaves another answer.
    SCHEMA = (
        "SELECT (SELECT count(*) FROM pg_trigger WHERE tgenabled = 'O'), (SELECT count(*) FROM pg_attribute), "
        "(SELECT max(version_num) FROM alembic_version)"
    )

    def __init__(self, server: str, template: str) -> None:
        self._server, self._template = server, template
        self.url = server.removesuffix("postgres") + "amun_reused"
        self._connection = self._make()
        self._schema = self._connection.execute(self.SCHEMA).fetchone()

    def empty(self) -> str:
        """The URL, once the database has no row and nobody else is connected to it."""
        try:
            untouched = self._emptied()
        except psycopg.OperationalError:  # a test ended every session of the server's
            self._connection = self._connect()
            untouched = self._emptied()
        if not untouched:
            self._connection.close()
            _administer(self._server, "DROP DATABASE amun_reused WITH (FORCE)")
            self._connection = self._make()
        return self.url

    def close(self) -> None:
        self._connection.close()

    def _make(self) -> psycopg.Connection:
        _administer(self._server, f"CREATE DATABASE amun_reused TEMPLATE {self._template}")
        return self._connect()

    def _connect(self) -> psycopg.Connection:
        """Kept from test to test: to connect takes longer than all that is said."""
        connection = psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True)
        connection.execute("SET session_replication_role = replica")  # past foreign keys, and the log's own triggers
        return connection

    def _emptied(self) -> bool:
        """Whether the schema is as it was; every row is gone then."""
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        self._connection.execute(f"SELECT pg_terminate_backend(pid) {others}")  # type: ignore[arg-type]
        if self._connection.execute(self.SCHEMA).fetchone() != self._schema:
            return False
        tables = [table.name for table in Base.metadata.sorted_tables]
        filled = " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM \"{name}\")" for name in tables)  # noqa: S608 - our own tables
        for (name,) in self._connection.execute(filled).fetchall():  # type: ignore[arg-type]
            self._connection.execute(f'DELETE FROM "{name}"')  # type: ignore[arg-type]  # noqa: S608 - our own tables
        return True


@pytest.fixture(scope="session")
def reused_postgres(postgres_url: str, migrated_postgres: str) -> Iterator[Reused]:
    reused = Reused(postgres_url, migrated_postgres)
    yield reused
    reused.close()


@pytest.fixture
def empty_postgres(reused_postgres: Reused) -> str:
    """URL of a migrated database without a row, after others and before others."""
    return reused_postgres.empty()


@pytest.fixture
def sqlite_settings(tmp_path: Path, migrated_sqlite: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "data")
    settings.data_dir.mkdir()
    shutil.copyfile(migrated_sqlite, settings.data_dir / "amun.sqlite3")
    return settings


@pytest.fixture
def postgres_settings(tmp_path: Path, empty_postgres: str) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", database_url=empty_postgres)
    settings.data_dir.mkdir()
    return settings


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings of an empty service on either database: each test that asks for them runs twice."""
    found: Settings = request.getfixturevalue(f"{request.param}_settings")
    return found


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = Database(settings.database)
    yield opened
    opened.dispose()


def _administer(url: str, statement: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
