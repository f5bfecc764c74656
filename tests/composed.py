"""docker-compose.yml read as Compose reads it: variables filled in, short forms spelled out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
GRACE_SECONDS = 10.0  # Compose's own, where the file says nothing
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<text>[^}]*))?\})")


@dataclass(frozen=True)
class Check:
    """A health check: exit status 0 within so many seconds means healthy."""

    command: list[str]
    timeout: float


@dataclass(frozen=True)
class Part:
    """A service of the file."""

    name: str
    command: list[str]  # empty: the image's own
    environment: dict[str, str]
    volumes: dict[str, str]  # path in the container -> named volume, or folder of the host
    after: dict[str, str]  # service -> condition
    check: Check | None
    grace_seconds: float
    built_here: bool
    restarts: bool
    scale: int


def parts(profile: str, variables: Mapping[str, str]) -> list[Part]:
    """What `docker compose --profile …` starts, each after those that it depends on.

    Raises ValueError for a variable that the file requires and ``variables`` lacks.
    """
    services: dict[str, dict[str, Any]] = _filled(yaml.safe_load(FILE.read_text())["services"], variables)
    chosen = {
        name: _part(name, service)
        for name, service in services.items()
        if profile in service.get("profiles", [profile])
    }
    order = TopologicalSorter({name: part.after.keys() for name, part in chosen.items()})
    return [chosen[name] for name in order.static_order()]


def filled(text: str, variables: Mapping[str, str]) -> str:
    """``text`` with ${NAME}, ${NAME:-default}, ${NAME-default} and ${NAME:?message} resolved; $$ is a dollar."""

    def value(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        given, how = variables.get(found["name"]), found["how"] or ""
        if given is not None and (given or not how.startswith(":")):
            return given
        if how.endswith("?"):
            raise ValueError(f"{found['name']}: {found['text']}")
        return found["text"] or ""

    return _VARIABLE.sub(value, text)


def _filled(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, variables) for value in node]
    return filled(node, variables) if isinstance(node, str) else node


def _part(name: str, service: dict[str, Any]) -> Part:
    check = service.get("healthcheck")
    return Part(
        name=name,
        command=service.get("command", []),
        environment={key: str(value) for key, value in service.get("environment", {}).items()},
        volumes={target: source for source, target in (volume.split(":")[:2] for volume in service.get("volumes", []))},
        after={other: how["condition"] for other, how in service.get("depends_on", {}).items()},
        check=Check(_command(check["test"]), _seconds(check["timeout"])) if check else None,
        grace_seconds=_seconds(service["stop_grace_period"]) if "stop_grace_period" in service else GRACE_SECONDS,
        built_here="build" in service,
        restarts=service["restart"] == "unless-stopped",
        scale=int(service.get("scale", 1)),
    )


def _command(test: list[str]) -> list[str]:
    how, *words = test
    return ["/bin/sh", "-c", *words] if how == "CMD-SHELL" else words


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))
