"""Rules of the house that a tool can check: what the front end loads, what the compose file promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.parameters import NETWORKS
from tests.composed import filled, parts
from worker.unlearning.networks import NAMES

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_the_front_end_loads_no_torch_numpy_or_pillow() -> None:
    probe = (
        "import sys, service.app, service.dispatcher; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_task_that_holds_rows_loads_no_torch(tmp_path: Path) -> None:
    probe = "import sys, worker.tasks; print('torch' in sys.modules)"
    environment = {**os.environ, "AMUN_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert done.stdout.strip() == "False"


def test_what_runs_on_a_bare_gpu_machine_needs_no_database_or_broker() -> None:
    modules = ["worker.unlearning.networks", "worker.plan", "worker.pipeline"]
    modules += ["benchmarks.paper", "benchmarks.requests", "benchmarks.adversarial"]
    modules += ["benchmarks.gpu_faults", "benchmarks.ranks"]
    probe = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    print(name, [m for m in ('sqlalchemy', 'celery', 'pydantic', 'fastapi') if m in sys.modules])"
    )
    command = [sys.executable, "-c", probe, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == [f"{module} []" for module in modules]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_runs_as_an_ordinary_user_on_a_read_only_root(name: str) -> None:
    service = SERVICES[name]
    assert int(str(service["user"]).split(":")[0]) > 0
    assert service["read_only"] is True


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_every_lasting_container_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_every_lasting_container_comes_back_unless_it_was_stopped(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_image_tags_are_exact(name: str) -> None:
    assert re.fullmatch(r"[a-z-]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", SERVICES[name]["image"])


def test_only_the_api_is_reachable_and_only_from_this_host() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {
        "service": ["127.0.0.1:${AMUN_PORT:-8000}:8000"],
        "service-2": ["127.0.0.1:${AMUN_PORT_2:-8001}:8000"],
    }


@pytest.mark.fault(6)
def test_each_gpu_worker_reserves_a_gpu_of_its_own_and_never_falls_back_to_the_cpu() -> None:
    reserved = []
    for worker in (SERVICES["worker"], SERVICES["worker-2"]):
        (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert worker["environment"]["AMUN_DEVICE"] == "cuda"
        reserved += device["device_ids"]
    assert sorted(set(reserved)) == sorted(reserved)
    assert SERVICES["worker-cpu"]["environment"]["AMUN_DEVICE"] == "cpu"


def test_the_containers_start_what_the_embedded_way_starts() -> None:
    from service.embedded import api_command, worker_command

    embedded = " ".join(worker_command()[1:])
    composed = " ".join(SERVICES["worker"]["command"][1:])
    assert embedded.startswith(composed)
    docker = (ROOT / "Dockerfile").read_text().replace('", "', " ")
    assert " ".join(api_command("0.0.0.0", 8000)[2:9]) in docker  # noqa: S104 - inside its container
    assert api_command("0.0.0.0", 8000)[2:] == SERVICES["service"]["command"] == SERVICES["service-2"]["command"]  # noqa: S104


def test_compose_reads_the_file_as_the_tests_of_the_topology_do() -> None:
    composer = _compose()
    if composer is None:
        reason = "neither `docker compose` nor docker-compose is installed"
        pytest.fail(reason) if os.environ.get("AMUN_REQUIRE_SERVERS") == "1" else pytest.skip(reason)
    given = {"POSTGRES_PASSWORD": "only-for-this-test"}
    profiles = ["gpu", "gpu-2", "cpu"]
    done = subprocess.run(
        [*composer, *(f"--profile={profile}" for profile in profiles), "config"],
        cwd=ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    read = {part.name: part for profile in profiles for part in parts(profile, given)}
    assert read.keys() == services.keys()
    for name, part in read.items():
        assert part.command == (services[name].get("command") or [])
        assert part.environment == services[name].get("environment", {})
        assert part.scale == services[name].get("scale", 1)
        if part.check is not None:
            assert part.check.command == services[name]["healthcheck"]["test"][1:]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${SET}", "1"),
        ("a ${SET:-2} b", "a 1 b"),
        ("${EMPTY:-2}", "2"),
        ("${EMPTY-2}", ""),
        ("${UNSET-2}", "2"),
        ("${UNSET}", ""),
        ("$${SET}", "${SET}"),
    ],
)
def test_variables_are_filled_in_as_compose_does_it(text: str, value: str) -> None:
    assert filled(text, {"SET": "1", "EMPTY": ""}) == value


def test_a_variable_that_the_file_requires_is_missed() -> None:
    with pytest.raises(ValueError, match="set it in"):
        parts("cpu", {})


def _compose() -> list[str] | None:
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def test_service_and_worker_know_the_same_networks() -> None:
    assert NETWORKS == NAMES
