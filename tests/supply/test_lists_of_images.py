"""The images: what is in them, and what their containers may do. Read from Dockerfile, .dockerignore and docker-compose.yml."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.supply.declared import ROOT, pins, project
from tests.supply.images import IMAGES, path

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = {"service": ["models", "service", "migrations"], "worker": ["models", "worker"]}
# Imports every module of the packages that are named, in an interpreter that finds only what the image holds.
PROBE = """
import importlib, pkgutil, sys
absent = set(sys.argv[1].split(","))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in this image", name=name)
sys.meta_path.insert(0, Absent())
for package in sys.argv[2:]:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
"""


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, its words) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage, found = "", []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            keyword, _, words = line.partition(" ")
            stage = words.rpartition(" ")[2] if keyword == "FROM" else stage
            found.append((stage, keyword, words))
    return found


def said(keyword: str, stage: str | None = None) -> list[str]:
    return [words for where, what, words in instructions() if what == keyword and stage in (None, where)]


@pytest.mark.parametrize("image", IMAGES)
def test_every_module_of_an_image_loads_with_nothing_but_what_the_image_holds(image: str) -> None:
    held = pins(path(image))
    absent = [
        module
        for module, owners in packages_distributions().items()
        if not any(canonicalize_name(owner) in {*held, "amun-service"} for owner in owners)
    ]
    absent += {"models", "service", "worker", "migrations", "tests", "benchmarks"} - set(OURS[image])
    walked = [package for package in OURS[image] if package != "migrations"]  # Alembic runs those
    done = subprocess.run(
        [sys.executable, "-c", PROBE, ",".join(absent), *walked], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_service_image_holds_no_tensors_and_neither_holds_a_tool_of_the_tests() -> None:
    service, worker = (set(pins(path(image))) for image in IMAGES)
    assert service & {"torch", "torchvision", "numpy", "scipy", "pillow", "safetensors", "securesystemslib"} == set()
    assert (service | worker) & {"pytest", "hypothesis", "schemathesis", "mypy", "ruff", "bandit", "psutil"} == set()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_its_own_packages_and_no_others(image: str) -> None:
    copied = [words.split()[0] for words in said("COPY", image)]
    assert sorted(copied) == sorted([f"requirements.{image}.txt", *OURS[image]])


def test_the_build_sees_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    copied = {source for words in said("COPY") for source in words.split()[:-1]}
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert said("ADD") == []


def test_images_rest_on_exact_tags() -> None:
    outside = [words.split()[0] for words in said("FROM") if not words.startswith("base ")]
    outside += [service["image"] for service in SERVICES.values() if "build" not in service]
    assert [tag for tag in outside if not re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-(slim-)?bookworm", tag)] == []
    version = project()["project"]["version"]
    ours = {service["image"] for service in SERVICES.values() if "build" in service}
    assert ours == {f"amun-{image}:{version}" for image in IMAGES}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_its_process_itself_as_an_ordinary_user(image: str) -> None:
    assert said("USER", image) == ["10001:10001"]
    after = [what for stage, what, _ in instructions() if stage == image]
    assert "RUN" not in after[after.index("USER") :], "what runs as this user could write what the process loads"
    (command,) = said("CMD", image)
    assert isinstance(json.loads(command), list), "a shell between the container and the process would keep its signals"


@pytest.mark.parametrize("image", IMAGES)
def test_pip_installs_what_is_pinned_and_no_more(image: str) -> None:
    steps = [step.strip() for words in said("RUN", image) for step in words.split("&&")]
    installs = [step for step in steps if step.startswith("pip install")]
    assert f"pip install --no-deps -r requirements.{image}.txt" in installs
    assert [step for step in installs if "--no-deps" not in step and f"-c requirements.{image}.txt" not in step] == []
    assert "pip check" in steps


def test_the_torch_that_is_built_by_default_is_the_pinned_one() -> None:
    assert said("ARG") == [f'TORCH_REQUIREMENT="torch=={pins()["torch"]}"']


def test_no_image_holds_a_secret() -> None:
    named = re.compile(r"password|secret|token|api_?key", re.IGNORECASE)
    assert [words for keyword in ("ENV", "ARG", "LABEL") for words in said(keyword) if named.search(words)] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_gains_no_privilege(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode"} & set(service) == set()


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_writes_to_named_volumes_and_memory_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    mounts = [mount.replace(":-", "=").split(":") for mount in service["volumes"]]
    folders = [mount for mount in mounts if not re.fullmatch(r"[a-z]+", mount[0])]  # of the host
    assert [mount for mount in folders if mount[-1] != "ro"] == []
