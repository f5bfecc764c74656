"""The whole service as processes: API, worker and the real pipeline, embedded and on PostgreSQL with Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from models.records import Role
from models.secrets import API_KEY_PEPPER, load_or_create
from models.session import Database
from models.settings import Settings
from service import schema, security
from service.embedded import Embedded, free_port
from service.plain import NO_AUTHORITY

PATIENCE_SECONDS = 480.0  # what takes a minute alone took seven where five tests shared two slow cores
POLL_SECONDS = 0.5  # more often, and the answers keep the job waiting for a core
SHOP = "shop"
# Small enough for two slow cores; whether such an audit passes does not matter here.
MODEL = {
    "name": "digits-cnn",
    "training_set": "digits",
    "network": {"name": "small-cnn", "width": 8},
    "recipe": {"epochs": 6, "batch_size": 64, "learning_rate": 0.05},
    "policy": {
        "references": 8,
        "rehearsal": {
            "models": 2,
            "sizes": [80],
            "requests": 1,
            "shown_on": 1,
            "learning_rates": [0.01],
            "weight_scales": [1.0],
        },
        "audit": {"tolerance": 0.1},
        "compare_retrained": True,
    },
}


class Service:
    """A running service and a client for each role."""

    def __init__(self, settings: Settings, application: str = SHOP) -> None:
        self.settings = settings
        schema.upgrade(settings)
        pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
        database = Database(settings.database)
        with database.write() as session:
            self.keys = {
                role: security.create_key(
                    session, pepper, role, application=application if role is Role.APPLICATION else None
                )
                for role in Role
            }
        database.dispose()
        self.embedded = Embedded(settings, "127.0.0.1", free_port())
        self._clients: list[httpx.Client] = []

    def client(self, role: Role) -> httpx.Client:
        made = httpx.Client(
            base_url=self.embedded.url,
            headers={"Authorization": f"Bearer {self.keys[role]}"},
            timeout=30,
            verify=NO_AUTHORITY,
        )
        self._clients.append(made)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.embedded.stop()

    def wait(self, what: str, ready: Callable[[], Any]) -> Any:
        """What ``ready`` returns once it is true. A worker that died meanwhile is started again, as `amun up` does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self.embedded.watch()
            found = ready()
            if found:
                return found
            time.sleep(POLL_SECONDS)
        pytest.fail(f"{what} did not come: {self.embedded.log('worker').read_text()[-3000:]}")

    def ended(self, operator: httpx.Client, job: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = operator.get(f"/v1/jobs/{job}").json()
            return found if found["status"] in ("succeeded", "failed", "cancelled") else None

        ended: dict[str, Any] = self.wait(f"the end of job {job}", look)
        return ended

    def processes(self) -> list[psutil.Process]:
        """Every process that was started with this service's data folder, other than the tests themselves."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AMUN_DATA_DIR") == str(self.settings.data_dir):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def trained(self, operator: httpx.Client) -> None:
        """Register digits and train the model on them, unless an earlier test did."""
        if operator.get(f"/v1/models/{MODEL['name']}").status_code == 200:
            return
        registered = operator.post(
            "/v1/training-sets",
            json={
                "name": "digits",
                "applications": [SHOP],
                "source": {"kind": "builtin", "path": "digits"},
                "controls": {"share": 0.5},
            },
        )
        assert registered.status_code == 202, registered.text
        assert self.ended(operator, registered.json()["job"]["id"])["error"] is None
        trained = operator.post("/v1/models", json=MODEL)
        assert trained.status_code == 202, trained.text
        assert self.ended(operator, trained.json()["job"]["id"])["error"] is None


@pytest.fixture(scope="module", params=["embedded", "production"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """SQLite with the filesystem broker, then PostgreSQL with Redis. Its tests share what was trained."""
    fast = {"lease_seconds": 4, "heartbeat_seconds": 1, "dispatch_seconds": 0.5, "threads": 1, "seed": 1}
    data = tmp_path_factory.mktemp(request.param) / "data"
    if request.param == "embedded":
        settings = Settings(data_dir=data, **fast)  # type: ignore[arg-type]
    else:
        settings = Settings(
            data_dir=data,
            database_url=request.getfixturevalue("postgres_of_module"),
            broker_url=request.getfixturevalue("redis_url"),
            **fast,  # type: ignore[arg-type]
        )
    made = Service(settings)
    with made.embedded:
        yield made
        made.close()
    left = made.processes()
    assert left == [], "the service left processes behind"
