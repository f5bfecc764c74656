"""What a deploy does: an API process that is told to stop ends what it has begun, and another goes on at once.

That its streams end is in test_following, that a worker gives its job back in tests/worker/test_tasks.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import httpx
from sqlalchemy import select

from models.base import now
from models.records import Lease, Role, Upload
from models.session import Database
from models.settings import Settings
from service.dispatcher import Dispatcher
from service.embedded import api_command, environment, free_port
from tests.service.conftest import World
from tests.service.serving import eventually
from tests.service.test_access_matrix import CHECKPOINT
from tests.service.test_following import answers


def test_an_api_process_ends_what_it_has_begun_gives_its_lease_back_and_is_gone(sqlite_settings: Settings) -> None:
    database = Database(sqlite_settings.database)
    operator = World(database, sqlite_settings).key(Role.OPERATOR)
    port = free_port()
    process = subprocess.Popen(
        api_command("127.0.0.1", port),
        env=environment(sqlite_settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    begun, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield CHECKPOINT[:20]
        begun.set()
        go_on.wait(20)
        yield CHECKPOINT[20:]

    answered: list[int] = []

    def upload() -> None:
        name = hashlib.sha256(CHECKPOINT).hexdigest()
        headers = operator | {"Content-Length": str(len(CHECKPOINT))}
        answered.append(httpx.put(f"{url}/v1/uploads/{name}", headers=headers, content=body(), timeout=20).status_code)

    try:
        assert eventually(lambda: answers(url), 30)
        assert eventually(lambda: holder(database) is not None, 20)
        thread = threading.Thread(target=upload)
        thread.start()
        assert begun.wait(20)
        time.sleep(0.3)  # the first half is on its way
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        go_on.set()
        thread.join(20)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert answered == [201]
    with database.read() as session:
        assert session.scalar(select(Upload.size)) == len(CHECKPOINT)
    assert holder(database) is None
    assert process.returncode in (0, -signal.SIGTERM)  # the server ends by the signal that it was told with
    assert "Traceback" not in output
    assert all(json.loads(line) for line in output.splitlines())
    successor = Dispatcher(database, sqlite_settings)
    successor.round()
    assert holder(database) == successor.holder
    database.dispose()


def holder(database: Database) -> str | None:
    """Who holds the dispatcher's lease."""
    with database.read() as session:
        return session.scalar(select(Lease.holder).where(Lease.expires_at > now()))
