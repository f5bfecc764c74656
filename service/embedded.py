"""The embedded way to run: an API process and a worker, with one data folder, as children of one command."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from models.queue import QUEUE
from models.settings import Settings
from service.plain import NO_AUTHORITY

PR_SET_PDEATHSIG = 1  # prctl(2)
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


class DidNotStart(RuntimeError):
    """A process ended, or was not ready in time; the message names its log."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Linux sends SIGTERM to the child when this process dies, however it dies. Elsewhere only an orderly end stops it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a child the same settings."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {**os.environ, **{f"AMUN_{name.upper()}": str(value) for name, value in values.items()}}


def api_command(host: str, port: int) -> list[str]:
    serve = ["-m", "uvicorn", "service.app:create_app", "--factory", "--host", host, "--port", str(port)]
    return [sys.executable, *serve, "--no-access-log", "--timeout-graceful-shutdown", "5"]


def worker_command() -> list[str]:
    work = [
        "-m",
        "celery",
        "-A",
        "worker.tasks",
        "worker",
        "-P",
        "prefork",
        "-c",
        "1",
        "-Q",
        QUEUE,
        "--loglevel",
        "INFO",
    ]
    return [sys.executable, *work, "--without-gossip", "--without-mingle", "--without-heartbeat"]


class Embedded:
    """API and worker as child processes; a worker that dies is started again. Use as a context manager."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.settings = settings
        self.url = f"http://{host}:{port}"
        self._logs = settings.data_dir / "logs"
        self._commands = {"api": api_command(host, port), "worker": worker_command()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Embedded:
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for name in self._commands:
                self._start(name)
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self) -> None:
        """Start the worker again if it ended. Raises DidNotStart if the API ended: there is nothing to serve with."""
        if self._processes["api"].poll() is not None:
            raise DidNotStart(f"the API process ended: see {self.log('api')}")
        if self._processes["worker"].poll() is not None:
            self._start("worker")

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def stop(self) -> None:
        """SIGTERM to both: the worker gives its job back to the queue; SIGKILL to what does not end."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self, name: str) -> None:
        with self.log(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own commands
                self._commands[name],
                env=environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this command alone, which then stops them in order
                preexec_fn=_die_with_parent,
            )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        with httpx.Client(base_url=self.url, timeout=2, trust_env=False, verify=NO_AUTHORITY) as client:
            while time.monotonic() < deadline:
                self.watch()
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise DidNotStart(f"the API was not ready after {READY_SECONDS:.0f} seconds: see {self.log('api')}")
