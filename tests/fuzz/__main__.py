"""Schemathesis against the live service, as each role at once, with all its checks: ``python -m tests.fuzz --seconds 30``.

A service of its own on loopback: API, dispatcher and a worker whose pipeline replays a recorded job, so that jobs end and
nothing is computed. The application's run has a second application beside it that must not see what is the first one's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.records import Role, VersionStatus
from models.session import Database
from models.settings import Settings
from service import schema
from service.embedded import Embedded, free_port
from tests.service.conftest import World

ROOT = Path(__file__).resolve().parent.parent.parent
APPLICATION, RIVAL = "application", "rival"
GRACE_SECONDS = 120  # the last test case of a run may still be under way


def main() -> int:
    """0 where no role's run found anything."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=int, default=30, help="for each role")
    asked.add_argument("--role", action="append", choices=[role.value for role in Role], help="default: each")
    asked.add_argument("--seed", type=int, help="to repeat a run")
    arguments = asked.parse_args()
    roles = arguments.role or [role.value for role in Role]
    with tempfile.TemporaryDirectory(prefix="amun-fuzz-") as folder:
        settings = Settings(
            data_dir=Path(folder) / "data",
            pipeline=f"{sys.executable} {ROOT / 'tests' / 'replay.py'} ok",
            dispatch_seconds=0.2,
            import_root=Path(folder),
            rate_limit="",
            failed_auth_limit="",
        )
        keys = _furnish(settings)
        with Embedded(settings, "127.0.0.1", free_port()) as service:
            with ThreadPoolExecutor(len(roles)) as together:
                ends = together.map(lambda role: _fuzz(service.url, role, keys, Path(folder), arguments), roles)
            failed = [role for role, well in zip(roles, ends, strict=True) if not well]
            service.watch()
        if failed:  # the folder goes with the logs; what the answers' trace ids stand for must not
            print("".join(line for line in service.log("api").open() if '"level": "error"' in line))
    print(f"no failure as {', '.join(roles)}" if not failed else f"FAILED as {', '.join(failed)}")
    return 1 if failed else 0


def _furnish(settings: Settings) -> dict[str, str]:
    """What the examples in the documentation name, and a key for each role and for a rival application."""
    settings.data_dir.mkdir(parents=True)
    schema.upgrade(settings)
    database = Database(settings.database)
    world = World(database, settings)
    keys = {
        "operator": world.key(Role.OPERATOR),
        "compliance": world.key(Role.COMPLIANCE),
        APPLICATION: world.key(Role.APPLICATION, "shop"),
        RIVAL: world.key(Role.APPLICATION, "rival"),
    }
    digits = world.training_set("digits", "shop")
    world.model("digits-cnn", "digits")
    world.files(digits)
    world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1)
    world.report("digits-cnn", 2, "inconclusive")
    world.training_set("faces", "rival")
    world.model("faces-cnn", "faces")
    database.dispose()
    return {name: headers["Authorization"] for name, headers in keys.items()}


def _fuzz(url: str, role: str, keys: dict[str, str], folder: Path, arguments: argparse.Namespace) -> bool:
    users = {name: key for name, key in keys.items() if name == role or (role, name) == (APPLICATION, RIVAL)}
    auth = {
        "auth": [
            {"name": name, "fixedHeaders": [{"name": "Authorization", "value": key}]} for name, key in users.items()
        ]
    }
    (folder / f"{role}.json").write_text(json.dumps(auth))
    peers = f"peers = {json.dumps(list(users))}" if len(users) > 1 else ""
    config = folder / f"{role}.toml"
    shared = (Path(__file__).parent / "schemathesis.toml").read_text()
    config.write_text(
        f'{shared}\n[auth.wfc]\npath = "{folder / f"{role}.json"}"\nuser = "{role}"\n{peers}\n', encoding="utf-8"
    )
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(config),
        "run",
        f"{url}/openapi.json",
    ]
    command += ["--max-time", str(arguments.seconds), "--checks", "all", "--continue-on-failure"]
    if arguments.seed is not None:
        command += ["--seed", str(arguments.seed)]
    own = folder / role  # where it keeps what it learns from a run
    own.mkdir()
    done = subprocess.run(
        command,
        cwd=own,
        timeout=arguments.seconds * 3 + GRACE_SECONDS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    print(f"== {role}\n{done.stdout.decode(errors='replace')}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
