"""Dependencies: declared where they are imported, pinned to what runs here, and never below a mended advisory."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.supply.declared import (
    ALONE,
    BOTH,
    ROOT,
    build_requirements,
    closure,
    declared,
    extras,
    floors,
    further,
    pins,
)
from tests.supply.images import IMAGES, path, text

# Who may import whose dependencies. service and worker hold what both need, and their own extra. What never leaves a
# checkout, tests and benchmarks, may also import what these need in turn.
OF = {
    "models": (BOTH, *further()),
    "migrations": (BOTH,),
    "service": (BOTH, "service", *further()),
    "worker": (BOTH, "worker", *further()),
    "tests": (BOTH, *extras()),
    "benchmarks": (BOTH, *extras(), ALONE),
}
# Declared without an import: what SQLAlchemy, Celery and the containers load by name, and tools that are run.
BY_NAME = {
    "psycopg": "the driver in postgresql+psycopg://",
    "redis": "Celery's broker in redis://",
    "uvicorn": "the API's command",
    "import-linter": "make lint",
    "mypy": "make lint",
    "ruff": "make lint",
    "bandit": "make lint",
    "pre-commit": "the hooks",
    "pytest-timeout": "the setting `timeout`",
    "pytest-xdist": "the option -n",
    "schemathesis": "make fuzz",
}
# The first release without a published flaw that this service is open to, and the flaw.
MENDED = {
    "torch": ("2.10", "CVE-2025-32434, CVE-2026-24747: code runs in torch.load(weights_only=True)"),
    "pillow": ("12.3", "CVE-2026-55798, CVE-2026-59197 to 59200: crafted images"),
    "starlette": ("1.3.1", "PYSEC-2026-248: a path changes the host of request.url; and 1.3.1: forms without a limit"),
    "httpcore": ("1.0.9", "CVE-2025-43859: older ones refuse the h11 that reads chunks right"),
    "setuptools": ("78.1.1", "CVE-2025-47273: a package's page on an index writes anywhere"),
}


@cache
def distributions() -> dict[str, set[str]]:
    return {module: {canonicalize_name(name) for name in names} for module, names in packages_distributions().items()}


@cache
def imported(folder: str) -> dict[str, set[str]]:
    """The third-party modules that the folder's modules import, inside functions as well, and who may bring each."""
    ours = {*OF, *sys.stdlib_module_names}
    modules = {name.split(".")[0] for file in (ROOT / folder).rglob("*.py") for name in _imports(file)} - ours
    return {module: distributions().get(module, {canonicalize_name(module)}) for module in modules}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("folder", OF)
def test_what_a_folder_imports_is_declared_for_it(folder: str) -> None:
    groups = declared()
    allowed = {canonicalize_name(each.name) for group in OF[folder] for each in groups[group]}
    allowed |= set(pins()) if folder in ("tests", "benchmarks") else set()
    assert [module for module, owners in imported(folder).items() if not owners & allowed] == []


def test_nothing_is_declared_that_nobody_needs() -> None:
    groups = declared()
    names = {canonicalize_name(each.name) for group in (BOTH, *extras()) for each in groups[group]}
    brought = {name for folder in OF for owners in imported(folder).values() for name in owners}
    assert names - brought - set(BY_NAME) == set()


def test_every_dependency_and_what_it_needs_in_turn_is_pinned_at_the_version_that_the_tests_run_with() -> None:
    groups = declared()
    needed = closure([*chain.from_iterable(groups[group] for group in (BOTH, *extras())), *build_requirements()])
    pinned = pins()
    assert set(pinned) == needed
    here = {name: version(name).partition("+")[0] for name in needed}
    assert {name: pinned[name] for name in needed} == here


def test_no_pin_is_below_its_floor() -> None:
    pinned = pins()
    assert [name for name, floor in floors().items() if Version(pinned[name]) < Version(floor)] == []


@pytest.mark.parametrize("name", MENDED)
def test_a_floor_is_never_below_the_release_that_mended_an_advisory(name: str) -> None:
    assert Version(floors()[name]) >= Version(MENDED[name][0])


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_installs_exactly_what_its_process_needs(image: str) -> None:
    assert path(image).read_text() == text(image), "`make requirements` writes it"
