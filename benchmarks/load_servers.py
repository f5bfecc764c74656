"""A Redis server that lives as long as a benchmark; PostgreSQL's is in benchmarks.lists."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.conftest import Server, find_program, free_port, unprivileged


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Its URL. It appends to a file, as docker-compose.yml has it. Raises RuntimeError where there is none."""
    program = find_program("redis-server")
    if program is None:
        raise RuntimeError("Redis is not installed: put redis-server on PATH")
    with tempfile.TemporaryDirectory(prefix="amun-bench-") as name:
        folder, port, user = Path(name), free_port(), unprivileged()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        options = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", name]
        server = Server([program, *options], folder, signal.SIGTERM)

        def ready() -> bool:
            with contextlib.suppress(redis.ConnectionError), redis.Redis(port=port, socket_connect_timeout=1) as client:
                return bool(client.ping())
            return False

        try:
            server.wait(ready)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.stop()
