"""The whole of docker-compose.yml on this machine without Docker, from the file's own commands and environment.

Ports, host names and volumes are substituted; everything else is the file's. Each container has a folder of its own and
shares with others only the volumes that the file gives both: what runs here so also runs on several machines that share
a file system. Users, capabilities and read-only roots are Docker's matter.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.settings import Settings
from tests.composed import Part, parts
from tests.conftest import as_user, find_program, free_port, missing
from tests.container import Container, wait_for

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "of-this-topology-alone"  # noqa: S105 - of a database that lives as long as a test
HEALTHY_SECONDS = 90.0
LOOK_SECONDS = 0.4  # between two health checks, each of which starts an interpreter
SERVERS = ("initdb", "postgres", "pg_isready", "redis-server", "redis-cli")


class Topology:
    """Every container of the file by its name: db, redis, migrate, service, service-2, worker-cpu-1, worker-cpu-2."""

    def __init__(self, *, pipeline: str | None = None, **more: object) -> None:
        """``pipeline`` is the command of the child that runs jobs (default: the real one); ``more`` are further settings."""
        for program in SERVERS:
            if find_program(program) is None:
                missing(program)
        self.folder = Path(tempfile.mkdtemp(prefix="amun-topology-"))
        self.folder.chmod(0o711)  # the database's user passes through
        self._ports = {"db": free_port(), "redis": free_port()}
        self._more = {"pipeline": pipeline, **more}
        variables = {
            "POSTGRES_PASSWORD": PASSWORD,
            "AMUN_IMPORT_DIR": str(self.folder / "import"),
            "AMUN_CERTIFICATES_DIR": str(self.folder / "certificates"),
        }
        self._parts = parts("cpu", variables)
        self._of_part = {part.name: self._containers(part) for part in self._parts}
        self.containers = {each.name: each for group in self._of_part.values() for each in group}
        self.apis = [name for name in self.containers if name.startswith("service")]
        self.workers = [name for name in self.containers if name.startswith("worker")]

    def __enter__(self) -> Topology:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def __getitem__(self, name: str) -> Container:
        return self.containers[name]

    def up(self) -> None:
        """Start everything in the order of the file's dependencies, and wait until all of it is healthy."""
        for part in self._parts:
            for other, condition in part.after.items():
                if condition == "service_healthy":
                    self.wait_healthy(each.name for each in self._of_part[other])
            for container in self._of_part[part.name]:
                container.start() if part.restarts else container.run()
        self.wait_healthy(self.lasting)

    def down(self) -> None:
        """Kill whatever runs and remove every folder."""
        for container in self.containers.values():
            container.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def lasting(self) -> list[str]:
        """What runs until it is stopped: all but the migration."""
        return [container.name for container in self.containers.values() if container.restarts]

    def revive(self) -> None:
        """Start again what ended by itself and restarts by the file, as the Docker daemon does."""
        for container in self.containers.values():
            if container.restarts and container.ended_by_itself():
                container.start()

    def wait_healthy(self, names: Iterable[str]) -> None:
        """Until the file's own health check of each is content; what ends meanwhile is started again."""

        def wait(container: Container) -> None:
            def ready() -> bool:
                if container.restarts and container.ended_by_itself():
                    container.start()
                return container.healthy()

            wait_for(f"a healthy {container.name}", ready, HEALTHY_SECONDS, pause=LOOK_SECONDS)

        with ThreadPoolExecutor() as pool:
            try:
                list(pool.map(wait, [self[name] for name in names]))
            except TimeoutError as error:
                raise TimeoutError(f"{error}: {self.tails()}") from None

    def url(self, api: str) -> str:
        return f"http://127.0.0.1:{self._ports[api]}"

    @property
    def settings(self) -> Settings:
        """What the API processes are set to, for those who look at rows and files."""
        environment = self._environment(next(part for part in self._parts if part.name == "service"), "service")
        return Settings(**{name.removeprefix("AMUN_").lower(): value for name, value in environment.items()})  # type: ignore[arg-type]

    def tails(self, characters: int = 1500) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {each.name}\n{each.log()[-characters:]}" for each in self.containers.values())

    def _containers(self, part: Part) -> list[Container]:
        names = [part.name] if part.scale == 1 else [f"{part.name}-{number + 1}" for number in range(part.scale)]
        return [self._container(part, name) for name in names]

    def _container(self, part: Part, name: str) -> Container:
        make: Callable[[Part, str], Container] = {"db": self._database, "redis": self._redis}.get(part.name, self._ours)
        return make(part, name)

    def _ours(self, part: Part, name: str) -> Container:
        """A container of our own images, which have the virtual environment's programs on the path."""
        self._ports[name] = free_port()
        port = {"0.0.0.0": "127.0.0.1", "8000": str(self._ports[name])}  # noqa: S104 - is replaced here
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return Container(
            name,
            self.folder / name,
            [_replaced(word, port) for word in part.command],
            {"PATH": programs, "PYTHONPATH": str(ROOT), **self._environment(part, name)},
            check=part.check and replace(part.check, command=[_replaced(word, port) for word in part.check.command]),
            grace_seconds=part.grace_seconds,
            restarts=part.restarts,
            own_host=True,
        )

    def _database(self, part: Part, name: str) -> Container:
        folder, port = self._volume(part, "/var/lib/postgresql/data"), str(self._ports[name])
        make_cluster(folder, part.environment)
        options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder / name / 'tmp'}"]
        program, ask = find_program("postgres"), find_program("pg_isready")
        assert program is not None
        assert ask is not None
        assert part.check is not None
        return Container(
            name,
            self.folder / name,
            [program, "-D", str(folder), *(word for option in options for word in ("-c", option))],
            {"PGPORT": port},
            check=replace(part.check, command=[ask, *part.check.command[1:]]),
            grace_seconds=part.grace_seconds,
            restarts=part.restarts,
            stop_signal=signal.SIGINT,  # the image's
            user=as_user(),
        )

    def _redis(self, part: Part, name: str) -> Container:
        assert part.check is not None
        program, *words = part.check.command
        port = ["-p", str(self._ports[name])]
        return Container(
            name,
            self.folder / name,
            [*part.command, "--port", port[1], "--bind", "127.0.0.1"],
            {},
            check=replace(part.check, command=[program, *port, *words]),
            grace_seconds=part.grace_seconds,
            restarts=part.restarts,
            work=self._volume(part, "/data"),  # the image's working folder
        )

    def _environment(self, part: Part, name: str) -> dict[str, str]:
        places = {
            "@db:5432": f"@127.0.0.1:{self._ports['db']}",
            "//redis:6379": f"//127.0.0.1:{self._ports['redis']}",
            **{target: str(self._volume(part, target)) for target in part.volumes},
            "/var/lib/amun": str(self.folder / name / "image"),  # what is no volume of this container
        }
        given = {variable: _replaced(value, places) for variable, value in part.environment.items()}
        further = {f"AMUN_{setting.upper()}": str(value) for setting, value in self._more.items() if value is not None}
        return {**given, **further}

    def _volume(self, part: Part, target: str) -> Path:
        source = Path(part.volumes[target])
        folder = source if source.is_absolute() else self.folder / "volumes" / source
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _replaced(text: str, others: dict[str, str]) -> str:
    for old, new in others.items():
        text = text.replace(old, new)
    return text


def make_cluster(folder: Path, environment: dict[str, str]) -> None:
    """What the image does at its first start: a cluster that asks for the user's password, with one database."""
    user: dict[str, Any] = as_user()
    secret = folder.with_name("password")
    secret.write_text(environment["POSTGRES_PASSWORD"])
    if user:
        os.chown(folder, user["user"], user["group"])
        os.chown(secret, user["user"], user["group"])
    initdb, postgres = find_program("initdb"), find_program("postgres")
    who = ["-U", environment["POSTGRES_USER"], "--pwfile", secret, "-A", "scram-sha-256"]
    made = [initdb, "-D", folder, *who, "-E", "UTF8", "--locale=C", "--no-sync"]
    alone = [postgres, "--single", "-D", folder, "postgres"]
    for command, words in ((made, ""), (alone, f"CREATE DATABASE {environment['POSTGRES_DB']}\n")):
        done = subprocess.run(command, cwd=folder, input=words, capture_output=True, text=True, **user)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
