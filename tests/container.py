"""One container of the compose file as a process tree: its own working folder, TMPDIR, home and host name."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.composed import Check

CLONE_NEWUTS, CLONE_NEWUSER = 0x04000000, 0x10000000  # sched.h


class Container:
    """Started, killed and looked at as Docker does it: signals that kill or freeze reach every process inside."""

    def __init__(
        self,
        name: str,
        folder: Path,
        command: list[str],
        environment: dict[str, str],
        *,
        check: Check | None,
        grace_seconds: float,
        restarts: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
        work: Path | None = None,
        user: dict[str, Any] | None = None,
        own_host: bool = False,
    ) -> None:
        """``work`` is the working folder where it is a volume; ``user`` is what subprocess.Popen takes."""
        self.name, self.restarts = name, restarts
        self.starts = 0
        self._command, self._check, self._grace, self._stop_signal = command, check, grace_seconds, stop_signal
        self._user, self._own_host = user or {}, own_host
        self._work = work or folder / "work"
        self._log = folder / "log"
        for made in (folder, self._work, folder / "tmp", folder / "home"):
            made.mkdir(parents=True, exist_ok=True)
            if "user" in self._user:
                os.chown(made, self._user["user"], self._user["group"])
        own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")} | ({"HOSTNAME": name} if own_host else {})
        self._environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **own, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = True  # by somebody, so that it stays so

    def start(self) -> None:
        """Start it anew; its log goes on."""
        self._stopped = False
        self.starts += 1
        with self._log.open("ab") as output:
            self._process = self._popen(self._command, output)

    def run(self) -> None:
        """Run it to its end. Raises RuntimeError, with the end of its log, unless it ends well."""
        self.start()
        assert self._process is not None
        if self._process.wait(120) != 0:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}: {self.log()[-3000:]}")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ended_by_itself(self) -> bool:
        return not self._stopped and not self.running

    def healthy(self) -> bool:
        """What the file's own health check says now."""
        if not self.running or self._check is None:
            return False
        check = self._popen(self._check.command, subprocess.DEVNULL)
        try:
            return check.wait(self._check.timeout) == 0
        except subprocess.TimeoutExpired:
            os.killpg(check.pid, signal.SIGKILL)
            check.wait()
            return False

    def kill(self) -> None:
        """SIGKILL to every process inside, as when the container or its machine dies."""
        self._stopped = True
        for process in self.processes():
            _send(process, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self) -> bool:
        """The stop signal to the main process, and SIGKILL after the grace period; whether it ended in time."""
        self._stopped = True
        if self._process is None or self._process.poll() is not None:
            return True
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def pause(self) -> None:
        """SIGSTOP to every process inside: it hangs, or its machine does."""
        for process in self.processes():
            _send(process, signal.SIGSTOP)

    def resume(self) -> None:
        for process in self.processes():
            _send(process, signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def processes(self) -> list[psutil.Process]:
        """The main process and what descends from it."""
        if not self.running:
            return []
        assert self._process is not None
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _popen(self, command: list[str], output: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self._work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_named(self.name) if self._own_host else None,
            **{**self._user, "env": self._environment},
        )


def wait_for(what: str, ready: Callable[[], Any], seconds: float = 60.0, *, pause: float = 0.1) -> Any:
    """What ``ready`` returns once it is true. Raises TimeoutError, naming ``what``."""
    deadline = time.monotonic() + seconds
    while True:
        found = ready()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} seconds")
        time.sleep(pause)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _named(host: str) -> Callable[[], None]:
    """Runs in the child before its program: a host name of its own, in a user namespace where the tests are not root."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWUTS | (0 if os.geteuid() == 0 else CLONE_NEWUSER)

    def enter() -> None:
        if libc.unshare(flags) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        socket.sethostname(host)

    return enter
