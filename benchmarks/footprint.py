"""What the front end costs: time to import service.app, and memory of one idle API process.

    python -m benchmarks.footprint

Writes benchmarks/results/footprint.json and footprint.md. Targets: import under 1.5 s, an idle process under 120 MB.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from models.settings import Settings
from service import schema
from service.embedded import api_command, environment, free_port

RESULTS = Path(__file__).parent / "results"
IMPORTS = 7
IDLE_SECONDS = 10.0
IMPORT_TARGET = 1.5  # seconds
MEMORY_TARGET = 120.0  # MB
MEGABYTE = 1e6


def main() -> None:
    baseline, imports = import_seconds("pass"), import_seconds("import service.app")
    with tempfile.TemporaryDirectory() as folder:
        resident, unique = idle_memory(Path(folder))
    found = {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "import_seconds": {"median": statistics.median(imports), "worst": max(imports), "runs": len(imports)},
        "interpreter_seconds": statistics.median(baseline),
        "idle_api": {"resident_mb": resident, "unique_mb": unique, "after_seconds": IDLE_SECONDS},
        "targets": {"import_seconds": IMPORT_TARGET, "resident_mb": MEMORY_TARGET},
        "met": max(imports) < IMPORT_TARGET and resident < MEMORY_TARGET,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "footprint.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "footprint.md").write_text(table(found))
    print(table(found))
    raise SystemExit(0 if found["met"] else 1)


def import_seconds(code: str) -> list[float]:
    """Wall-clock seconds of fresh interpreters, the interpreter's own start included."""
    seconds = []
    for _ in range(IMPORTS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - started)
    return seconds


def idle_memory(folder: Path) -> tuple[float, float]:
    """Resident and unique set size in MB of an API process with its dispatcher, ready and idle for a while."""
    settings = Settings(data_dir=folder)
    schema.upgrade(settings)
    port = free_port()
    process = subprocess.Popen(api_command("127.0.0.1", port), env=environment(settings), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        time.sleep(IDLE_SECONDS)
        memory = psutil.Process(process.pid).memory_full_info()
        return memory.rss / MEGABYTE, memory.uss / MEGABYTE
    finally:
        process.terminate()
        process.wait(20)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(found: dict) -> str:  # type: ignore[type-arg]
    imports, idle, limit = found["import_seconds"], found["idle_api"], found["targets"]["resident_mb"]
    return f"""# What the front end costs

Machine: {found["machine"]["processor"]}, {found["machine"]["cores"]} cores, Python {found["machine"]["python"]}.

| what | measured | target |
|---|---|---|
| `import service.app` in a fresh interpreter, median of {imports["runs"]} | {imports["median"]:.2f} s | |
| the worst of them | {imports["worst"]:.2f} s | under {found["targets"]["import_seconds"]} s |
| an empty interpreter, median | {found["interpreter_seconds"]:.2f} s | |
| one idle API process with its dispatcher, resident | {idle["resident_mb"]:.0f} MB | under {limit:.0f} MB |
| of these its own alone (unique set size) | {idle["unique_mb"]:.0f} MB | |
"""


if __name__ == "__main__":
    main()
