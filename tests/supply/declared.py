"""What pyproject.toml and requirements.txt say, and what the installed packages ask for: read by tests and generators."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent.parent
BOTH = "both"  # what models/ needs: the dependencies without an extra
ALONE = "bench"  # has a requirements file and an environment of its own


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def extras() -> list[str]:
    """Those that requirements.txt pins and the tests run with."""
    return [extra for extra in project()["project"]["optional-dependencies"] if extra != ALONE]


def further() -> list[str]:
    """Extras of no process alone, such as tracing: any process may import what they bring, and both images hold it."""
    return [extra for extra in extras() if extra not in ("service", "worker", "dev")]


def declared() -> dict[str, list[Requirement]]:
    """The requirements of each extra, and under ``both`` those of every process."""
    said = project()["project"]
    groups = {BOTH: said["dependencies"], **said["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def build_requirements() -> list[Requirement]:
    return [Requirement(line) for line in project()["build-system"]["requires"]]


def floors() -> dict[str, str]:
    """The lowest version that is declared, by name. Every declaration is ``name>=version`` and nothing more."""
    groups = declared()
    every = [*groups[BOTH], *(each for extra in extras() for each in groups[extra]), *build_requirements()]
    return {canonicalize_name(each.name): _floor(each) for each in every}


def _floor(requirement: Requirement) -> str:
    (bound,) = requirement.specifier
    if bound.operator != ">=":
        raise ValueError(f"{requirement}: a dependency has a floor and no other bound")
    return bound.version


def pins(path: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """The exact versions of a requirements file, by name, without those that are for another Python than this one."""
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+]+)(?:; (python_full_version .+))?", line)
        if match is None:
            raise ValueError(f"{path.name}: {line!r} is no exact version")
        if match[3] is None or Marker(match[3]).evaluate():
            found[canonicalize_name(match[1])] = match[2]
    return found


def closure(wanted: list[Requirement], **python: str) -> set[str]:
    """Names of what ``wanted`` installs, with all that it needs in turn, as the installed packages say.

    ``python`` is what markers see of another Python than this one: ``python_full_version``.
    """
    found: set[str] = set()
    waiting = [(canonicalize_name(each.name), frozenset(each.extras)) for each in wanted]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate(python | {"extra": extra}) for extra in extras | {""}
            ):
                further = (canonicalize_name(needed.name), frozenset(needed.extras))
                if further not in seen:
                    seen.add(further)
                    waiting.append(further)
    return found
