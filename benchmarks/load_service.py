"""The service under load: uvicorn processes with the dispatcher in them, a worker, and what both cost while it is measured."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.load_store import Store
from models.settings import Settings
from service.embedded import api_command, environment, free_port, worker_command

MEGABYTE = 1e6
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
GETS_A_SECOND = 4.0
SAMPLE_SECONDS = 1.0
JOB = {"epochs": 1000, "learning_rate": 0.02}  # of a training that outlasts any cell
URL = "/v1/deletion-requests"


class Service:
    """API processes and one worker over the same store, as child processes of their own groups. A context manager."""

    def __init__(self, settings: Settings, processes: int, logs: Path) -> None:
        self.settings = settings
        self.urls = [f"http://127.0.0.1:{free_port()}" for _ in range(processes)]
        self._logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Service:
        try:
            for place, url in enumerate(self.urls):
                self._start(f"api {place + 1}", api_command("127.0.0.1", int(url.rpartition(":")[2])))
            self._start("worker", worker_command())
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def memory(self) -> dict[str, float]:
        """Resident MB of each process, with its children."""
        found = {}
        for name, process in self.running.items():
            root = psutil.Process(process.pid)
            found[name] = sum(_resident(each) for each in [root, *root.children(recursive=True)]) / MEGABYTE
        return found

    def api_seconds(self) -> float:
        """Processor time of the API processes so far, the dispatcher's included."""
        times = [psutil.Process(each.pid).cpu_times() for name, each in self.running.items() if name != "worker"]
        return sum(each.user + each.system for each in times)

    def _start(self, name: str, command: list[str]) -> None:
        with (self._logs / f"{name}.log").open("ab") as output:
            self.running[name] = subprocess.Popen(
                command,
                env=environment(self.settings) | {"AMUN_RATE_LIMIT": ""},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        for url in self.urls:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/readyz", timeout=2, trust_env=False).status_code == 200:
                        break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"an API process was not ready: see {self._logs}")
                time.sleep(0.1)


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


class Training:
    """A real job beside the load: trains models on digits, on one thread, for as long as the context lasts."""

    def __init__(self, service: Service, store: Store) -> None:
        self._client = httpx.Client(
            base_url=service.urls[0], headers={"Authorization": f"Bearer {store.operator}"}, timeout=60, trust_env=False
        )

    def __enter__(self) -> Training:
        self._register_digits()
        model = {
            "name": f"beside-{random.getrandbits(32):08x}",
            "training_set": "digits",
            "network": {"name": "small-cnn", "width": 16},
            "recipe": JOB,
        }
        self.job = self._posted("/v1/models", model)
        self._wait(lambda job: job["status"] == "running" and job["phase"] not in (None, "load"))
        return self

    def __exit__(self, *_: object) -> None:
        self._client.post(f"/v1/jobs/{self.job}/cancel", json={"reason": "the load was measured"}).raise_for_status()
        self._wait(lambda job: job["status"] == "cancelled")
        self._client.close()

    def progress(self) -> dict[str, Any]:
        """The job as the API shows it."""
        found: dict[str, Any] = self._client.get(f"/v1/jobs/{self.job}").raise_for_status().json()
        return found

    def _register_digits(self) -> None:
        if self._client.get("/v1/training-sets/digits").status_code == 200:
            return
        body = {
            "name": "digits",
            "applications": ["beside"],
            "source": {"kind": "builtin", "path": "digits"},
            "controls": {"share": 0.2},
        }
        self.job = self._posted("/v1/training-sets", body)
        self._wait(lambda job: job["status"] == "succeeded")

    def _posted(self, path: str, body: dict[str, Any]) -> str:
        return str(self._client.post(path, json=body).raise_for_status().json()["job"]["id"])

    def _wait(self, there: Any) -> None:
        deadline = time.monotonic() + 180
        while not there(job := self.progress()):
            if job["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise RuntimeError(f"the job beside the load is {job['status']}: {job['error']}")
            time.sleep(0.2)


class Watch:
    """GETs at a slow, constant pace beside the load, and how busy the machine was. A context manager."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service, self._end = service, threading.Event()
        self.gets: dict[str, list[float]] = {}  # milliseconds
        self.failed = 0  # GETs that were not answered 200
        self._busy: list[float] = []
        calls = [(store.owners[place].key, f"{URL}/{known}", "one request") for place, known in enumerate(store.known)]
        calls += [(owner.key, URL, "list, newest") for owner in store.owners]
        calls += [(store.compliance, f"{URL}?sort=due", "list, by due date")] * len(store.owners)
        self._calls = calls
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._get, self._measure)]

    def __enter__(self) -> Watch:
        self._started, self._cpu = time.monotonic(), self._service.api_seconds()
        self._memory = self._service.memory()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._end.set()
        for thread in self._threads:
            thread.join(60)
        self.api_seconds = self._service.api_seconds() - self._cpu
        self.memory = {name: [self._memory[name], after] for name, after in self._service.memory().items()}

    def found(self) -> dict[str, Any]:
        """Milliseconds of the GETs, what the processes took, and how busy the machine was, 0 to 1 over all cores."""
        return {
            "gets": {name: {"calls": len(each)} | _quantiles(each) for name, each in sorted(self.gets.items())},
            "gets_failed": self.failed,
            "api_cores": round(self.api_seconds / self.seconds, 2),
            "machine_busy": round(statistics.fmean(self._busy), 2) if self._busy else None,
            "load_average": [round(each, 2) for each in os.getloadavg()],
            "memory_mb": {name: [round(each) for each in pair] for name, pair in self.memory.items()},
        }

    def _get(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            for number in _ticks(self._end, 1 / GETS_A_SECOND):
                key, path, name = self._calls[number * 7 % len(self._calls)]
                url = self._service.urls[number % len(self._service.urls)]
                started = time.perf_counter()
                answer = client.get(url + path, headers={"Authorization": f"Bearer {key}"})
                self.gets.setdefault(name, []).append(1000 * (time.perf_counter() - started))
                self.failed += answer.status_code != 200

    def _measure(self) -> None:
        psutil.cpu_percent()
        for _ in _ticks(self._end, SAMPLE_SECONDS):
            self._busy.append(psutil.cpu_percent() / 100)


def _ticks(end: threading.Event, seconds: float) -> Iterator[int]:
    number = 0
    while not end.wait(seconds):
        yield number
        number += 1


def _quantiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    parts = statistics.quantiles(values, n=100)
    return {"p50_ms": round(parts[49], 1), "p99_ms": round(parts[98], 1)}
